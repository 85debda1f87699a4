"""Intervals of every metric of a split, before and after temperature scaling.

What is statistically valid differs by metric, so each says how its interval is made (see `metric`).
Everything after temperature scaling includes the uncertainty of the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.bin_resampling import noise_floor
from benchmark.statistics.calibration_error import DEFAULT_BINS, assign_bins, debiased_sums
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.metric import Debiased, Metric, Resampled, SimulatedFloor
from benchmark.statistics.metrics import metrics_for
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import (
    RESAMPLES,
    TEST_STREAM,
    TemperaturePath,
    percentiles,
    refit_temperatures,
    resample_means,
)
from benchmark.statistics.temperature import TemperatureFit


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
    paths = {
        "before": TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), resamples),
        "after": TemperaturePath.build(rows, fit.temperature, refitted),
    }
    replicates = replicates_of(paths, metrics_for(rows.n_classes), seed)
    return SplitEstimates(
        rows.n_rows,
        rows.n_classes,
        _temperature_estimate(fit, refitted),
        **{name: _estimates(path, replicates[name], seed) for name, path in paths.items()},
    )


def _temperature_estimate(fit: TemperatureFit, refitted: Float64Array) -> Estimate:
    if fit.status != "converged":
        return Estimate(fit.temperature)
    return Estimate(fit.temperature, *percentiles(refitted))


def _estimates(
    path: TemperaturePath, replicates: Mapping[str, Float64Array], seed: int
) -> dict[str, Estimate]:
    """Return all metrics at the temperature of the path, each with the interval it allows."""
    metrics = metrics_for(path.center.rows.n_classes)
    return {m.name: _estimate(m, path, replicates.get(m.name), seed) for m in metrics}


def _estimate(
    metric: Metric, path: TemperaturePath, replicates: Float64Array | None, seed: int
) -> Estimate:
    scored, kind = path.center, metric.interval
    if isinstance(kind, Debiased):
        return _debiased_estimate(kind, path)
    value = metric(scored)
    if isinstance(kind, SimulatedFloor):
        resamples = len(path.weights)
        floor = noise_floor(
            scored.confidence, kind.n_bins, kind.scheme, resamples=resamples, seed=seed
        )
        return Estimate(value, floor_mean=floor.mean, floor_q95=floor.q95)
    # An infinite NLL, from a label of probability 0, has no interval.
    if replicates is None or not math.isfinite(value):
        return Estimate(value)
    return Estimate(value, *percentiles(replicates))


def _debiased_estimate(kind: Debiased, path: TemperaturePath) -> Estimate:
    confidence, correct = path.center.confidence, path.center.correct
    index = assign_bins(confidence, DEFAULT_BINS, "equal_mass")
    sums = debiased_sums(confidence - correct, index, DEFAULT_BINS)
    extra = path.debiased_variance()
    error = sums.interval(extra_variance=extra)
    if kind.squared:
        return Estimate(
            error.squared,
            error.squared_low,
            error.squared_high,
            null_variance=sums.null_variance + extra,
            variance_slope=sums.variance_slope,
        )
    return Estimate(error.root, error.low, error.high)


def replicates_of(
    paths: Mapping[str, TemperaturePath], metrics: Iterable[Metric], seed: int
) -> dict[str, dict[str, Float64Array]]:
    """Resample rows once for all paths and metrics.

    Args:
        paths: By name; all of the same rows and the same number of resamples.
        metrics: Those whose interval is `Resampled` are taken.
        seed: Of the resamples.

    Returns:
        For each path, replicates [resamples] by metric.
    """
    chosen = [(m, m.interval) for m in metrics if isinstance(m.interval, Resampled)]
    columns = {
        (name, metric.name): _effects(kind, path)
        for name, path in paths.items()
        for metric, kind in chosen
    }
    resamples = len(next(iter(paths.values())).weights)
    means = resample_means(np.column_stack([*columns.values()]), resamples, seed, TEST_STREAM)
    ends = np.cumsum([effects.shape[1] for effects in columns.values()])
    parts = dict(zip(columns, np.split(means, ends[:-1], axis=1), strict=True))
    return {
        name: {
            metric.name: _replicates(
                metric, kind, path, columns[name, metric.name], parts[name, metric.name]
            )
            for metric, kind in chosen
        }
        for name, path in paths.items()
    }


def _effects(kind: Resampled, path: TemperaturePath) -> Float64Array:
    """Return the effect of every row: [n, nodes] where it depends on the temperature, or [n, 1]."""
    if kind.follows_temperature == "rows":
        return path.column(kind.effect)
    return kind.effect(path.center)[:, None]


def _replicates(
    metric: Metric,
    kind: Resampled,
    path: TemperaturePath,
    effects: Float64Array,
    means: Float64Array,
) -> Float64Array:
    """Return the metric in each resample [resamples] from the resampled means of its effects."""
    if kind.follows_temperature == "rows":
        return path.interpolate(means)
    with np.errstate(invalid="ignore"):
        moved = means[:, 0] - effects.mean()
    if kind.follows_temperature == "nothing":
        return np.asarray(metric(path.center) + moved)
    drift = path.interpolate(np.array([metric(node) for node in path.nodes]))
    return np.asarray(moved + drift)
