"""Test the claim on a frame of runs: all parts, from the effect to the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.claim.bin_variants import with_bin_variants
from benchmark.claim.data import (
    ClaimError,
    checkpoints,
    dropped_runs,
    log_outcomes,
    seed_variance,
    split_off_unknown,
)
from benchmark.claim.design import build_design, declared_columns, dropped_checkpoints
from benchmark.claim.effect import estimate_effect, permute_labels
from benchmark.claim.matched_pairs import matched_pairs
from benchmark.claim.power import power_of
from benchmark.claim.result import (
    CLAIM_MAPS,
    ClaimMap,
    ClaimResult,
    Effect,
    Permutation,
    SpecificationCurve,
    VarianceShares,
    when,
)
from benchmark.claim.specification_curve import specification_curve
from benchmark.claim.variance_shares import variance_shares
from benchmark.claim.verdict import decide
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.claim.data import Outcomes
from benchmark.claim.design import Design


def evaluate(frame: pd.DataFrame, claim: Claim, metric: str) -> ClaimResult:
    """Test `claim` on a frame of runs (see `claim.evaluate_claim`).

    Raises:
        ClaimError: no run has the metric.
    """
    first = CLAIM_MAPS[claim.primary]
    column = f"{metric}_{first}"
    if column not in frame.columns or not (frame["status"] == "completed").any():
        raise ClaimError(f"no completed run has {column}, so there is nothing to test")
    averaged, unknown = split_off_unknown(checkpoints(with_bin_variants(frame)))
    clean = averaged[~averaged["shifted"]].reset_index(drop=True)
    primary, problem, design = _try_effect(clean, claim, metric, first)
    (other,) = set(CLAIM_MAPS.values()) - {first}
    secondary, _, _ = _try_effect(clean, claim, metric, other)
    permutation: Permutation | None = None
    repeated: tuple[Effect, ...] = ()
    shares, curve, power = VarianceShares(problem=problem), SpecificationCurve(), None
    dropped = dropped_runs(frame) + unknown
    if primary is not None and design is not None:
        outcomes = log_outcomes(clean, metric, first)
        permutation = permute_labels(clean, outcomes, claim, design)
        repeated = _repeat_without_gaps(clean, outcomes, claim, metric, design)
        shares = variance_shares(clean, outcomes.values, design)
        curve = specification_curve(averaged, claim, design.covariates)
        power = power_of(claim, primary, design, permutation)
        dropped += dropped_checkpoints(clean, design)
    return ClaimResult(
        contrast=claim.contrast,
        alpha=claim.alpha,
        equivalence_ratio=claim.equivalence_ratio,
        primary_map=first,
        metric=metric,
        primary=primary,
        primary_problem=problem,
        secondary=secondary,
        repeated=repeated,
        permutation=permutation,
        matched_pairs=matched_pairs(frame, clean, claim, metric),
        variance_shares=shares,
        specification_curve=curve,
        seed_variance=seed_variance(frame, metric, first),
        verdict=decide(claim, primary, problem, permutation, power, shares),
        dropped=tuple(dropped),
    )


def _try_effect(
    clean: pd.DataFrame, claim: Claim, metric: str, map_name: ClaimMap
) -> tuple[Effect | None, str | None, Design | None]:
    """Return (effect, None, design), or (None, why not, None)."""
    if f"{metric}_{map_name}" not in clean.columns:
        return None, f"there is no {metric} {when(map_name)} temperature scaling", None
    outcomes = log_outcomes(clean, metric, map_name)
    try:
        design = build_design(clean, outcomes.values, claim)
        return estimate_effect(clean, outcomes, claim, metric, map_name, design), None, design
    except ClaimError as error:
        return None, str(error), None


def _repeat_without_gaps(
    clean: pd.DataFrame, outcomes: Outcomes, claim: Claim, metric: str, design: Design
) -> tuple[Effect, ...]:
    """Repeat the test without each covariate whose gaps cost checkpoints, and without all."""
    used = declared_columns(claim)
    gaps = [name for name in design.covariates if clean[name].isna().any()]
    without = [(name,) for name in gaps] + ([tuple(gaps)] if len(gaps) > 1 else [])
    effects = []
    first = CLAIM_MAPS[claim.primary]
    for names in without:
        columns = tuple(name for name in used if name not in names)
        wider = build_design(clean, outcomes.values, claim, columns)
        effects.append(estimate_effect(clean, outcomes, claim, metric, first, wider))
    return tuple(effects)
