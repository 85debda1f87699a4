"""The contrast under every reasonable analysis, so that nobody need wonder about another one.

Errors are analysed on the log scale by a mixed model, with a floor under them (`log_outcomes`): it
serves every estimator alike. The verdict does not rest on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.bin_variants import VARIANTS
from benchmark.claim.data import COVARIATE_COLUMNS, ClaimError, log_outcomes
from benchmark.claim.design import Design, build_design
from benchmark.claim.effect import as_interval
from benchmark.claim.mixed_model import Vector
from benchmark.claim.published_table import TABLE_METRIC
from benchmark.claim.result import CLAIM_MAPS, ClaimMap, Specification, SpecificationCurve, Unit
from benchmark.registry import Claim
from benchmark.statistics import METRICS

if TYPE_CHECKING:
    import pandas as pd

ESTIMATORS: dict[str, int | None] = {
    **{metric.name: metric.bins for metric in METRICS.values() if metric.outcome},
    **{metric.name: metric.bins for metric in VARIANTS},
    TABLE_METRIC: None,
}
"""Every metric that is an outcome of the claim, with its number of bins."""


def specification_curve(
    averaged: pd.DataFrame, claim: Claim, covariates: tuple[str, ...], unit: Unit = "family"
) -> SpecificationCurve:
    """Estimate the contrast for estimator x bins x map x covariate set x shift.

    Args:
        averaged: rows of `checkpoints`, shifted splits included. A shifted split of a
            dataset has a level of its own.
        claim: the contrast.
        covariates: columns that the primary analysis could use; all their subsets by group
            are tried.
        unit: what is replicated.
    """
    found: list[Specification] = []
    failed = 0
    for shifted in (False, True):
        part = averaged[averaged["shifted"] == shifted].reset_index(drop=True)
        if part.empty:
            continue
        part["dataset"] = part["dataset"] + "/" + part["split"]
        designs = _Designs(part, claim, unit)
        for metric, bins, map_name in _outcomes(part):
            y = log_outcomes(part, metric, map_name)
            for chosen in _covariate_sets(covariates):
                design = designs.of(y, chosen)
                if design is None or np.ptp(y[design.rows]) == 0:
                    failed += 1
                    continue
                tested = design.fit(y[design.rows]).test(0, claim.alpha)
                found.append(
                    Specification(
                        metric=metric,
                        bins=bins,
                        map=map_name,
                        covariates=design.covariates,
                        shifted=shifted,
                        rows=len(design.rows),
                        estimate=as_interval(tested),
                    )
                )
    return _summary(found, failed)


class _Designs:
    """Designs by rows and covariates: all metrics of a split share them."""

    def __init__(self, part: pd.DataFrame, claim: Claim, unit: Unit) -> None:
        self.part, self.claim, self.unit = part, claim, unit
        self.known: dict[tuple[bytes, tuple[str, ...]], Design | None] = {}

    def of(self, y: Vector, covariates: tuple[str, ...]) -> Design | None:
        key = (np.isfinite(y).tobytes(), covariates)
        if key not in self.known:
            try:
                self.known[key] = build_design(self.part, y, self.claim, covariates, self.unit)
            except ClaimError:
                self.known[key] = None
        return self.known[key]


def _outcomes(part: pd.DataFrame) -> Iterator[tuple[str, int | None, ClaimMap]]:
    for metric, bins in ESTIMATORS.items():
        for map_name in CLAIM_MAPS.values():
            column = f"{metric}_{map_name}"
            if column in part.columns and part[column].notna().any():
                yield metric, bins, map_name


def _covariate_sets(covariates: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield every subset by group: the recipe flags come and go together."""
    groups = [
        tuple(column for column in columns if column in covariates)
        for columns in COVARIATE_COLUMNS.values()
    ]
    known = {column for group in groups for column in group}
    groups = [group for group in groups if group]
    groups += [(column,) for column in covariates if column not in known]
    for size in range(len(groups) + 1):
        for chosen in combinations(groups, size):
            yield tuple(column for group in chosen for column in group)


def _summary(found: list[Specification], failed: int) -> SpecificationCurve:
    found = sorted(found, key=lambda item: item.estimate.ratio)
    return SpecificationCurve(
        specifications=tuple(found),
        below_one=sum(item.estimate.ratio < 1 for item in found),
        above_one=sum(item.estimate.ratio > 1 for item in found),
        excluding_one_below=sum(item.estimate.high < 1 for item in found),
        excluding_one_above=sum(item.estimate.low > 1 for item in found),
        not_estimable=failed,
    )
