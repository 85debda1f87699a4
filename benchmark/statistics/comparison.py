"""Paired comparison of models on the same rows."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from benchmark.arrays import BoolArray, Float64Array, IntArray
from benchmark.statistics.calibration_error import DEFAULT_LEVEL
from benchmark.statistics.contrast import PairedDifference, SquaredContrast, signed_root
from benchmark.statistics.intervals import temperature_moves
from benchmark.statistics.logit_arrays import Labels, LogitRows, Logits, check_rows
from benchmark.statistics.metric import Debiased, Influence, Metric, Share
from benchmark.statistics.metrics import METRICS
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import (
    RESAMPLES,
    TEST_STREAM,
    TemperaturePath,
    refit_temperatures,
    resample_counts,
)
from benchmark.statistics.skewed_interval import (
    MOST_SKEWED,
    NO_CHANCE,
    Moments,
    normal_score,
    skewed_interval,
    too_few,
    two_sided,
)
from benchmark.statistics.temperature import TemperatureFit

TOO_FEW_DIFFERENT = "too few rows differ"


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
        difference: Metric of the first minus metric of the second. Of the debiased error: the
            signed root of the difference of squares, which has the sign of the difference and is
            what can be tested.
        low: Lower end of its 95% interval; None where the rows do not carry one.
        high: Upper end; None likewise.
        p_value: Two-sided, of no difference; None likewise.
        p_holm: The same, corrected for all comparisons of the family (alone: equal to `p_value`).
        no_interval: Why there is none.
    """

    first: str
    second: str
    metric: str
    after_scaling: bool
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    no_interval: str | None = None


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
        metric: A name in `METRICS`; those of two classes for two classes only.
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
    scored = [_score(model, after_scaling, resamples, seed) for model in ordered]
    needed = not isinstance(function.interval, Share | Influence) and not _is_top_label(function)
    anew = [
        _scored_anew(one.path.center.rows, function, one.refitted, seed) if needed else np.empty(0)
        for one in scored
    ]
    comparisons = []
    for i, j in combinations(range(len(models)), 2):
        found = _judge(scored[i], scored[j], function, (anew[i], anew[j]))
        about = models[i].name, models[j].name, metric, after_scaling
        if isinstance(found, str):
            centers = scored[i].path.center, scored[j].path.center
            difference = _bare_difference(function, *centers)
            comparisons.append(Comparison(*about, difference, no_interval=found))
        else:
            comparisons.append(Comparison(*about, *found, found.p_value))
    known = [one.p_value for one in comparisons if one.p_value is not None]
    corrected = iter(holm(known))
    return [
        one if one.p_value is None else replace(one, p_holm=next(corrected)) for one in comparisons
    ]


def _bare_difference(metric: Metric, first: Predictions, second: Predictions) -> float:
    """Return the difference in the terms of `Comparison.difference`."""
    one, other = metric(first), metric(second)
    if _is_top_label(metric) and metric.over_seeds == "root_mean_square":
        return signed_root(one * abs(one) - other * abs(other))
    return one - other


def _is_top_label(metric: Metric) -> bool:
    """Say whether it is the debiased error of the predicted class, or its square."""
    return isinstance(metric.interval, Debiased) and not metric.interval.by_class


def resampled_difference(difference: float, replicates: Float64Array) -> PairedDifference:
    """Judge a difference by the spread of its resampled values, as if it were normal.

    Args:
        difference: As observed.
        replicates: [resamples] of it, both sides drawn from the same rows.
    """
    spread = float(replicates.std(ddof=1))
    reach = float(ndtri((1 + DEFAULT_LEVEL) / 2)) * spread
    p_value = float(difference == 0) if spread == 0 else two_sided(difference / spread)
    return PairedDifference(difference, difference - reach, difference + reach, p_value)


def mean_difference(
    difference: float, effects: Float64Array, moved: Float64Array | float = 0.0
) -> PairedDifference | str:
    """Judge a difference of metrics by the effects of rows on both; a string says why not.

    Args:
        difference: As observed.
        effects: [n] effect of each row on the first metric, minus that on the second.
        moved: [resamples] the difference as both temperatures are refitted on the same resamples.
    """
    moments = Moments.of(effects)
    if abs(moments.skewness) > MOST_SKEWED:
        return TOO_FEW_DIFFERENT
    moments = moments.plus(float(np.var(moved)))
    if not math.isfinite(moments.variance):
        return NO_CHANCE
    p_value = two_sided(normal_score(difference, moments))
    return PairedDifference(difference, *skewed_interval(difference, moments), p_value)


