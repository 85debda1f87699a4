"""Paired comparison of models on the same rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from benchmark.arrays import Float64Array, IntArray
from benchmark.statistics.calibration_error import DEFAULT_LEVEL
from benchmark.statistics.intervals import replicates_of
from benchmark.statistics.logit_arrays import Labels, LogitRows, Logits, check_rows
from benchmark.statistics.metric import Metric, Resampled
from benchmark.statistics.metrics import METRICS
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import (
    RESAMPLES,
    TEST_STREAM,
    TemperaturePath,
    refit_temperatures,
    resample_counts,
)
from benchmark.statistics.temperature import TemperatureFit


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
    replicated = [_replicate(m, function, after_scaling, resamples, seed) for m in ordered]
    comparisons = []
    for i, j in combinations(range(len(models)), 2):
        replicates = replicated[i].replicates - replicated[j].replicates
        found = paired_difference(replicated[i].value - replicated[j].value, replicates)
        names = models[i].name, models[j].name
        comparisons.append(Comparison(*names, metric, after_scaling, *found, found.p_value))
    corrected = holm([comparison.p_value for comparison in comparisons])
    return [replace(one, p_holm=p) for one, p in zip(comparisons, corrected, strict=True)]


class PairedDifference(NamedTuple):
    """A difference with its normal 95% interval and the two-sided p value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_difference(difference: float, replicates: Float64Array) -> PairedDifference:
    """Judge a difference by the spread of its resampled values.

    Args:
        difference: As observed.
        replicates: [resamples] of it, both sides drawn from the same rows.
    """
    spread = float(replicates.std(ddof=1))
    reach = float(ndtri((1 + DEFAULT_LEVEL) / 2)) * spread
    p_value = float(difference == 0) if spread == 0 else float(2 * ndtr(-abs(difference) / spread))
    return PairedDifference(difference, difference - reach, difference + reach, p_value)


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


class _Replicated(NamedTuple):
    value: float
    replicates: Float64Array


def _replicate(
    model: ModelOutputs, metric: Metric, after_scaling: bool, resamples: int, seed: int
) -> _Replicated:
    """Value and resampled values of one metric of one model, its rows in the order of ids."""
    rows = check_rows(model.test_logits, model.test_labels)
    temperature, refitted = 1.0, np.ones(resamples)
    if after_scaling:
        temperature = model.fit.temperature
        refitted = refit_temperatures(
            model.calibration_logits,
            model.calibration_labels,
            model.fit,
            resamples=resamples,
            seed=seed,
        )
    path = TemperaturePath.build(rows, temperature, refitted)
    if isinstance(metric.interval, Resampled):
        replicates = replicates_of({"": path}, [metric], seed)[""][metric.name]
    else:
        replicates = _scored_anew(rows, metric, refitted, seed)
    return _Replicated(metric(path.center), replicates)


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
