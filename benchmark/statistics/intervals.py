"""Intervals of every metric of a split, and paired comparisons of models.

What is statistically valid differs by metric. Means and risk-coverage areas have percentile
bootstrap intervals; the debiased calibration error has a normal interval; errors that cannot be
negative, ECE first of all, have none, since at perfect calibration it would never cover 0, but ECE
has its noise floor. Everything after temperature scaling includes the uncertainty of the
temperature.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from benchmark.arrays import Float64Array, IntArray
from benchmark.statistics.bin_resampling import (
    Interval,
    NoiseFloor,
    bootstrap_interval,
    noise_floor,
)
from benchmark.statistics.calibration_error import (
    DEFAULT_BINS,
    DEFAULT_LEVEL,
    Scheme,
    assign_bins,
    debiased_sums,
    ks_calibration_test,
    spiegelhalter_test,
)
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.influence import augrc_influence, aurc_influence, macro_f1_influence
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.metrics import (
    BINARY_METRICS,
    METRICS,
    Metric,
    Predictions,
    augrc,
    aurc,
    macro_f1,
)
from benchmark.statistics.resampling import (
    RESAMPLES,
    TEST_STREAM,
    TemperaturePath,
    percentiles,
    refit_temperatures,
    resample_counts,
    resample_means,
)
from benchmark.statistics.temperature import TemperatureFit

__all__ = [
    "Comparison",
    "Estimate",
    "Interval",
    "ModelOutputs",
    "NoiseFloor",
    "SplitEstimates",
    "bootstrap_interval",
    "compare",
    "compare_all",
    "holm",
    "noise_floor",
    "refit_temperatures",
    "score_split",
]

BINNED_ERRORS: dict[str, tuple[int, Scheme]] = {
    "ece_15": (15, "equal_width"),
    "ece_100_equal_mass": (100, "equal_mass"),
}
LINEAR_METRICS = ("accuracy", "nll", "brier", "signed_gap", "macro_f1", "aurc", "augrc")
BARE_METRICS = (
    "roc_auc",
    "smooth_ece",
    "ks_calibration_error",
    "max_calibration_error",
    "rms_calibration_error",
    "classwise_ece",
    "nll_calibration",
    "nll_refinement",
    "brier_calibration",
    "brier_refinement",
)


@dataclass(frozen=True)
class SplitEstimates:
    """Every metric of one split, before and after temperature scaling.

    Attributes:
        n_rows: Rows of the split.
        n_classes: Classes.
        temperature: The temperature; its interval is None unless the fit converged.
        before: Estimates by name, at temperature 1.
        after: Estimates by name, at the fitted temperature.
    """

    n_rows: int
    n_classes: int
    temperature: Estimate
    before: dict[str, Estimate]
    after: dict[str, Estimate]


def score_split(
    test_logits: Logits,
    test_labels: Labels,
    calibration_logits: Logits,
    calibration_labels: Labels,
    fit: TemperatureFit,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    refitted: Float64Array | None = None,
) -> SplitEstimates:
    """Score one split before and after temperature scaling, with 95% intervals.

    Means and risk-coverage areas get percentile intervals; the debiased error its normal interval,
    widened by the temperature's uncertainty after scaling. An ECE, or any other error that cannot
    be negative, gets none: at perfect calibration such an interval never covers 0. ECE gets its
    noise floor instead.

    Args:
        test_logits: [n, K] logits of the split to score.
        test_labels: [n] its labels.
        calibration_logits: [m, K] logits the temperature was fitted on.
        calibration_labels: [m] their labels.
        fit: What `fit_temperature` returned for the calibration split.
        resamples: Of rows, at least 2.
        seed: Of the resamples.
        refitted: Result of `refit_temperatures`, to share it between test splits of one run.

    Raises:
        ValueError: Naming the first bad row.
    """
    rows = check_rows(test_logits, test_labels)
    if refitted is None:
        refitted = refit_temperatures(
            calibration_logits, calibration_labels, fit, resamples=resamples, seed=seed
        )
    path = TemperaturePath.build(rows, fit.temperature, refitted)
    before = Predictions.from_rows(rows, 1.0)
    intervals = _linear_intervals(before, path, resamples, seed)
    return SplitEstimates(
        n_rows=rows.n_rows,
        n_classes=rows.n_classes,
        temperature=_temperature_estimate(fit, refitted),
        before=intervals.before | _other_estimates(before, 0.0, resamples, seed),
        after=intervals.after
        | _other_estimates(path.center, path.debiased_variance(), resamples, seed),
    )


def _temperature_estimate(fit: TemperatureFit, refitted: Float64Array) -> Estimate:
    if fit.status != "converged":
        return Estimate(fit.temperature)
    return Estimate(fit.temperature, *percentiles(refitted))


def _other_estimates(
    scored: Predictions, extra_variance: float, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Estimates that are not resampled: errors that cannot be negative, and the debiased error."""
    confidence, correct = scored.confidence, scored.correct
    estimates = {name: Estimate(METRICS[name](scored)) for name in BARE_METRICS}
    for name, (n_bins, scheme) in BINNED_ERRORS.items():
        floor = noise_floor(confidence, n_bins, scheme, resamples=resamples, seed=seed)
        estimates[name] = Estimate(
            METRICS[name](scored), floor_mean=floor.mean, floor_q95=floor.q95
        )
    index = assign_bins(confidence, DEFAULT_BINS, "equal_mass")
    sums = debiased_sums(confidence - correct, index, DEFAULT_BINS)
    error = sums.interval(extra_variance=extra_variance)
    estimates["debiased_calibration_error"] = Estimate(error.root, error.low, error.high)
    estimates["debiased_calibration_error_squared"] = Estimate(
        error.squared, error.squared_low, error.squared_high
    )
    estimates["ks_p_value"] = Estimate(ks_calibration_test(confidence, correct).p_value)
    estimates["spiegelhalter_p_value"] = Estimate(spiegelhalter_test(confidence, correct).p_value)
    return estimates


