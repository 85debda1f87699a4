"""Resamples of rows, and of the temperature fitted on them.

For anything after temperature scaling the calibration split is resampled and the temperature
refitted, each refit a root of gradients that are tabulated once at a few temperatures. Resamples
draw rows with replacement; means over rows are resampled exactly, with one matrix product.

One seed gives one set of resamples for a number of rows, so results of models scored on the same
rows are paired.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from benchmark.arrays import BoolArray, Float64Array, IntArray, UInt16Array
from benchmark.statistics.calibration_error import (
    DEFAULT_BINS,
    DEFAULT_LEVEL,
    assign_bins,
    debiased_sums,
)
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.logit_arrays import Labels, LogitRows, Logits, check_rows
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.row_terms import row_slopes
from benchmark.statistics.skewed_interval import (
    MOST_SKEWED,
    TOO_FEW_CALIBRATION,
    Moments,
    quantile_of,
    rarer,
    too_few,
    twist,
)
from benchmark.statistics.temperature import TemperatureFit, fit_temperature

RESAMPLES = 1000
# Beyond this many rows random groups of rows are resampled: their number sets the precision.
RESAMPLED_GROUPS = 10_000
BATCH_ELEMENTS = 1 << 16
# Counts up to this number (20 MB) are kept for the next metric, map or split of as many rows.
KEPT_COUNTS = 10_000_000
# Streams of random numbers: the resamples of a split must not depend on what else was drawn.
TEST_STREAM, CALIBRATION_STREAM, BIN_STREAM, NOISE_STREAM, GROUP_STREAM = range(5)
# Half-width, in standard errors, of the range of temperatures that is tabulated for refits.
REFIT_REACH = 8.0
WIDEST_REACH = 3.0
# Enough for seven digits of a refit over a narrow and over the widest range.
REFIT_NODES, WIDE_REFIT_NODES = 12, 40
NARROW_REACH = 0.6
NEWTON_STEPS = 12
_AT = dict.fromkeys(("at_infinity", "flat"), "the temperature has no optimum")
_AT["at_zero"] = TOO_FEW_CALIBRATION
TEST_NODES, WIDE_TEST_NODES = 6, 20


def resample_counts(
    n: int, resamples: int, seed: int, stream: int
) -> Iterator[tuple[slice, Float64Array]]:
    """Yield batches of resamples as counts: how often each of n rows was drawn, [batch, n]."""
    size = max(1, BATCH_ELEMENTS // n)
    if n * resamples > KEPT_COUNTS:
        batches = _draw_counts(n, resamples, seed, stream, size)
    else:
        kept = _kept_counts(n, resamples, seed, stream, size)
        batches = (kept[start : start + size] for start in range(0, resamples, size))
    for start, counts in zip(range(0, resamples, size), batches, strict=True):
        yield slice(start, start + len(counts)), counts.astype(np.float64)


@functools.lru_cache(maxsize=2)
def _kept_counts(n: int, resamples: int, seed: int, stream: int, size: int) -> UInt16Array:
    """Draw all counts [resamples, n]: the splits and maps of a run use them again and again."""
    return np.concatenate([*_draw_counts(n, resamples, seed, stream, size)])


def _draw_counts(
    n: int, resamples: int, seed: int, stream: int, size: int
) -> Iterator[UInt16Array]:
    """Draw counts in batches [size, n]; the last is smaller."""
    generator = np.random.default_rng([seed, stream])
    for start in range(0, resamples, size):
        batch = min(size, resamples - start)
        drawn = generator.integers(0, n, size=(batch, n))
        drawn += n * np.arange(batch)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=batch * n)
        yield counts.reshape(batch, n).astype(np.uint16)


def resample_means(columns: Float64Array, resamples: int, seed: int, stream: int) -> Float64Array:
    """Return the means of each column [n, C] over resampled rows, [resamples, C].

    Above 10,000 rows, rows are first summed in 10,000 random groups and the groups resampled: as
    valid for a mean, with the standard error known to 1%, at a cost that no longer grows with n.

    >>> coin = np.repeat([[0.0], [1.0]], 50, axis=0)  # 100 rows, half of them right
    >>> means = resample_means(coin, resamples=1000, seed=0, stream=TEST_STREAM)
    >>> means.shape, round(float(means.std()), 2)  # the standard error is sqrt(.25 / 100)
    ((1000, 1), 0.05)
    """
    n = len(columns)
    columns = np.column_stack([columns, np.ones(n)])
    if n > RESAMPLED_GROUPS:
        # Random, not strided: rows sorted by class would otherwise make groups too much alike.
        order = np.random.default_rng([seed, GROUP_STREAM]).permutation(n)
        starts = np.linspace(0, n, RESAMPLED_GROUPS, endpoint=False).astype(np.int64)
        columns = np.add.reduceat(columns[order], starts, axis=0)
    sums = np.empty((resamples, columns.shape[1]))
    for at, counts in resample_counts(len(columns), resamples, seed, stream):
        with np.errstate(invalid="ignore"):  # 0 * inf, where a label has probability 0
            sums[at] = counts @ columns
    return np.asarray(sums[:, :-1] / sums[:, -1:])


def percentiles(replicates: Float64Array, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
    """Ends of the central interval of replicates [R].

    >>> percentiles(np.arange(101.0), level=0.9)
    (5.0, 95.0)
    """
    tail = (1 - level) / 2
    # No interpolation: a refitted temperature may be infinite.
    low, high = np.quantile(replicates, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


@dataclass(frozen=True)
class RefittedTemperatures:
    """A fitted temperature with its interval, and refits on resamples of the calibration rows.

    Attributes:
        estimate: The temperature; without interval if the fit did not converge, or where the
            calibration rows hold too few errors to say what another such split would have given.
        resampled: [resamples] temperatures; all equal to the fit's if it did not converge.
        rarer: Calibration rows predicted wrong, or right, whichever are fewer.
    """

    estimate: Estimate
    resampled: Float64Array
    rarer: int


def refit_temperatures(
    logits: Logits,
    labels: Labels,
    fit: TemperatureFit,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RefittedTemperatures:
    """Give the temperature an interval, and refit it on resamples of the calibration split.

    The gradient of each row is tabulated at Chebyshev points of log T around the fit. The interval
    holds the temperatures at which a mean gradient of 0 is not rejected (see `skewed_interval`). A
    resample's gradient is a weighted sum of those of the rows; its root is found on the
    interpolant. Those with a root outside are refitted in full; in groups, they count as 0 or inf.

    Args:
        logits: [m, K] calibration logits.
        labels: [m] calibration labels.
        fit: What `fit_temperature` returned for them.
        resamples: How many.
        seed: Of the resamples.

    Example:
        >>> labels = np.arange(400) % 2
        >>> logits = np.random.default_rng(0).normal(size=(400, 2)) + np.eye(2)[labels]
        >>> fit = fit_temperature(logits, labels)
        >>> estimate = refit_temperatures(logits, labels, fit, resamples=9).estimate
        >>> assert estimate.low < fit.temperature < estimate.high
    """
    if fit.status != "converged":
        held = Estimate(fit.temperature, no_interval=_AT[fit.status])
        return RefittedTemperatures(held, np.full(resamples, fit.temperature), 0)
    rows = check_rows(logits, labels)
    reach = _refit_reach(rows, fit)
    nodes = chebyshev.chebpts1(REFIT_NODES if reach < NARROW_REACH else WIDE_REFIT_NODES)
    slopes = row_slopes(rows, np.exp(reach * nodes) / fit.temperature)
    sums = resample_means(slopes, resamples, seed, CALIBRATION_STREAM)
    temperatures = fit.temperature * np.exp(-reach * _roots(nodes, sums))
    below, above = sums[:, -1] <= 0, sums[:, 0] >= 0
    temperatures[below], temperatures[above] = 0.0, math.inf
    if rows.n_rows <= RESAMPLED_GROUPS:
        _refit_in_full(rows, np.flatnonzero(below | above), temperatures, seed)
    correct = _correct(rows)
    estimate = _temperature_interval(fit.temperature, reach, nodes, slopes, correct)
    return RefittedTemperatures(estimate, temperatures, rarer(correct))


def _correct(rows: LogitRows) -> BoolArray:
    predicted = np.concatenate([block.source.argmax(axis=1) for block in rows.blocks()])
    return np.asarray(predicted == rows.labels)


def _temperature_interval(
    temperature: float,
    reach: float,
    nodes: Float64Array,
    slopes: Float64Array,
    correct: BoolArray,
) -> Estimate:
    """Return the temperatures at which the rows' mean gradient may be 0.

    Args:
        temperature: The fitted one.
        reach: Half-width in log T of the range of the nodes.
        nodes: [J] Chebyshev points in [-1, 1], in log(1/T).
        slopes: [m, J] gradients of the rows there.
        correct: [m] whether each row's prediction is right.
    """
    moments = [Moments.of(column) for column in slopes.T]
    skewness = np.array([one.skewness for one in moments])
    middle = float(np.interp(0.0, nodes, np.abs(skewness)))
    if too_few(correct) or middle > MOST_SKEWED:
        return Estimate(temperature, no_interval=TOO_FEW_CALIBRATION)
    errors = np.sqrt([one.variance for one in moments])
    scores = twist(slopes.mean(axis=0) / errors, skewness)
    z = quantile_of((1.0, rarer(correct) - 1))
    if not scores[0] < -z < z < scores[-1]:
        return Estimate(temperature, no_interval=TOO_FEW_CALIBRATION)
    # A high inverse temperature is a low temperature.
    low, high = (temperature * math.exp(-reach * _crossing(nodes, scores, at)) for at in (z, -z))
    return Estimate(temperature, low, high)


def _crossing(nodes: Float64Array, scores: Float64Array, at: float) -> float:
    """Return where the polynomial through the scores first reaches a value, seen from 0."""
    return float(_roots(nodes, (scores - at)[None])[0])


def _refit_reach(rows: LogitRows, fit: TemperatureFit) -> float:
    """Half-width in log T that holds nearly every refit, from the sandwich standard error."""
    step = 1e-3
    slopes = row_slopes(rows, np.exp([-step, 0.0, step]) / fit.temperature)
    curvature = float((slopes[:, 2] - slopes[:, 0]).mean()) / (2 * step)
    error = float(slopes[:, 1].std()) / math.sqrt(rows.n_rows)
    if curvature <= 0:
        return WIDEST_REACH
    return min(max(REFIT_REACH * error / curvature, step), WIDEST_REACH)


def _roots(nodes: Float64Array, values: Float64Array) -> Float64Array:
    """Roots in [-1, 1] of the polynomials through values [R, J] at the Chebyshev points [J]."""
    coefficients = np.linalg.solve(chebyshev.chebvander(nodes, len(nodes) - 1), values.T)
    derivative = chebyshev.chebder(coefficients)
    root, low, high = np.zeros(len(values)), np.full(len(values), -1.0), np.ones(len(values))
    for _ in range(NEWTON_STEPS):
        value = chebyshev.chebval(root, coefficients, tensor=False)
        slope = chebyshev.chebval(root, derivative, tensor=False)
        low, high = np.where(value < 0, root, low), np.where(value < 0, high, root)
        newton = root - value / np.where(slope > 0, slope, np.inf)
        # Gradients rise, so the root stays bracketed; bisect where Newton would leave the bracket.
        root = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return root


def _refit_in_full(rows: LogitRows, which: IntArray, temperatures: Float64Array, seed: int) -> None:
    wanted = set(which.tolist())
    if not wanted:
        return
    for at, counts in resample_counts(rows.n_rows, len(temperatures), seed, CALIBRATION_STREAM):
        for resample in wanted.intersection(range(at.start, at.stop)):
            drawn = np.repeat(np.arange(rows.n_rows), counts[resample - at.start].astype(np.int64))
            refit = fit_temperature(rows.values[drawn], rows.labels[drawn])
            temperatures[resample] = refit.temperature


class ErrorParts(NamedTuple):
    """What the debiased squared error of one model is made of.

    Attributes:
        gap: [n] confidence minus correct.
        bins: [n] the equal-mass bin of each row.
        refitted: [resamples] the squared error at each refitted temperature, in the same bins.
    """

    gap: Float64Array
    bins: IntArray
    refitted: Float64Array


@dataclass(frozen=True)
class TemperaturePath:
    """The test split at the fitted temperature and at nodes that span the refitted ones.

    Attributes:
        center: Predictions at the fitted temperature.
        nodes: Predictions at the node temperatures; only `center` if the temperature cannot vary.
        weights: [resamples, nodes] that interpolate a value at the nodes to each refit.

    Example:
        The Brier score as the temperature varies from 1.5 to 2.5:

        >>> rows = check_rows(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([0, 0]))
        >>> path = TemperaturePath.build(rows, 2.0, refitted=np.array([1.5, 2.0, 2.5]))
        >>> at_nodes = path.column(lambda node: node.brier).mean(axis=0)
        >>> path.interpolate(at_nodes).round(3)
        array([0.819, 0.741, 0.687])
    """

    center: Predictions
    nodes: list[Predictions]
    weights: Float64Array

    @classmethod
    def fixed(cls, scored: Predictions, resamples: int) -> TemperaturePath:
        """Return the path of a temperature that is known, so that resamples do not change it."""
        return cls(scored, [scored], np.ones((resamples, 1)))

    @classmethod
    def build(cls, rows: LogitRows, temperature: float, refitted: Float64Array) -> TemperaturePath:
        """Score the nodes that span the refitted temperatures [resamples]."""
        center = Predictions.from_rows(rows, temperature)
        usable = np.isfinite(refitted) & (refitted > 0)
        if temperature == 0 or math.isinf(temperature) or not usable.any():
            return cls.fixed(center, len(refitted))
        low, high = np.log([refitted[usable].min(), refitted[usable].max()])
        middle, half = (low + high) / 2, max((high - low) / 2, 1e-6)
        points = chebyshev.chebpts1(TEST_NODES if half < NARROW_REACH else WIDE_TEST_NODES)
        nodes = [Predictions.from_rows(rows, math.exp(middle + half * x)) for x in points]
        # A refit at a limit (0 or inf) is moved to the most extreme of the others.
        bounded = np.clip(refitted, math.exp(low), math.exp(high))
        basis = chebyshev.chebvander((np.log(bounded) - middle) / half, len(points) - 1)
        weights = basis @ np.linalg.inv(chebyshev.chebvander(points, len(points) - 1))
        return cls(center, nodes, weights)

    def calibrated_on(self, calibration: LogitRows) -> TemperaturePath:
        """Return the same path, prediction sets at the fitted temperature calibrated on rows."""
        return replace(self, center=replace(self.center, calibration=calibration))

    def column(self, field: Callable[[Predictions], Float64Array]) -> Float64Array:
        """Stack one per-row quantity at all nodes, [n, nodes]."""
        return np.column_stack([field(node) for node in self.nodes])

    def interpolate(self, at_nodes: Float64Array) -> Float64Array:
        """Value at each refit from values at the nodes, [nodes] or [resamples, nodes]."""
        return np.asarray((self.weights * at_nodes).sum(axis=1))

    def parts(self) -> ErrorParts:
        """Return what the debiased squared error is made of, and how refits move it."""
        index = assign_bins(self.center.confidence, DEFAULT_BINS, "equal_mass")
        squared = [
            debiased_sums(node.confidence - node.correct, index, DEFAULT_BINS).squared
            for node in self.nodes
        ]
        gap = self.center.confidence - self.center.correct
        return ErrorParts(gap, index, self.interpolate(np.array(squared)))
