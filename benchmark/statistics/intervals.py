"""Intervals of every metric of a split, before and after temperature scaling.

What is statistically valid differs by metric, so each says how its interval is made (see `metric`).
Everything after temperature scaling includes the uncertainty of the temperature. Where the rows do
not carry an interval, the estimate says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.bin_resampling import noise_floor
from benchmark.statistics.calibration_error import DEFAULT_BINS, DebiasedSums, debiased_sums
from benchmark.statistics.classwise import class_sums, classwise_parts, squared_at
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.metric import (
    Debiased,
    EffectiveShare,
    Excess,
    Influence,
    Metric,
    Share,
    SimulatedFloor,
)
from benchmark.statistics.metrics import metrics_for
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import (
    RESAMPLES,
    RefittedTemperatures,
    TemperaturePath,
    refit_temperatures,
)
from benchmark.statistics.skewed_interval import (
    MOST_SKEWED,
    NO_CHANCE,
    TOO_FEW_WRONG,
    Moments,
    quantile_of,
    rarer,
    share_interval,
    skewed_interval,
    too_few,
    too_few_of_class,
)
from benchmark.statistics.temperature import TemperatureFit


@dataclass(frozen=True)
class SplitEstimates:
    """Every metric of one split, before and after temperature scaling.

    Attributes:
        n_rows: Rows of the split.
        n_classes: Classes.
        temperature: The temperature; see `RefittedTemperatures`.
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
    refitted: RefittedTemperatures | None = None,
) -> SplitEstimates:
    """Score one split before and after temperature scaling, with 95% intervals.

    Args:
        test_logits: [n, K] logits of the split to score.
        test_labels: [n] its labels.
        calibration_logits: [m, K] logits the temperature was fitted on.
        calibration_labels: [m] their labels.
        fit: What `fit_temperature` returned for the calibration split.
        resamples: Of calibration rows, and simulations of the noise floor; at least 2.
        seed: Of both.
        refitted: Result of `refit_temperatures`, to share it between test splits of one run.

    Raises:
        ValueError: Naming the first bad row.
    """
    rows = check_rows(test_logits, test_labels)
    if refitted is None:
        refitted = refit_temperatures(
            calibration_logits, calibration_labels, fit, resamples=resamples, seed=seed
        )
    known = check_rows(calibration_logits, calibration_labels)
    fixed = TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), resamples).calibrated_on(known)
    free = TemperaturePath.build(rows, fit.temperature, refitted.resampled).calibrated_on(known)
    splits = {"before": ScoredSplit(fixed, None, seed), "after": ScoredSplit(free, refitted, seed)}
    metrics = metrics_for(rows.n_classes)
    return SplitEstimates(
        rows.n_rows,
        rows.n_classes,
        refitted.estimate,
        **{
            name: {metric.name: scored.estimate(metric) for metric in metrics}
            for name, scored in splits.items()
        },
    )


