"""One effect of the mixer: the ratio, the levels, the datasets apart, and a new dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.data import ClaimError
from benchmark.claim.design import Design, build_design, connected_strata, family_cells
from benchmark.claim.estimating_equation import EstimatingEquation
from benchmark.claim.measurement import SquaredErrors
from benchmark.claim.mixed_model import Codes, TestedCoefficient
from benchmark.claim.new_dataset import predict_new_dataset
from benchmark.claim.permutation import LabelExchange
from benchmark.claim.result import (
    ClaimMap,
    DatasetEffect,
    Effect,
    LevelEffect,
    RatioInterval,
)
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd


def as_interval(tested: TestedCoefficient) -> RatioInterval:
    """Return a difference of logs as a ratio."""
    ratio, low, high = np.exp(np.clip([tested.estimate, tested.low, tested.high], -700, 700))
    return RatioInterval(
        ratio=float(ratio),
        low=float(low),
        high=float(high),
        p_value=tested.p_value,
        df=tested.df,
    )


def contrast_equation(
    clean: pd.DataFrame, errors: SquaredErrors, design: Design
) -> EstimatingEquation:
    """Fit the equation on the rows of `clean` that `design` uses.

    Raises:
        ClaimError: all errors are the same, so that there is nothing to compare.
    """
    used = errors.take(design.rows)
    if np.ptp(used.squared) == 0:
        raise ClaimError("every checkpoint has the same value, so there is nothing to compare")
    # Whole families are independent, also those with two mixers: the test assumes the least.
    clusters = _codes(clean.iloc[design.rows]["family"])
    return EstimatingEquation.fit(design.x, used, design.nesting, clusters)


def ratio_interval(equation: EstimatingEquation, alpha: float, index: int = 0) -> RatioInterval:
    """Return the ratio of a column with the range of values that its test does not reject."""
    tested = equation.test(0.0, index)
    low, high = equation.interval(alpha, index)
    return RatioInterval(
        ratio=float(np.exp(equation.estimate(index))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        p_value=tested.p_value,
        df=tested.df,
    )


def estimate_effect(
    clean: pd.DataFrame,
    errors: SquaredErrors,
    claim: Claim,
    metric: str,
    map_name: ClaimMap,
    design: Design,
    equation: EstimatingEquation,
) -> Effect:
    """Return the contrast on the rows of `clean` (unshifted, seeds averaged)."""
    used = clean.iloc[design.rows]
    in_contrast = used["mixer"].isin(claim.contrast).to_numpy()
    sigma, family, checkpoint = equation.correlation
    nesting = design.nesting
    new, problem = predict_new_dataset(equation, used["dataset"].to_numpy(dtype=str), claim.alpha)
    levels = {
        name.removeprefix("mixer "): ratio_interval(equation, claim.alpha, index)
        for index, name in enumerate(design.names)
        if name.startswith("mixer ")
    }
    return Effect(
        metric=metric,
        map=map_name,
        estimate=levels[claim.contrast[0]],
        new_dataset=new,
        new_dataset_problem=problem,
        covariates=design.covariates,
        left_out=design.left_out,
        rows=len(used),
        checkpoints=int(used["model"].nunique()),
        families=_families(used, claim),
        family_sd=_deviation(sigma, family) if nesting.has_family_effect else None,
        checkpoint_sd=_deviation(sigma, checkpoint) if nesting.has_checkpoint_effect else None,
        residual_sd=_deviation(
            sigma, 1 - checkpoint - (family if nesting.has_family_effect else 0)
        ),
        unresolved=int((~errors.resolved[design.rows] & in_contrast).sum()),
        contrast_rows=int(in_contrast.sum()),
        levels=_levels(used, levels),
        datasets=_per_dataset(clean, errors, claim, design.covariates),
    )


def _deviation(sigma: float, share: float) -> float:
    return float(sigma * np.sqrt(share))


def _codes(labels: pd.Series) -> Codes:
    return np.unique(labels.to_numpy(dtype=str), return_inverse=True)[1]


def _families(used: pd.DataFrame, claim: Claim) -> dict[str, int]:
    return {
        mixer: int(used.loc[used["mixer"] == mixer, "family"].nunique()) for mixer in claim.contrast
    }


def _levels(used: pd.DataFrame, estimates: dict[str, RatioInterval]) -> tuple[LevelEffect, ...]:
    return tuple(
        LevelEffect(
            mixer=str(mixer),
            families=int(group["family"].nunique()),
            checkpoints=int(group["model"].nunique()),
            estimate=estimates.get(str(mixer)),
        )
        for mixer, group in used.groupby("mixer")
    )


def _per_dataset(
    clean: pd.DataFrame, errors: SquaredErrors, claim: Claim, covariates: tuple[str, ...]
) -> tuple[DatasetEffect, ...]:
    """Estimate the contrast within each dataset, with the covariates that it can carry."""
    effects = []
    for dataset in sorted(clean["dataset"].unique()):
        rows = np.flatnonzero(clean["dataset"] == dataset)
        part, own = clean.iloc[rows], errors.take(rows)
        families = _families(part[np.isfinite(own.squared)], claim)
        estimate, problem = None, None
        try:
            design = build_design(part, own.squared, claim, covariates)
            estimate = ratio_interval(contrast_equation(part, own, design), claim.alpha)
        except ClaimError as error:
            problem = str(error)
        effects.append(
            DatasetEffect(dataset=dataset, families=families, estimate=estimate, problem=problem)
        )
    return tuple(effects)


def label_exchange(
    clean: pd.DataFrame, claim: Claim, design: Design, equation: EstimatingEquation
) -> LabelExchange:
    """Prepare the exchange of labels among the families of the rows that `design` uses."""
    used = clean.iloc[design.rows]
    first, second = claim.contrast
    labels = used["mixer"].map({first: 1, second: 0}).fillna(-1).to_numpy(dtype=int)
    strata = connected_strata(used["family"], used["dataset"])
    return LabelExchange.of(equation, family_cells(used), labels, strata)
