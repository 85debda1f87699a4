"""The contrast under every reasonable analysis, so that nobody need wonder about another one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.data import (
    COVARIATE_COLUMNS,
    ClaimError,
    Design,
    build_design,
    log_outcomes,
)
from benchmark.claim.effect import as_interval
from benchmark.claim.mixed_model import Vector
from benchmark.claim.result import Moment, Specification, SpecificationCurve
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd

ESTIMATORS = (
    "debiased_calibration_error",
    "smooth_ece",
    "ks_calibration_error",
    "nll_calibration",
    "brier_calibration",
    "calibration_error",
)
_BINNED = re.compile(r"^(ece_(\d+)(?:_equal_mass|_equal_width)?)_(?:before|after)$")
MOMENTS: tuple[Moment, Moment] = ("before", "after")


def specification_curve(
    averaged: pd.DataFrame, claim: Claim, covariates: tuple[str, ...]
) -> SpecificationCurve:
    """Estimate the contrast for estimator x bins x moment x covariate set x shift.

    Args:
        averaged: rows of `average_seeds`, shifted splits included. A shifted split of a
            dataset has a level of its own.
        claim: the contrast.
        covariates: columns that the primary analysis could use; all their subsets by group
            are tried.
    """
    found: list[Specification] = []
    failed = 0
    for shifted in (False, True):
        part = averaged[averaged["shifted"] == shifted].reset_index(drop=True)
        if part.empty:
            continue
        part["dataset"] = part["dataset"] + "/" + part["split"]
        designs = _Designs(part, claim)
        for metric, bins, moment in _outcomes(part):
            y = log_outcomes(part, metric, moment).values
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
                        moment=moment,
                        covariates=design.covariates,
                        shifted=shifted,
                        rows=len(design.rows),
                        estimate=as_interval(tested),
                    )
                )
    return _summary(found, failed)


class _Designs:
    """Designs by rows and covariates: all metrics of a split share them."""

    def __init__(self, part: pd.DataFrame, claim: Claim) -> None:
        self.part, self.claim = part, claim
        self.known: dict[tuple[bytes, tuple[str, ...]], Design | None] = {}

    def of(self, y: Vector, covariates: tuple[str, ...]) -> Design | None:
        key = (np.isfinite(y).tobytes(), covariates)
        if key not in self.known:
            try:
                self.known[key] = build_design(self.part, y, self.claim, covariates)
            except ClaimError:
                self.known[key] = None
        return self.known[key]


def _outcomes(part: pd.DataFrame) -> Iterator[tuple[str, int | None, Moment]]:
    binned = {m.group(1): int(m.group(2)) for c in part.columns if (m := _BINNED.match(str(c)))}
    estimators: dict[str, int | None] = {**dict.fromkeys(ESTIMATORS), **binned}
    for metric, bins in estimators.items():
        for moment in MOMENTS:
            column = f"{metric}_{moment}"
            if column in part.columns and part[column].notna().any():
                yield metric, bins, moment


def _covariate_sets(covariates: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield every subset by group: the recipe flags come and go together."""
    groups = [
        tuple(column for column in columns if column in covariates)
        for columns in COVARIATE_COLUMNS.values()
    ]
    groups = [group for group in groups if group]
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