class _BeforeAfter(NamedTuple):
    before: dict[str, Estimate]
    after: dict[str, Estimate]


def _linear_intervals(
    before: Predictions, path: TemperaturePath, resamples: int, seed: int
) -> _BeforeAfter:
    """Percentile intervals of all metrics that are linear in the rows, from the same resamples."""
    replicates = _linear_replicates(before, path, resamples, seed)
    estimates = _BeforeAfter({}, {})
    for name, (first, second) in replicates.items():
        metric = METRICS[name]
        estimates.before[name] = _percentile_estimate(metric(before), first)
        estimates.after[name] = _percentile_estimate(metric(path.center), second)
    return estimates


def _percentile_estimate(value: float, replicates: Float64Array) -> Estimate:
    # An infinite NLL, from a label of probability 0, has no interval.
    return Estimate(value, *percentiles(replicates)) if math.isfinite(value) else Estimate(value)


def _linear_replicates(
    before: Predictions, path: TemperaturePath, resamples: int, seed: int
) -> dict[str, tuple[Float64Array, Float64Array]]:
    """Replicates [resamples] before and after scaling, by metric."""
    after, n_nodes = path.center, len(path.nodes)
    columns = [
        np.column_stack(
            [before.correct, before.nll, before.brier, before.confidence]
            + [macro_f1_influence(before)]
            + [
                function(scored)
                for function in (aurc_influence, augrc_influence)
                for scored in (before, after)
            ]
        ),
        path.column(lambda node: node.nll),
        path.column(lambda node: node.brier),
        path.column(lambda node: node.confidence),
    ]
    means = resample_means(np.column_stack(columns), resamples, seed, TEST_STREAM)
    fixed, at_nodes = means[:, :9].T, means[:, 9:]
    nll_after, brier_after, confidence_after = (
        path.interpolate(at_nodes[:, k * n_nodes : (k + 1) * n_nodes]) for k in range(3)
    )
    correct, f1 = fixed[0], macro_f1(before) + fixed[4]
    return {
        "accuracy": (correct, correct),
        "nll": (fixed[1], nll_after),
        "brier": (fixed[2], brier_after),
        "signed_gap": (fixed[3] - correct, confidence_after - correct),
        "macro_f1": (f1, f1),
        "aurc": (aurc(before) + fixed[5], fixed[6] + _along_path(path, aurc)),
        "augrc": (augrc(before) + fixed[7], fixed[8] + _along_path(path, augrc)),
    }


