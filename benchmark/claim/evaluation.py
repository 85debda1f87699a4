"""Test the claim on a frame of runs: all parts, from the effect to the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

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
from benchmark.claim.permutation import LabelExchange
from benchmark.claim.power import power_of
from benchmark.claim.result import (
    CLAIM_MAPS,
    ClaimMap,
    ClaimResult,
    Effect,
    MatchedPairs,
    SpecificationCurve,
    TwinContrast,
    Unit,
    VarianceShares,
    when,
)
from benchmark.claim.signed_gaps import signed_gaps
from benchmark.claim.specification_curve import specification_curve
from benchmark.claim.twins import has_enough, paired_rows, twin_points, unit_of
from benchmark.claim.variance_shares import variance_shares
from benchmark.claim.verdict import decide
from benchmark.markup import compact, plural
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd


class _Analysis(NamedTuple):
    effect: Effect
    design: Design
    equation: EstimatingEquation


class _Study(NamedTuple):
    """Averaged rows, the unshifted ones among them, and what is asked of them."""

    averaged: pd.DataFrame
    clean: pd.DataFrame
    claim: Claim
    metric: str
    unit: Unit

    @classmethod
    def of(cls, averaged: pd.DataFrame, claim: Claim, metric: str, unit: Unit) -> _Study:
        clean = averaged[~averaged["shifted"]].reset_index(drop=True)
        return cls(averaged, clean, claim, metric, unit)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Of the primary analysis; twins share what others are adjusted for."""
        return () if self.unit == "twins" else primary_columns(self.claim)

    def try_analysis(
        self, map_name: ClaimMap, covariates: tuple[str, ...]
    ) -> tuple[_Analysis | None, str | None]:
        """Return (analysis, None), or (None, why not)."""
        if f"{self.metric}_{map_name}" not in self.clean.columns:
            return None, f"there is no {self.metric} {when(map_name)} temperature scaling"
        errors = squared_errors(self.clean, self.metric, map_name)
        try:
            design = build_design(self.clean, errors.squared, self.claim, covariates, self.unit)
            equation = contrast_equation(self.clean, errors, design)
        except ClaimError as error:
            return None, str(error)
        effect = estimate_effect(
            self.clean, errors, self.claim, self.metric, map_name, design, equation
        )
        return _Analysis(effect, design, equation), None

    def exchange(self, analysis: _Analysis) -> LabelExchange:
        return label_exchange(self.clean, self.claim, analysis.design, analysis.equation)


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
    paired = paired_rows(averaged, claim.contrast)
    unit = unit_of(averaged, paired, claim.contrast)
    study = _Study.of(paired if unit == "twins" else averaged, claim, metric, unit)
    twins = _Study.of(paired, claim, metric, "twins")
    primary, problem = study.try_analysis(first, study.covariates)
    dropped = dropped_runs(frame) + unknown
    if problem is not None and unknown:
        problem += f" (mixer or family unknown: {plural(len(unknown), 'result')})"
    if primary is not None:
        dropped += dropped_checkpoints(study.clean, primary.design)
    facts: dict[str, Any] = {
        "contrast": claim.contrast,
        "alpha": claim.alpha,
        "equivalence_ratio": claim.equivalence_ratio,
        "primary_map": first,
        "metric": metric,
        "unit": unit,
        "primary_problem": problem,
        "signed_gaps": signed_gaps(study.clean),
        "within_twins": None if unit == "twins" else _within_twins(twins, first),
        "twin_points": twin_points(twins.clean, metric, first, claim.contrast),
        "matched_pairs": _matched_pairs(frame, study),
        "seed_variance": seed_variance(frame, metric, first),
        "dropped": tuple(dropped),
    }
    return ClaimResult(**facts, **_parts(study, primary, problem))


def _matched_pairs(frame: pd.DataFrame, study: _Study) -> MatchedPairs:
    if study.unit == "twins":
        rule = "twins are pairs already: none is looked for"
        return MatchedPairs(rule=rule, metric=study.metric)
    return matched_pairs(frame, study.clean, study.claim, study.metric)