def share_difference(first: BoolArray, second: BoolArray) -> PairedDifference:
    """Judge the difference of two shares of the same rows [n] by its score (Tango 1998).

    The p value is McNemar's. Holds with few rows that differ, and with none.

    >>> right, also = np.arange(300) < 297, np.arange(300) < 292
    >>> [round(value, 3) for value in share_difference(right, also)]
    [0.017, 0.004, 0.038, 0.025]
    """
    n = len(first)
    won = int(np.count_nonzero(first & ~second))
    lost = int(np.count_nonzero(second & ~first))
    z = float(ndtri((1 + DEFAULT_LEVEL) / 2))

    def score(difference: float) -> float:
        """Of a hypothesised difference, with the share that differs estimated under it."""
        linear = -won - lost + (2 * n - won + lost) * difference
        constant = -lost * difference * (1 - difference)
        share = (math.sqrt(max(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        gap = won - lost - n * difference
        if gap == 0:
            return 0.0
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)

    value = (won - lost) / n
    low = -1.0 if value == -1 else brentq(lambda x: score(x) - z, -1 + 1e-12, value)
    high = 1.0 if value == 1 else brentq(lambda x: score(x) + z, value, 1 - 1e-12)
    p_value = 1.0 if won == lost else two_sided((won - lost) / math.sqrt(won + lost))
    return PairedDifference(value, float(low), float(high), p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number so that the chance of any false rejection holds."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return [float(value) for value in corrected]


def _find_metric(name: str) -> Metric:
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(METRICS)}"
        raise ValueError(f"unknown metric {name!r}{hint}")
    return METRICS[name]


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


class _Scored(NamedTuple):
    """One model's rows, in the order of ids, at its temperature."""

    path: TemperaturePath
    refitted: Float64Array


def _score(model: ModelOutputs, after_scaling: bool, resamples: int, seed: int) -> _Scored:
    rows = check_rows(model.test_logits, model.test_labels)
    known = check_rows(model.calibration_logits, model.calibration_labels)
    if not after_scaling:
        path = TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), resamples)
        return _Scored(path.calibrated_on(known), np.ones(resamples))
    refitted = refit_temperatures(
        model.calibration_logits,
        model.calibration_labels,
        model.fit,
        resamples=resamples,
        seed=seed,
    ).resampled
    path = TemperaturePath.build(rows, model.fit.temperature, refitted)
    return _Scored(path.calibrated_on(known), refitted)


def _judge(
    first: _Scored, second: _Scored, metric: Metric, replicates: Sequence[Float64Array]
) -> PairedDifference | str:
    """Compare two models as the interval of the metric allows; a string says why it does not."""
    kind, one, other = metric.interval, first.path.center, second.path.center
    if metric.lacking is not None and (reason := metric.lacking(one) or metric.lacking(other)):
        return reason
    if isinstance(kind, Share):
        return share_difference(kind.hits(one), kind.hits(other))
    if isinstance(kind, Debiased) and not kind.by_class:
        reason = too_few(one.correct) or too_few(other.correct)
        if reason:
            return reason
        found = SquaredContrast.of((first.path.parts(), second.path.parts()), (1, -1)).test()
        return found if kind.squared else found.rooted()
    difference = metric(one) - metric(other)
    if isinstance(kind, Influence):
        moved: Float64Array | float = 0.0
        if kind.follows_temperature:
            moved = temperature_moves(metric, first.path) - temperature_moves(metric, second.path)
        return mean_difference(difference, kind.effect(one) - kind.effect(other), moved)
    return resampled_difference(difference, replicates[0] - replicates[1])


def _scored_anew(
    rows: LogitRows, metric: Metric, temperatures: Float64Array, seed: int
) -> Float64Array:
    """Score every resample of the rows at its own temperature [resamples]."""
    replicates = np.empty(len(temperatures))
    for at, counts in resample_counts(rows.n_rows, len(temperatures), seed, TEST_STREAM):
        for resample, count in enumerate(counts, at.start):
            drawn = np.repeat(np.arange(rows.n_rows), count.astype(np.int64))
            again = check_rows(rows.values[drawn], rows.labels[drawn])
            replicates[resample] = metric(Predictions.from_rows(again, temperatures[resample]))
    return replicates