def _along_path(path: TemperaturePath, metric: Callable[[Predictions], float]) -> Float64Array:
    return path.interpolate(np.array([metric(node) for node in path.nodes]))


# --- Comparison of models -----------------------------------------------------------------------


@dataclass(frozen=True)
class ModelOutputs:
    """What one model said about the test and calibration rows of a dataset.

    Attributes:
        name: Of the model, for messages and results.
        test_logits: [n, K].
        test_labels: [n].
        test_ids: [n] unique row ids.
        calibration_logits: [m, K].
        calibration_labels: [m].
        calibration_ids: [m] unique row ids.
        fit: What `fit_temperature` returned for the calibration rows.
    """

    name: str
    test_logits: Logits
    test_labels: Labels
    test_ids: IntArray
    calibration_logits: Logits
    calibration_labels: Labels
    calibration_ids: IntArray
    fit: TemperatureFit


@dataclass(frozen=True)
class Comparison:
    """The difference of a metric between two models on the same rows.

    Attributes:
        first: Name of the first model.
        second: Name of the second.
        metric: Name of the metric.
        after_scaling: Whether both were temperature scaled.
        difference: Metric of the first minus metric of the second.
        low: Lower end of its 95% interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
        p_holm: The same, corrected for all comparisons of the family (alone: equal to `p_value`).
    """

    first: str
    second: str
    metric: str
    after_scaling: bool
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float


