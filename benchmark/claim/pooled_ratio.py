"""One ratio for a table of pairs, with families as what is replicated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from benchmark.arrays import Float64Array, IntArray


class PairedSquares(NamedTuple):
    """The squared errors of one matched pair.

    Attributes:
        dataset: Pairs of a dataset share a weight.
        families: Of the first and of the second model.
        squares: Debiased squared errors of the first and of the second; may be negative.
    """

    dataset: str
    families: tuple[str, str]
    squares: tuple[float, float]


class Pooled(NamedTuple):
    """A ratio of root mean squares, first over second; None where the data set no limit."""

    ratio: float | None
    low: float | None
    high: float | None
    families: tuple[int, int]


def pooled_ratio(pairs: Sequence[PairedSquares], level: float = 0.95) -> Pooled:
    """Return the ratio of root mean squared errors over all pairs, with its interval.

    The ratio r solves sum w (s1 - r^2 s2) = 0, with weights that make datasets alike in scale.
    Its interval holds every r at which that sum, over its standard error at r, is not rejected by
    Student's t (Fieller 1954): near 0 it may have no lower or no upper limit. The standard error
    is clustered by the families of both sides (Cameron, Gelbach & Miller 2011) and at least that
    of either alone; degrees of freedom are the families of the side that has fewer, less one.

    Args:
        pairs: At least one.
        level: Of the interval, in (0, 1).
    """
    names = [np.unique([p.families[side] for p in pairs], return_inverse=True) for side in (0, 1)]
    families = len(names[0][0]), len(names[1][0])
    codes = names[0][1], names[1][1]
    squares = np.array([pair.squares for pair in pairs]) * _weights(pairs)[:, None]
    first, second = squares.sum(axis=0)
    ratio = math.sqrt(first / second) if first >= 0 and second > 0 else None
    freedom = min(families) - 1
    if freedom < 1:
        return Pooled(ratio, None, None, families)
    quantile = float(stdtrit(freedom, (1 + level) / 2))
    both = codes[0] * families[1] + codes[1]
    one, other = (_clustered(squares, code) for code in codes)
    # Accepted by the largest of several variances is what any of them accepts.
    accepted = [
        _accepted(squares.sum(axis=0), covariance, quantile)
        for covariance in (one, other, one + other - _clustered(squares, both))
    ]
    low, high = min(ends[0] for ends in accepted), max(ends[1] for ends in accepted)
    return Pooled(
        ratio,
        math.sqrt(low) if low > 0 else None,
        math.sqrt(max(high, 0.0)) if math.isfinite(high) else None,
        families,
    )


def _weights(pairs: Sequence[PairedSquares]) -> Float64Array:
    """Return one over the spread of the squares of each pair's dataset: its scale, also near 0."""
    names, codes = np.unique([pair.dataset for pair in pairs], return_inverse=True)
    squares = np.array([pair.squares for pair in pairs])
    scale = [math.sqrt(float((squares[codes == k] ** 2).mean())) for k in range(len(names))]
    weights = np.array([1 / value if value > 0 else 1.0 for value in scale])
    return np.asarray(weights[codes])


def _clustered(squares: Float64Array, codes: IntArray) -> Float64Array:
    """Return the covariance [2, 2] of the sums of squares [pairs, 2], by clusters [pairs]."""
    groups = int(codes.max()) + 1
    sums = np.array([np.bincount(codes, column, minlength=groups) for column in squares.T])
    sums = sums[:, np.unique(codes)]
    n = sums.shape[1]
    centered = sums - sums.mean(axis=1, keepdims=True)
    return np.asarray(centered @ centered.T * (n / max(n - 1, 1)))


def _accepted(sums: Float64Array, covariance: Float64Array, quantile: float) -> tuple[float, float]:
    """Return the ends, in [0, inf], of the x with (s1 - x s2)^2 <= t^2 Var(s1 - x s2)."""
    (first, second), squared = sums, quantile**2
    square = second**2 - squared * covariance[1, 1]
    half = first * second - squared * covariance[0, 1]
    constant = first**2 - squared * covariance[0, 0]
    discriminant = half**2 - square * constant
    if discriminant < 0:  # no x is rejected, or, of a variance below 0, every one
        return (0.0, math.inf) if square < 0 else (math.inf, 0.0)
    if square == 0:
        return 0.0, math.inf
    roots = sorted((half + sign * math.sqrt(discriminant)) / square for sign in (-1, 1))
    if square > 0:
        return max(roots[0], 0.0), roots[1]
    # Rejected between the roots: a lower limit, if nothing below them can be.
    return (roots[1] if roots[0] < 0 < roots[1] else 0.0), math.inf
