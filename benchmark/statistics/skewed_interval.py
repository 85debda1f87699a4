"""Intervals that stay honest where mistakes are few and weigh much: skewed means and exact shares.

A mean of losses to which a few mistakes contribute most is skewed, so that intervals which are
symmetric (or percentiles of resamples) lie too low. And with very few mistakes no interval that is
made from the rows is right, for the rows do not show how bad a mistake can be: then none is given,
and it is said why.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from benchmark.arrays import BoolArray, Float64Array, IntArray
from benchmark.statistics.calibration_error import DEFAULT_LEVEL

FEWEST = 10
"""Rows predicted wrong, and rows predicted right, without which no interval is given."""
MOST_SKEWED = 1.0
"""Skewness of a mean beyond which single rows make up its spread: one mistake alone has 1."""
FEWEST_OF_CLASS = 10
"""Rows of every class, and predictions of it, without which a mean over classes has no interval."""
NORMAL = float(ndtri((1 + DEFAULT_LEVEL) / 2))
TOO_FEW_WRONG, TOO_FEW_RIGHT = "too few errors", "too few right"
TOO_FEW_OF_CLASS = "too few rows of a class"
NO_CHANCE = "a label has probability 0"
TOO_FEW_CALIBRATION = "too few errors among the calibration rows"


class Moments(NamedTuple):
    """Variance and third cumulant of a mean, and how well the rows show its variance.

    `freedom` are the degrees of freedom of a normal sample whose variance would be known as well.
    """

    variance: float
    third: float
    freedom: float = math.inf

    @classmethod
    def of(cls, effects: Float64Array) -> Moments:
        """Estimate those of the mean of independent effects [n].

        The variance of an estimated variance, relative to its square, is (kurtosis - 1) / n, and
        2 / df in a normal sample. Where each mistake weighs alike, df is twice their number; the
        less alike, the smaller.
        """
        n = len(effects)
        if n < 2:
            return cls(math.nan, math.nan)
        with np.errstate(invalid="ignore"):  # a label of probability 0 has an infinite effect
            centered = effects - effects.mean()
        squares = centered * centered
        total = float(squares.sum())
        third = float(np.dot(squares, centered)) / n**3
        excess = n * float(np.dot(squares, squares)) - total**2
        freedom = 2 * n * total**2 / excess if excess > 0 else math.inf
        return cls(total / (n * (n - 1)), third, freedom)

    @property
    def skewness(self) -> float:
        """Of the mean, 0 for a normal one."""
        return self.third / self.variance**1.5 if self.variance > 0 else 0.0

    def plus(self, variance: float) -> Moments:
        """Add an independent part that is not skewed."""
        return self._replace(variance=self.variance + variance)


def skewed_interval(
    value: float, moments: Moments, quantile: float = NORMAL
) -> tuple[float, float]:
    """Return the interval of a mean, or of what moves with one, mended for its skewness.

    Hall 1992, "On the removal of skewness by transformation": the studentised mean T is turned by
    T + g T^2 / 3 + g^2 T^3 / 27 + g / 6, with g the skewness of the mean, into a statistic that is
    normal to the second order; monotone, so that it can be inverted.

    Args:
        value: The mean.
        moments: Of it.
        quantile: Of the transformed statistic, from `quantile_of`.

    >>> low, high = skewed_interval(0.1, Moments(0.01**2, third=0.3 * 0.01**3))
    >>> round(low, 4), round(high, 4)
    (0.0837, 0.1265)
    """
    error = math.sqrt(moments.variance)
    ends = (_untwist(score, moments.skewness) for score in (quantile, -quantile))
    low, high = (value - error * end for end in ends)
    return low, high


def rarer(correct: BoolArray) -> int:
    """Count the wrong rows, or the right ones where those are fewer, of [n]."""
    right = int(np.count_nonzero(correct))
    return min(right, len(correct) - right)


def quantile_of(*parts: tuple[float, float], level: float = DEFAULT_LEVEL) -> float:
    """Return Student's quantile for a sum of independent parts (Welch 1947).

    Args:
        parts: Variance of each and its degrees of freedom: a spread that rare rows make up is
            known no better than from their number, so at most as many as `rarer` rows, less one.
        level: Of the interval, in (0, 1).
    """
    total = sum(variance for variance, _ in parts)
    shares = [
        (variance / total) ** 2 / max(freedom, 1) for variance, freedom in parts if variance > 0
    ]
    return float(stdtrit(1 / sum(shares), (1 + level) / 2)) if shares else NORMAL


def normal_score(value: float, moments: Moments) -> float:
    """Return the standard normal score of a value whose true mean would be 0; see above."""
    if moments.variance == 0:
        return 0.0 if value == 0 else math.copysign(math.inf, value)
    return float(twist(value / math.sqrt(moments.variance), moments.skewness))


def twist(studentised: ArrayLike, skewness: ArrayLike) -> Float64Array:
    """Hall's transformation of studentised means, elementwise."""
    t, g = np.asarray(studentised), np.asarray(skewness)
    return np.asarray(t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6)


def _untwist(score: float, skewness: float) -> float:
    if abs(skewness) < 1e-6:  # the limit, where the formula would cancel
        return score - skewness * (score * score / 3 + 1 / 6)
    return 3 / skewness * (float(np.cbrt(1 + skewness * (score - skewness / 6))) - 1)


def share_interval(hits: float, n: float, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
    """Exact interval of a share (Clopper & Pearson 1934): covers at least as often as it says.

    Where rows are not chosen beforehand, n is how many such would be worth as much (Korn & Graubard
    1998), and need be no integer.

    >>> [round(end, 4) for end in share_interval(299, 300)]
    [0.9816, 0.9999]
    """
    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def too_few(correct: BoolArray) -> str | None:
    """Say what rows [n] have too little of for an interval of their errors; None if they do not."""
    right = int(np.count_nonzero(correct))
    if len(correct) - right < FEWEST:
        return TOO_FEW_WRONG
    return TOO_FEW_RIGHT if right < FEWEST else None


def too_few_of_class(labels: IntArray, predicted: IntArray, n_classes: int) -> str | None:
    """Say if a class has too few rows, or predictions, for an interval of a mean over classes."""
    counts = [np.bincount(classes, minlength=n_classes) for classes in (labels, predicted)]
    return TOO_FEW_OF_CLASS if min(count.min() for count in counts) < FEWEST_OF_CLASS else None


def two_sided(score: float) -> float:
    """Return the two-sided p value of a standard normal score."""
    return float(2 * ndtr(-abs(score)))