@dataclass(frozen=True)
class ScoredSplit:
    """A split at one temperature, from which metrics are estimated.

    Attributes:
        path: How the temperature may vary.
        refitted: The temperature's refits; None if it is known.
        seed: Of simulations.
    """

    path: TemperaturePath
    refitted: RefittedTemperatures | None
    seed: int

    def estimate(self, metric: Metric) -> Estimate:
        """Return the metric at the temperature of the path, with the interval it allows."""
        scored, kind = self.path.center, metric.interval
        lacking = None if metric.lacking is None else metric.lacking(scored)
        if lacking is not None:
            return Estimate(math.nan, no_interval=lacking)
        if isinstance(kind, Debiased):
            return self._debiased(kind)
        value = metric(scored)
        if isinstance(kind, SimulatedFloor):
            floor = noise_floor(
                scored.confidence, kind.n_bins, kind.scheme,
                resamples=len(self.path.weights), seed=self.seed,
            )  # fmt: skip
            return Estimate(value, floor_mean=floor.mean, floor_q95=floor.q95)
        if isinstance(kind, Share):
            hits = kind.hits(scored)
            return Estimate(value, *share_interval(int(hits.sum()), len(hits)))
        if isinstance(kind, EffectiveShare):
            rows = kind.rows(scored)
            return Estimate(value, *share_interval(value * rows, rows))
        if isinstance(kind, Influence):
            return self._by_influence(metric, kind, value)
        if isinstance(kind, Excess):
            return self._excess(kind, value)
        return Estimate(value)

    def _by_influence(self, metric: Metric, kind: Influence, value: float) -> Estimate:
        if math.isinf(value):
            return Estimate(value, no_interval=NO_CHANCE)
        moments = Moments.of(kind.effect(self.path.center))
        reason = self._missing(kind.follows_temperature, kind.by_class)
        if reason is None and abs(moments.skewness) > MOST_SKEWED:
            reason = TOO_FEW_WRONG
        freedom = min(moments.freedom, rarer(self.path.center.correct) - 1)
        parts = [(moments.variance, freedom)]
        if kind.follows_temperature and self.refitted is not None:
            moved = float(temperature_moves(metric, self.path).var())
            parts.append((moved, self.refitted.rarer - 1))
            moments = moments.plus(moved)
        if reason is None and not math.isfinite(moments.variance):
            reason = NO_CHANCE
        if reason is not None:
            return Estimate(value, no_interval=reason)
        return Estimate(value, *skewed_interval(value, moments, quantile_of(*parts)))

    def _excess(self, kind: Excess, value: float) -> Estimate:
        if math.isnan(value):
            return Estimate(value)
        parts = kind.parts(self.path.center)
        reason = self._missing(follows_temperature=True, by_class=False)
        if isinstance(parts, str):
            return Estimate(value, no_interval=reason or parts)
        if reason is not None:
            return Estimate(value, no_interval=reason)
        extra = 0.0
        if self.refitted is not None:
            losses = np.array([float(kind.loss(node).mean()) for node in self.path.nodes])
            extra = float(self.path.interpolate(losses).var())
        quantile = quantile_of((1.0, rarer(self.path.center.correct) - 1))
        found = parts.interval(extra_variance=extra, quantile=quantile)
        # The value is cross-fitted, and so a little lower than what the interval is made from.
        return Estimate(value, min(found.squared_low, value), max(found.squared_high, value))

    def _missing(self, follows_temperature: bool, by_class: bool) -> str | None:
        """Say what an interval would need that the rows do not have."""
        scored = self.path.center
        found = too_few(scored.correct)
        if found is None and by_class:
            return too_few_of_class(scored.labels, scored.predicted, scored.rows.n_classes)
        if found is None and follows_temperature and self.refitted is not None:
            return self.refitted.estimate.no_interval
        return found

    def _debiased(self, kind: Debiased) -> Estimate:
        sums, extra = _class_parts(self.path) if kind.by_class else _top_parts(self.path)
        quantile = quantile_of((1.0, rarer(self.path.center.correct) - 1))
        error = sums.interval(extra_variance=extra, quantile=quantile)
        reason = self._missing(follows_temperature=True, by_class=False)
        found = Estimate(error.root, error.low, error.high)
        if kind.squared:
            found = Estimate(
                error.squared, error.squared_low, error.squared_high,
                null_variance=sums.null_variance + extra, variance_slope=sums.variance_slope,
            )  # fmt: skip
        return found if reason is None else replace(found, low=None, high=None, no_interval=reason)


def _top_parts(path: TemperaturePath) -> tuple[DebiasedSums, float]:
    """Return the squared error of the predicted class, and the variance that refits add."""
    parts = path.parts()
    return debiased_sums(parts.gap, parts.bins, DEFAULT_BINS), float(parts.refitted.var())


def _class_parts(path: TemperaturePath) -> tuple[DebiasedSums, float]:
    """Return the squared error over classes, and the variance that refits add.

    A square is nearly a parabola in log T, so that the center and both ends of the path are enough.
    """
    sums = classwise_parts(path.center)
    if len(path.nodes) == 1:
        return sums, 0.0
    bins = class_sums(path.center).bins
    ends = (path.nodes[0], path.nodes[-1])
    places = np.log([path.center.temperature, *(end.temperature for end in ends)])
    values = [sums.squared, *(squared_at(end, bins) for end in ends)]
    at_refits = path.interpolate(np.log([node.temperature for node in path.nodes]))
    curve = np.polynomial.Polynomial.fit(places, values, 2)
    return sums, float(curve(at_refits).var())


def temperature_moves(metric: Metric, path: TemperaturePath) -> Float64Array:
    """Return the metric of the same rows at each refitted temperature [resamples]."""
    if len(path.nodes) == 1:
        return np.full(len(path.weights), metric(path.center))
    return path.interpolate(np.array([metric(node) for node in path.nodes]))
