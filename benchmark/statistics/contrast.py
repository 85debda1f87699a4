"""Differences of debiased squared errors between models that were scored on the same rows.

Near 0 a debiased error has no root to speak of, and the spread of the roots of resamples depends
on where they happen to fall. The squares are unbiased, so what is tested and given an interval is
the difference of squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from benchmark.arrays import Float64Array, IntArray
from benchmark.statistics.calibration_error import DEFAULT_BINS, DEFAULT_LEVEL, debiased_sums
from benchmark.statistics.resampling import ErrorParts
from benchmark.statistics.skewed_interval import two_sided

CHANCE = 0.25
"""How much of a chance difference is taken off the level: with none calibrated pairs are rejected
too seldom (1%), with all of it pairs of models with like errors too often (10%)."""


class PairedDifference(NamedTuple):
    """A difference with its 95% interval and the two-sided p value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float

    def rooted(self) -> PairedDifference:
        """Return the signed roots of difference and ends: in the units of the error itself."""
        difference, low, high = (signed_root(value) for value in self[:3])
        return PairedDifference(difference, low, high, self.p_value)


def signed_root(value: float) -> float:
    """Return sign(value) sqrt(|value|)."""
    return math.copysign(math.sqrt(abs(value)), value)


@dataclass(frozen=True)
class SquaredContrast:
    """A weighted sum of debiased squared errors on the same rows, with the parts of its variance.

    Attributes:
        value: The sum.
        level: The sum with positive weights: as many squared errors as there are.
        null_variance: Its variance if no model has any error.
        variance_slope: By how much the variance grows with the true `level`.
    """

    value: float
    level: float
    null_variance: float
    variance_slope: float

    @classmethod
    def of(cls, models: Sequence[ErrorParts], weights: Sequence[float]) -> SquaredContrast:
        """Estimate it with its variance.

        The squared error of a model is a U-statistic: of every row a linear part, 2 g e + g^2 with
        the gap g of its bin and the row's own e around it, and of every pair of rows in a bin a
        part that stays where g is 0. Both are summed over models before they are squared, so that
        what the models have in common cancels.

        Args:
            models: The same rows in the same order.
            weights: One for each model, such as 1 and -1.
        """
        pairs = list(zip(weights, (_residuals(model) for model in models), strict=True))
        squares = [debiased_sums(m.gap, m.bins, DEFAULT_BINS).squared for m in models]
        value = sum(w * square for w, square in zip(weights, squares, strict=True))
        level = sum(abs(w) * square for w, square in zip(weights, squares, strict=True))
        n = len(models[0].gap)
        linear = sum(w * (2 * one.bin_gap * one.residual + one.bin_gap**2) for w, one in pairs)
        # Over the plain squares, which are biased but never negative: a ratio of two such is not.
        mass = sum(abs(w) * float((one.bin_gap**2).mean()) for w, one in pairs)
        slope = float(np.asarray(linear).var()) / n / mass if mass > 0 else 0.0
        null = sum(w * v * _pair_covariance(one, other) for w, one in pairs for v, other in pairs)
        moved = sum(w * model.refitted for w, model in zip(weights, models, strict=True))
        extra = float(np.asarray(moved).var())
        return cls(float(value), float(level), max(float(null), 0.0) + extra, slope)

    def test(self, level: float = DEFAULT_LEVEL) -> PairedDifference:
        """Return the differences that a normal test does not reject, and the p value of 0.

        The variance is that of the hypothesis. If the difference is d, the errors cannot add up to
        less than |d|; and of the level that was estimated, part of what lies between the estimated
        difference and d is noise, for chance differences come with a level that is high by chance.
        """
        z = float(ndtri((1 + level) / 2))
        spread = math.sqrt(self._variance(0.0))
        score = self.value / spread if spread > 0 else math.copysign(math.inf, self.value)
        p_value = 1.0 if self.value == 0 else two_sided(score)
        return PairedDifference(
            self.value, self.value - self._reach(z, -1), self.value + self._reach(z, 1), p_value
        )

    def _variance(self, difference: float) -> float:
        """Return the variance of the estimate if the true difference were this."""
        level = max(self.level - CHANCE * abs(self.value - difference), abs(difference))
        return self.null_variance + self.variance_slope * level

    def _reach(self, z: float, side: Literal[-1, 1]) -> float:
        """Return how far to one side differences are not rejected."""

        def excess(reach: float) -> float:
            return reach**2 - z * z * self._variance(self.value + side * reach)

        # Where even the largest level there can be is rejected.
        half = z * z * self.variance_slope / 2
        level = abs(self.value) + max(self.level, 0.0)
        most = half + math.sqrt(
            half**2 + z * z * (self.null_variance + self.variance_slope * level)
        )
        return float(brentq(excess, 0.0, most * (1 + 1e-9))) if most > 0 else 0.0


class _Residuals(NamedTuple):
    """Of every row [n]: its bin, the gap of the bin, its own around it, and the bin's rows - 1."""

    bins: IntArray
    bin_gap: Float64Array
    residual: Float64Array
    others: Float64Array


def _residuals(model: ErrorParts) -> _Residuals:
    count = np.bincount(model.bins, minlength=DEFAULT_BINS)
    total = np.bincount(model.bins, model.gap, minlength=DEFAULT_BINS)
    gap = (total / np.maximum(count, 1))[model.bins]
    others = np.maximum(count - 1, 1)[model.bins].astype(np.float64)
    return _Residuals(model.bins, gap, model.gap - gap, others)


def _pair_covariance(one: _Residuals, other: _Residuals) -> float:
    """Return the covariance of two squared errors, each of a model without any error.

    Pairs of rows count that share a bin in both models.
    """
    cell = one.bins * DEFAULT_BINS + other.bins
    product = one.residual * other.residual / np.sqrt(one.others * other.others)
    return 2 * float((np.bincount(cell, product) ** 2).sum()) / len(cell) ** 2
