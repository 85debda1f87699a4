"""Which latency percentiles a number of queries supports, and their upper bounds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from benchmark.arrays import Float64Array
from benchmark.records import Interval, Percentile

RANKS = (50.0, 90.0, 95.0, 99.0)
CONFIDENCE = 0.99
# The largest latency of all is never used as a bound: one hiccup would decide it.
_DISCARDED = 1


@functools.cache
def upper_bound_position(count: int, rank: float, confidence: float = CONFIDENCE) -> int | None:
    """Position (from 0, ascending) of the latency that bounds a percentile from above.

    The latency with t others above it exceeds the true percentile q unless at most t of `count`
    queries lie beyond q, which has probability P(Binomial(count, 1 - rank/100) <= t). The largest
    t for which that is at most 1 - `confidence` gives the tightest bound. It must leave out at
    least the largest latency, which makes the least count 64 for p90, 130 for p95 and 662 for
    p99 (the same counts as MLPerf's early stopping criterion).

    Args:
        count: number of queries, independent.
        rank: percentile in (0, 100).
        confidence: in (0, 1).

    Returns:
        The position, or None when the count is too small.
    """
    tail = 1 - rank / 100
    # ppf gives the least t with cdf >= 1 - confidence, so t - 1 is the last one below it; rounding
    # inside ppf is settled by asking the cdf itself.
    above = int(stats.binom.ppf(1 - confidence, count, tail)) + 1
    while above >= 0 and stats.binom.cdf(above, count, tail) > 1 - confidence:
        above -= 1
    return count - 1 - above if above >= _DISCARDED else None


def supported_percentiles(
    latencies_ms: Float64Array, ranks: Sequence[float] = RANKS
) -> tuple[Percentile, ...]:
    """Return the percentiles that the count supports, each with its 99% upper bound.

    Args:
        latencies_ms: float64 [n], one per query, any order.
        ranks: percentiles asked for, in (0, 100).

    Returns:
        Percentiles in the order asked, unsupported ones left out.
    """
    ordered = np.sort(latencies_ms)
    found = []
    for rank in ranks:
        position = upper_bound_position(len(ordered), rank)
        if position is not None:
            value = float(np.percentile(ordered, rank))
            found.append(Percentile(rank=rank, value_ms=value, upper_ms=float(ordered[position])))
    return tuple(found)


def median_interval(values: Float64Array, confidence: float = 0.95) -> Interval:
    """Interval of a median from order statistics, which assumes no distribution.

    Args:
        values: float64 [n], n >= 6 (with fewer, not even the extremes cover 95%).
        confidence: in (0, 1).

    Raises:
        ValueError: when n is too small for the confidence.
    """
    count = len(values)
    below = int(stats.binom.ppf((1 - confidence) / 2, count, 0.5)) - 1
    if below < 0:
        raise ValueError(f"{count} values cannot give a {confidence:.0%} interval of their median")
    ordered = np.sort(values)
    return Interval(
        low=float(ordered[below]),
        high=float(ordered[count - 1 - below]),
        confidence=confidence,
        over="pairs",
        units=count,
    )


def mean_interval(
    values: Float64Array,
    over: Literal["processes", "passes"],
    center: float | None = None,
    confidence: float = 0.95,
) -> Interval | None:
    """Student t interval of a mean, or None for fewer than two values.

    Args:
        values: float64 [n], one per process or per pass.
        over: `processes` or `passes`.
        center: put the interval around this figure instead of the mean of `values`.
        confidence: in (0, 1).
    """
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    middle = float(np.mean(values)) if center is None else center
    return Interval(
        low=middle - half, high=middle + half, confidence=confidence, over=over, units=len(values)
    )