def compare(
    first: ModelOutputs,
    second: ModelOutputs,
    metric: str,
    *,
    after_scaling: bool,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same rows with a paired bootstrap.

    Both are scored on the same resamples of the test rows, after scaling also with temperatures
    refitted on the same resamples of the calibration rows. The interval and p-value are normal,
    with the standard deviation of the resampled differences: an error that noise inflates is
    inflated again in every resample, so percentiles would be off, while the spread is right.

    Args:
        first: Outputs of one model.
        second: Outputs of the other.
        metric: A name in `METRICS` or, for two classes, `BINARY_METRICS`.
        after_scaling: Compare at the fitted temperatures, not at 1.
        resamples: At least 2.
        seed: Of the resamples.

    Raises:
        ValueError: Different ids or labels, saying where; an unknown metric.
    """
    (comparison,) = compare_all(
        [first, second], metric, after_scaling=after_scaling, resamples=resamples, seed=seed
    )
    return comparison


def compare_all(
    models: Sequence[ModelOutputs],
    metric: str,
    *,
    after_scaling: bool,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every pair of models with `compare`, as one family (Holm 1979).

    Each model is resampled once, however many pairs it is part of.

    Raises:
        ValueError: Different ids or labels, saying where; an unknown metric.
    """
    function = _find_metric(metric)
    ordered = [_sort_by_id(model) for model in models]
    for model in ordered[1:]:
        _check_same_rows(ordered[0], model)
    replicated = [_replicate(m, metric, function, after_scaling, resamples, seed) for m in ordered]
    comparisons = []
    for i, j in combinations(range(len(models)), 2):
        difference = replicated[i].value - replicated[j].value
        spread = float((replicated[i].replicates - replicated[j].replicates).std(ddof=1))
        reach = float(ndtri((1 + DEFAULT_LEVEL) / 2)) * spread
        p_value = _normal_p_value(difference, spread)
        comparisons.append(
            Comparison(
                models[i].name,
                models[j].name,
                metric,
                after_scaling,
                difference,
                difference - reach,
                difference + reach,
                p_value,
                p_value,
            )
        )
    corrected = holm([comparison.p_value for comparison in comparisons])
    return [replace(one, p_holm=p) for one, p in zip(comparisons, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number so that the chance of any false rejection holds."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return [float(value) for value in corrected]


def _normal_p_value(difference: float, spread: float) -> float:
    if spread == 0:
        return float(difference == 0)
    return float(2 * ndtr(-abs(difference) / spread))


def _find_metric(name: str) -> Metric:
    known = METRICS | BINARY_METRICS
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
        raise ValueError(f"unknown metric {name!r}{hint}")
    return known[name]


def _sort_by_id(model: ModelOutputs) -> ModelOutputs:
    test, calibration = (np.argsort(ids) for ids in (model.test_ids, model.calibration_ids))
    return replace(
        model,
        test_logits=model.test_logits[test],
        test_labels=np.asarray(model.test_labels)[test],
        test_ids=np.asarray(model.test_ids)[test],
        calibration_logits=model.calibration_logits[calibration],
        calibration_labels=np.asarray(model.calibration_labels)[calibration],
        calibration_ids=np.asarray(model.calibration_ids)[calibration],
    )


def _check_same_rows(first: ModelOutputs, second: ModelOutputs) -> None:
    """Check that both models, sorted by id, were scored on the same rows with the same labels."""
    for only, other in ((first, second), (second, first)):
        extra = np.setdiff1d(only.test_ids, other.test_ids)
        if len(extra):
            raise ValueError(
                f"{first.name} and {second.name} were not scored on the same rows: "
                f"{len(extra)} ids of {only.name} are missing from {other.name}, "
                f"the first {extra[:5].tolist()}; compare runs of the same split and limit"
            )
    if len(first.test_ids) != len(second.test_ids):
        raise ValueError(f"{first.name} or {second.name} has repeated test ids")
    different = np.flatnonzero(first.test_labels != second.test_labels)
    if len(different):
        raise ValueError(
            f"{first.name} and {second.name} disagree on {len(different)} labels, first of id "
            f"{first.test_ids[different[0]]}; the dataset has changed between the runs"
        )


class _Replicated(NamedTuple):
    value: float
    replicates: Float64Array


def _replicate(
    model: ModelOutputs, name: str, metric: Metric, after_scaling: bool, resamples: int, seed: int
) -> _Replicated:
    """Value and resampled values of one metric of one model, its rows in the order of ids."""
    rows = check_rows(model.test_logits, model.test_labels)
    temperature = model.fit.temperature if after_scaling else 1.0
    refitted = np.full(resamples, 1.0)
    if after_scaling:
        refitted = refit_temperatures(
            model.calibration_logits,
            model.calibration_labels,
            model.fit,
            resamples=resamples,
            seed=seed,
        )
    scored = Predictions.from_rows(rows, temperature)
    if name in LINEAR_METRICS:
        path = TemperaturePath.build(rows, temperature, refitted)
        before_and_after = _linear_replicates(scored, path, resamples, seed)[name]
        return _Replicated(metric(scored), before_and_after[1])
    replicates = np.empty(resamples)
    for at, counts in resample_counts(rows.n_rows, resamples, seed, TEST_STREAM):
        for resample, count in enumerate(counts, at.start):
            drawn = np.repeat(np.arange(rows.n_rows), count.astype(np.int64))
            again = check_rows(rows.values[drawn], rows.labels[drawn])
            replicates[resample] = metric(Predictions.from_rows(again, refitted[resample]))
    return _Replicated(metric(scored), replicates)
