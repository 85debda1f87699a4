from __future__ import annotations

from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark.timing.percentiles import (
    mean_interval,
    median_interval,
    supported_percentiles,
    upper_bound_position,
)


@pytest.mark.parametrize(("rank", "least"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_least_counts_are_the_published_ones(rank: float, least: int) -> None:
    # MLPerf's inference rules quote 64, 130 and 662 queries at 99% confidence.
    assert upper_bound_position(least - 1, rank) is None
    assert upper_bound_position(least, rank) == least - 2


@settings(deadline=None)
@given(count=st.integers(1, 150), rank=st.sampled_from([50, 90, 95, 99]))
def test_bound_is_the_tightest_by_exact_arithmetic(count: int, rank: int) -> None:
    # Probabilities as whole numbers of 100^-count.
    terms = (comb(count, k) * (100 - rank) ** k * rank ** (count - k) for k in range(count + 1))
    at_most = list(accumulate(terms))
    fitting = [t for t in range(1, count + 1) if 100 * at_most[t] <= 100**count]
    expected = count - 1 - max(fitting) if fitting else None
    assert upper_bound_position(count, float(rank)) == expected


@settings(deadline=None)
@given(count=st.integers(11, 5000), rank=st.sampled_from([50.0, 90.0, 95.0, 99.0]))
def test_bound_covers_with_99_percent(count: int, rank: float) -> None:
    position = upper_bound_position(count, rank)
    if position is None:
        return
    # The (position+1)-th smallest of uniform latencies follows this beta distribution.
    missed = stats.beta.cdf(rank / 100, position + 1, count - position)
    assert missed <= 0.01 + 1e-9


def test_unsupported_percentiles_are_absent() -> None:
    latencies = np.arange(1.0, 101.0)
    found = supported_percentiles(latencies)
    assert [p.rank for p in found] == [50, 90]
    assert found[0].value_ms == 50.5
    assert all(p.value_ms <= p.upper_ms <= 99 for p in found)
    assert supported_percentiles(latencies[:10]) == ()


def test_median_interval_covers_its_level_and_no_narrower_pair_does() -> None:
    for count in (6, 7, 20, 101):
        interval = median_interval(np.arange(float(count)))
        below = int(interval.low)
        assert interval.high == count - 1 - below
        assert 1 - 2 * stats.binom.cdf(below, count, 0.5) >= 0.95
        assert 1 - 2 * stats.binom.cdf(below + 1, count, 0.5) < 0.95


def test_median_interval_refuses_too_few() -> None:
    with pytest.raises(ValueError, match="5 values cannot give a 95% interval"):
        median_interval(np.arange(5.0))


def test_mean_interval_agrees_with_scipy() -> None:
    values = np.array([3.0, 4.0, 8.0, 5.0, 6.5])
    interval = mean_interval(values, over="processes")
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.over, interval.units) == ("processes", 5)
    assert mean_interval(values[:1], over="processes") is None
