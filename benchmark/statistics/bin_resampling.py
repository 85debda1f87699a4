"""Resampling of binned calibration errors from the sums of their bins, never by binning again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmark.arrays import Float64Array
from benchmark.statistics.calibration_error import (
    DEFAULT_BINS,
    DEFAULT_LEVEL,
    Scheme,
    assign_bins,
    check_confidence,
    equal_mass_edges,
)
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.resampling import BIN_STREAM, NOISE_STREAM, RESAMPLES, percentiles

NOISE_CELLS = 64
BinnedError = Literal["expected", "max", "rms"]


class NoiseFloor(NamedTuple):
    """What an error measures when there is none, at the same confidences and number of rows."""

    mean: float
    q95: float


def noise_floor(
    confidence: ArrayLike,
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_width",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NoiseFloor:
    """Simulate the ECE of a perfectly calibrated model with these confidences.

    Outcomes are drawn with probability `confidence`. Rows of nearly equal confidence are drawn
    together as one binomial number, each bin being cut at 64 quantiles.

    Args:
        confidence: [n] in [0, 1].
        n_bins: At least 1.
        scheme: `equal_width` or `equal_mass`.
        resamples: Simulations.
        seed: Of the simulations.

    Returns:
        Mean and 95% quantile of the ECE, both in [0, 1].
    """
    confidence, _ = check_confidence(confidence, np.zeros(np.shape(confidence)))
    index = assign_bins(confidence, n_bins, scheme)
    cell = index * NOISE_CELLS + np.searchsorted(
        equal_mass_edges(confidence, NOISE_CELLS), confidence
    )
    used, cell = np.unique(cell, return_inverse=True)
    rows = np.bincount(cell)
    total = np.bincount(cell, confidence)
    generator = np.random.default_rng([seed, NOISE_STREAM])
    probability = np.clip(total / rows, 0, 1)
    gap = generator.binomial(rows, probability, size=(resamples, len(rows))) - total
    # Cells of a bin are adjacent.
    first = np.flatnonzero(np.diff(used // NOISE_CELLS, prepend=-1))
    errors = np.abs(np.add.reduceat(gap, first, axis=1)).sum(axis=1) / len(confidence)
    return NoiseFloor(float(errors.mean()), float(np.quantile(errors, 0.95)))


def bootstrap_interval(
    confidence: ArrayLike,
    correct: ArrayLike,
    error: BinnedError = "expected",
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_width",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> Estimate:
    """Percentile bootstrap of a binned calibration error from the sums of its bins.

    A resample's rows of each bin, right and wrong, are multinomial; given their numbers the summed
    confidences are normal. Bins stay where they are. The interval describes resampling noise; it
    does not cover the true error of a well calibrated model, because the error cannot be negative:
    report `noise_floor` and `debiased_calibration_error` instead.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] of 0 or 1.
        error: `expected` (ECE), `max` or `rms`.
        n_bins: At least 1.
        scheme: `equal_width` or `equal_mass`.
        resamples: How many.
        seed: Of the resamples.
        level: Of the interval, in (0, 1).

    Raises:
        ValueError: Bad shapes, ranges, n_bins, scheme or error.
    """
    if error not in _BINNED_ERRORS:
        raise ValueError(f"unknown error {error!r}; use one of {', '.join(_BINNED_ERRORS)}")
    confidence, correct = check_confidence(confidence, correct)
    cells = _cell_sums(confidence, correct, n_bins, scheme)
    generator = np.random.default_rng([seed, BIN_STREAM])
    n = len(confidence)
    counts = generator.multinomial(n, cells.rows / n, size=resamples)
    noise = generator.standard_normal(counts.shape)
    gap = counts * cells.mean_gap + np.sqrt(counts * cells.variance) * noise
    measure = _BINNED_ERRORS[error]
    value = measure(_merge(cells.rows[None]), _merge((cells.rows * cells.mean_gap)[None]))
    replicates = measure(_merge(counts.astype(np.float64)), _merge(gap))
    return Estimate(float(value[0]), *percentiles(replicates, level))


def _merge(cells: Float64Array) -> Float64Array:
    """Add wrong and right rows of each bin: [R, 2 n_bins] to [R, n_bins]."""
    n_bins = cells.shape[1] // 2
    return np.asarray(cells[:, :n_bins] + cells[:, n_bins:])


class _CellSums(NamedTuple):
    """Rows, mean gap and variance of the gap of wrong, then right rows of each bin [2 n_bins]."""

    rows: Float64Array
    mean_gap: Float64Array
    variance: Float64Array


def _cell_sums(
    confidence: Float64Array, correct: Float64Array, n_bins: int, scheme: Scheme
) -> _CellSums:
    cell = assign_bins(confidence, n_bins, scheme) + n_bins * (correct > 0)
    gap = confidence - correct
    rows = np.bincount(cell, minlength=2 * n_bins).astype(np.float64)
    at_least_one = np.maximum(rows, 1)
    mean = np.bincount(cell, gap, minlength=2 * n_bins) / at_least_one
    square = np.bincount(cell, gap * gap, minlength=2 * n_bins) / at_least_one
    return _CellSums(rows, mean, np.maximum(square - mean**2, 0))


def _expected(rows: Float64Array, gap: Float64Array) -> Float64Array:
    return np.asarray(np.abs(gap).sum(axis=1) / rows.sum(axis=1))


def _max(rows: Float64Array, gap: Float64Array) -> Float64Array:
    return np.asarray((np.abs(gap) / np.maximum(rows, 1)).max(axis=1))


def _rms(rows: Float64Array, gap: Float64Array) -> Float64Array:
    return np.asarray(np.sqrt((gap**2 / np.maximum(rows, 1)).sum(axis=1) / rows.sum(axis=1)))


_BINNED_ERRORS: dict[str, Callable[[Float64Array, Float64Array], Float64Array]] = {
    "expected": _expected,
    "max": _max,
    "rms": _rms,
}
