"""Resampled debiased calibration errors of one run, so that runs can be compared in pairs.

The rows of a test split are resampled alike for all runs on it. Bins keep the rows they have at
the fitted temperature, so that all resamples come from one matrix product; `intervals.compare`
re-bins every resample, which gives the same spread (a test holds the two together) at 20 times
the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmark.arrays import Float64Array, IntArray
from benchmark.records import RunFolder, read_split
from benchmark.statistics import (
    DEFAULT_BINS,
    METRICS,
    TEST_STREAM,
    TemperaturePath,
    assign_bins,
    check_rows,
    fit_temperature,
    refit_temperatures,
    resample_means,
)


@dataclass(frozen=True)
class ErrorReplicates:
    """The debiased error of a run's test split, and what it is in each resample of the rows."""

    ids: IntArray
    labels: IntArray
    value: float
    replicates: Float64Array


def error_replicates(
    folder: RunFolder, *, after_scaling: bool, resamples: int, seed: int = 0
) -> ErrorReplicates:
    """Resample a run's test rows; after scaling also its calibration rows, refitting on them.

    Raises:
        ResultsError: the logits cannot be read.
        ValueError: logits or labels are invalid.
    """
    test, calibration = (
        read_split(folder, name).sorted_by_id() for name in ("test", "calibration")
    )
    rows = check_rows(test.logits, test.labels)
    temperature, refitted = 1.0, np.ones(resamples)
    if after_scaling:
        fit = fit_temperature(calibration.logits, calibration.labels)
        temperature = fit.temperature
        refitted = refit_temperatures(
            calibration.logits, calibration.labels, fit, resamples=resamples, seed=seed
        )
    path = TemperaturePath.build(rows, temperature, refitted)
    bins = assign_bins(path.center.confidence, DEFAULT_BINS, "equal_mass")
    members = (bins[:, None] == np.arange(DEFAULT_BINS)).astype(np.float64)
    gaps = path.column(lambda node: node.confidence - node.correct)
    columns = [members]
    for gap in gaps.T:
        columns += [members * gap[:, None], members * gap[:, None] ** 2]
    sums = rows.n_rows * resample_means(np.hstack(columns), resamples, seed, TEST_STREAM)
    count, *rest = np.split(sums, len(columns), axis=1)
    squared = [
        _squared_errors(count, total, squares)
        for total, squares in zip(rest[::2], rest[1::2], strict=True)
    ]
    resampled = path.interpolate(np.column_stack(squared))
    replicates = np.sign(resampled) * np.sqrt(np.abs(resampled))
    value = METRICS["debiased_calibration_error"](path.center)
    return ErrorReplicates(test.ids, test.labels, value, replicates)


def _squared_errors(
    count: Float64Array, total: Float64Array, squares: Float64Array
) -> Float64Array:
    """Return the debiased squared error per resample from sums over bins [resamples, bins].

    The estimator is that of `calibration_error.debiased_calibration_error`.
    """
    used = count >= 2
    n = np.where(used, count, 2.0)
    mean_square = (total / n) ** 2
    spread = np.maximum(squares - n * mean_square, 0) / (n - 1)
    weight = np.where(used, count, 0.0)
    weighted = (weight * (mean_square - spread / n)).sum(axis=1)
    return np.asarray(weighted / weight.sum(axis=1))