def _within_twins(twins: _Study, map_name: ClaimMap) -> TwinContrast | None:
    """Return the contrast within the twins of a study that has other models too."""
    if not has_enough(twins.clean):
        return None
    analysis, _ = twins.try_analysis(map_name, ())
    if analysis is None:
        return None
    _, adjusted = _beside(twins, map_name, analysis.effect)
    permutation = twins.exchange(analysis).test()
    return TwinContrast(effect=analysis.effect, adjusted=adjusted, permutation=permutation)


def _parts(study: _Study, primary: _Analysis | None, problem: str | None) -> dict[str, Any]:
    """Return the fields of the result that rest on the primary analysis."""
    claim = study.claim
    first = CLAIM_MAPS[claim.primary]
    (other,) = set(CLAIM_MAPS.values()) - {first}
    secondary, _ = study.try_analysis(other, study.covariates)
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
    unadjusted, adjusted = _beside(study, first, effect)
    shares = _shares(study, first, design)
    exchange = study.exchange(primary)
    permutation, power = exchange.test(), power_of(claim, effect, equation, exchange)
    return {
        **parts,
        "primary": effect,
        "unadjusted": unadjusted,
        "adjusted": adjusted,
        "repeated": _repeat_without_gaps(study, first, design),
        "permutation": permutation,
        "variance_shares": shares,
        "specification_curve": specification_curve(
            study.averaged, claim, (adjusted or effect).covariates, study.unit
        ),
        "verdict": decide(
            *(claim, effect, None, power, shares, permutation),
            secondary=parts["secondary"],
            scope=_scope(study, design),
        ),
    }


def _scope(study: _Study, design: Design) -> str | None:
    """Say which models twins can speak of: they are alike because they were made so."""
    if study.unit != "twins":
        return None
    used = study.clean.iloc[design.rows]
    models = used.drop_duplicates("model")
    sizes = models["parameters"].to_numpy(dtype=float)
    trained = (models["pretraining_examples"] == 0).all()
    how = ", trained from scratch" if trained else ""
    text = f"These are {plural(len(models), 'model')}"
    if np.isfinite(sizes).all():
        text += f" of {compact(sizes.min())} to {compact(sizes.max())} parameters"
    return f"{text}{how}: of larger or otherwise trained ones they say nothing."


def _shares(study: _Study, map_name: ClaimMap, design: Design) -> VarianceShares:
    if study.unit == "twins":
        return VarianceShares(problem="twins differ in the mixer only: there is nothing to share")
    return variance_shares(study.clean, log_outcomes(study.clean, study.metric, map_name), design)


def primary_columns(claim: Claim) -> tuple[str, ...]:
    """Return the covariates of the primary analysis: those declared, without accuracy.

    Accuracy is itself an effect of the mixer and does not stand in the claim's sentence.
    """
    return tuple(name for name in declared_columns(claim) if name != "test_error")


def _beside(
    study: _Study, map_name: ClaimMap, primary: Effect
) -> tuple[Effect | None, Effect | None]:
    """Return the effect without covariates, and with accuracy besides; None where it is the same.

    Accuracy comes from the calibration rows where all runs keep their logits: rows that error
    and accuracy share bias the one adjusted for the other.
    """
    unadjusted = adjusted = None
    if primary.covariates:
        unadjusted, _ = study.try_analysis(map_name, ())
    if "test_error" in declared_columns(study.claim):
        wider = (*study.covariates, accuracy_column(study.clean))
        adjusted, _ = study.try_analysis(map_name, wider)
    return (
        None if unadjusted is None else unadjusted.effect,
        None if adjusted is None else adjusted.effect,
    )


def _repeat_without_gaps(study: _Study, map_name: ClaimMap, design: Design) -> tuple[Effect, ...]:
    """Repeat the test without each covariate whose gaps cost checkpoints, and without all."""
    gaps = [name for name in design.covariates if study.clean[name].isna().any()]
    without = [(name,) for name in gaps] + ([tuple(gaps)] if len(gaps) > 1 else [])
    effects = []
    for names in without:
        columns = tuple(name for name in study.covariates if name not in names)
        analysis, _ = study.try_analysis(map_name, columns)
        if analysis is not None:
            effects.append(analysis.effect)
    return tuple(effects)
