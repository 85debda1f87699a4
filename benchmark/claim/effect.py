"""One effect of the mixer: the mixed model, its check, the levels and the datasets apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.data import ClaimError, Outcomes
from benchmark.claim.design import Design, build_design, connected_strata, family_cells
from benchmark.claim.mixed_model import Codes, MixedFit, TestedCoefficient, fit_cluster_robust
from benchmark.claim.permutation import permutation_test
from benchmark.claim.result import (
    ClaimMap,
    DatasetEffect,
    Effect,
    LevelEffect,
    Permutation,
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


def estimate_effect(
    clean: pd.DataFrame,
    outcomes: Outcomes,
    claim: Claim,
    metric: str,
    map_name: ClaimMap,
    design: Design | None = None,
) -> Effect:
    """Fit the contrast on the rows of `clean` (unshifted, seeds averaged).

    Raises:
        ClaimError: the contrast cannot be estimated.
    """
    design = design or build_design(clean, outcomes.values, claim)
    y = outcomes.values[design.rows]
    used = clean.iloc[design.rows]
    if np.ptp(y) == 0:
        raise ClaimError("every checkpoint has the same value, so there is nothing to compare")
    fit = design.fit(y)
    datasets = _per_dataset(clean, outcomes, claim)
    known = [item.estimate for item in datasets if item.estimate is not None]
    in_contrast = used["mixer"].isin(claim.contrast).to_numpy()
    return Effect(
        metric=metric,
        map=map_name,
        estimate=as_interval(fit.test(0, claim.alpha)),
        cluster_robust=as_interval(
            # Whole families, also those with two mixers: the check assumes the least.
            fit_cluster_robust(y, design.x, _codes(used["family"]), 0, claim.alpha)
        ),
        covariates=design.covariates,
        left_out=design.left_out,
        rows=len(y),
        checkpoints=int(used["model"].nunique()),
        families=_families(used, claim),
        family_sd=_deviation(fit.family_variance),
        checkpoint_sd=_deviation(fit.checkpoint_variance),
        residual_sd=float(np.sqrt(fit.residual_variance)),
        at_floor=int(outcomes.at_floor[design.rows][in_contrast].sum()),
        contrast_rows=int(in_contrast.sum()),
        levels=_levels(used, _by_mixer(fit, design, claim)),
        datasets=datasets,
        disagreement_p=disagreement(known, claim.alpha),
    )


def _by_mixer(fit: MixedFit, design: Design, claim: Claim) -> dict[str, RatioInterval]:
    return {
        name.removeprefix("mixer "): as_interval(fit.test(index, claim.alpha))
        for index, name in enumerate(design.names)
        if name.startswith("mixer ")
    }


def _codes(labels: pd.Series) -> Codes:
    return np.unique(labels.to_numpy(dtype=str), return_inverse=True)[1]


def _deviation(variance: float | None) -> float | None:
    return None if variance is None else float(np.sqrt(max(variance, 0.0)))


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
    clean: pd.DataFrame, outcomes: Outcomes, claim: Claim
) -> tuple[DatasetEffect, ...]:
    """Fit the contrast within each dataset, with the covariates that it can carry."""
    effects = []
    for dataset in sorted(clean["dataset"].unique()):
        rows = np.flatnonzero(clean["dataset"] == dataset)
        part, y = clean.iloc[rows], outcomes.values[rows]
        families = _families(part[np.isfinite(y)], claim)
        try:
            design = build_design(part, y, claim)
        except ClaimError as error:
            effects.append(
                DatasetEffect(dataset=dataset, families=families, estimate=None, problem=str(error))
            )
            continue
        tested = design.fit(y[design.rows]).test(0, claim.alpha)
        effects.append(
            DatasetEffect(dataset=dataset, families=families, estimate=as_interval(tested))
        )
    return tuple(effects)


def disagreement(estimates: Sequence[RatioInterval], alpha: float) -> float | None:
    """Test whether the ratios of several datasets are the same.

    Welch's test (1951, Biometrika 38) on log ratios: each has a variance and degrees of freedom
    of its own, so small datasets make the test careful rather than eager. Families that meet
    several datasets correlate the ratios, which the test ignores; that too makes it careful.

    Args:
        estimates: one ratio a dataset, with its 1 - alpha interval.
        alpha: of the intervals.

    Returns:
        The p value; None with fewer than two datasets.
    """
    if len(estimates) < 2:
        return None
    from scipy import stats

    k = len(estimates)
    df = np.array([item.df for item in estimates])
    low, high = np.log([(item.low, item.high) for item in estimates]).T
    errors = (high - low) / (2 * stats.t.ppf(1 - alpha / 2, df))
    weights = 1 / errors**2
    shares = weights / weights.sum()
    logs = np.log([item.ratio for item in estimates])
    between = float(weights @ (logs - shares @ logs) ** 2) / (k - 1)
    spread = float(((1 - shares) ** 2 / df).sum())
    statistic = between / (1 + 2 * (k - 2) / (k**2 - 1) * spread)
    return float(stats.f.sf(statistic, k - 1, (k**2 - 1) / (3 * spread)))


def permute_labels(
    clean: pd.DataFrame, outcomes: Outcomes, claim: Claim, design: Design
) -> Permutation:
    """Exchange labels among the families of the rows that `design` uses."""
    used = clean.iloc[design.rows]
    first, second = claim.contrast
    labels = used["mixer"].map({first: 1, second: 0}).fillna(-1).to_numpy(dtype=int)
    return permutation_test(
        outcomes.values[design.rows],
        design.x[:, 1:],
        design.nesting,
        family_cells(used),
        labels,
        connected_strata(used["family"], used["dataset"]),
    )
