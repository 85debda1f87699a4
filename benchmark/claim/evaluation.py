"""Test the claim on a frame of runs: all parts, from the effect to the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.claim.bin_variants import with_bin_variants
from benchmark.claim.calibration_rows import accuracy_column, with_calibration_rows_error
from benchmark.claim.data import (
    ClaimError,
    checkpoints,
    dropped_runs,
    log_outcomes,
    seed_variance,
    split_off_unknown,
    squared_errors,
)
from benchmark.claim.design import Design, build_design, declared_columns, dropped_checkpoints
from benchmark.claim.effect import contrast_equation, estimate_effect, label_exchange
from benchmark.claim.estimating_equation import EstimatingEquation
from benchmark.claim.matched_pairs import matched_pairs
from benchmark.claim.power import power_of
from benchmark.claim.result import (
    CLAIM_MAPS,
    ClaimMap,
    ClaimResult,
    Effect,
    SpecificationCurve,
    VarianceShares,
    when,
)
from benchmark.claim.signed_gaps import signed_gaps
from benchmark.claim.specification_curve import specification_curve
from benchmark.claim.variance_shares import variance_shares
from benchmark.claim.verdict import decide
from benchmark.markup import plural
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd


class _Analysis(NamedTuple):
    effect: Effect
    design: Design
    equation: EstimatingEquation


def evaluate(frame: pd.DataFrame, claim: Claim, metric: str) -> ClaimResult:
    """Test `claim` on a frame of runs (see `claim.evaluate_claim`).

    Raises:
        ClaimError: no run has the metric.
    """
    first = CLAIM_MAPS[claim.primary]
    column = f"{metric}_{first}"
    if column not in frame.columns or not (frame["status"] == "completed").any():
        raise ClaimError(f"no completed run has {column}, so there is nothing to test")
    wider = with_calibration_rows_error(with_bin_variants(frame))
    averaged, unknown = split_off_unknown(checkpoints(wider))
    clean = averaged[~averaged["shifted"]].reset_index(drop=True)
    primary, problem = _try_analysis(clean, claim, metric, first, primary_columns(claim))
    dropped = dropped_runs(frame) + unknown
    if problem is not None and unknown:
        problem += f" (mixer or family unknown: {plural(len(unknown), 'result')})"
    if primary is not None:
        dropped += dropped_checkpoints(clean, primary.design)
    facts: dict[str, Any] = {
        "contrast": claim.contrast,
        "alpha": claim.alpha,
        "equivalence_ratio": claim.equivalence_ratio,
        "primary_map": first,
        "metric": metric,
        "primary_problem": problem,
        "signed_gaps": signed_gaps(clean),
        "matched_pairs": matched_pairs(frame, clean, claim, metric),
        "seed_variance": seed_variance(frame, metric, first),
        "dropped": tuple(dropped),
    }
    return ClaimResult(**facts, **_parts(averaged, clean, claim, metric, primary, problem))


def _parts(
    averaged: pd.DataFrame,
    clean: pd.DataFrame,
    claim: Claim,
    metric: str,
    primary: _Analysis | None,
    problem: str | None,
) -> dict[str, Any]:
    """Return the fields of the result that rest on the primary analysis."""
    first = CLAIM_MAPS[claim.primary]
    (other,) = set(CLAIM_MAPS.values()) - {first}
    secondary, _ = _try_analysis(clean, claim, metric, other, primary_columns(claim))
    parts: dict[str, Any] = {"secondary": None if secondary is None else secondary.effect}
    if primary is None:
        shares = VarianceShares(problem=problem)
        absent = dict.fromkeys(("primary", "unadjusted", "adjusted", "permutation"))
        return {
            **parts,
            **absent,
            "repeated": (),
            "variance_shares": shares,
            "specification_curve": SpecificationCurve(),
            "verdict": decide(claim, None, problem, None, shares),
        }
    effect, design, equation = primary
    unadjusted, adjusted = _beside(clean, claim, metric, first, effect)
    shares = variance_shares(clean, log_outcomes(clean, metric, first), design)
    exchange = label_exchange(clean, claim, design, equation)
    permutation, power = exchange.test(), power_of(claim, effect, equation, exchange)
    return {
        **parts,
        "primary": effect,
        "unadjusted": unadjusted,
        "adjusted": adjusted,
        "repeated": _repeat_without_gaps(clean, claim, metric, first, design),
        "permutation": permutation,
        "variance_shares": shares,
        "specification_curve": specification_curve(
            averaged, claim, (adjusted or effect).covariates
        ),
        "verdict": decide(claim, effect, None, power, shares, permutation),
    }


def primary_columns(claim: Claim) -> tuple[str, ...]:
    """Return the covariates of the primary analysis: those declared, without accuracy.

    Accuracy is itself an effect of the mixer and does not stand in the claim's sentence.
    """
    return tuple(name for name in declared_columns(claim) if name != "test_error")


def _try_analysis(
    clean: pd.DataFrame,
    claim: Claim,
    metric: str,
    map_name: ClaimMap,
    covariates: tuple[str, ...],
) -> tuple[_Analysis | None, str | None]:
    """Return (analysis, None), or (None, why not)."""
    if f"{metric}_{map_name}" not in clean.columns:
        return None, f"there is no {metric} {when(map_name)} temperature scaling"
    errors = squared_errors(clean, metric, map_name)
    try:
        design = build_design(clean, errors.squared, claim, covariates)
        equation = contrast_equation(clean, errors, design)
    except ClaimError as error:
        return None, str(error)
    effect = estimate_effect(clean, errors, claim, metric, map_name, design, equation)
    return _Analysis(effect, design, equation), None


def _beside(
    clean: pd.DataFrame, claim: Claim, metric: str, map_name: ClaimMap, primary: Effect
) -> tuple[Effect | None, Effect | None]:
    """Return the effect without covariates, and with accuracy besides; None where it is the same.

    Accuracy comes from the calibration rows where all runs keep their logits: rows that error
    and accuracy share bias the one adjusted for the other.
    """
    unadjusted = adjusted = None
    if primary.covariates:
        unadjusted, _ = _try_analysis(clean, claim, metric, map_name, ())
    if "test_error" in declared_columns(claim):
        wider = (*primary_columns(claim), accuracy_column(clean))
        adjusted, _ = _try_analysis(clean, claim, metric, map_name, wider)
    return (
        None if unadjusted is None else unadjusted.effect,
        None if adjusted is None else adjusted.effect,
    )


def _repeat_without_gaps(
    clean: pd.DataFrame, claim: Claim, metric: str, map_name: ClaimMap, design: Design
) -> tuple[Effect, ...]:
    """Repeat the test without each covariate whose gaps cost checkpoints, and without all."""
    used = primary_columns(claim)
    gaps = [name for name in design.covariates if clean[name].isna().any()]
    without = [(name,) for name in gaps] + ([tuple(gaps)] if len(gaps) > 1 else [])
    effects = []
    for names in without:
        columns = tuple(name for name in used if name not in names)
        analysis, _ = _try_analysis(clean, claim, metric, map_name, columns)
        if analysis is not None:
            effects.append(analysis.effect)
    return tuple(effects)
