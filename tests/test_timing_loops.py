from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.timing.loops import (
    Stopwatch,
    WarmUpLimits,
    garbage_collector_off,
    offline,
    single_stream,
    warm_up,
)

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class FakeTime:
    """A clock that only calls move; a call takes what `cost` says, in ns."""

    def __init__(self, cost: Callable[[int, int], int]) -> None:
        self.now, self.calls, self.cost = 0, [], cost

    def call(self, query: int) -> None:
        self.now += self.cost(query, len(self.calls))
        self.calls.append(query)

    def watch(self) -> Stopwatch[int]:
        return Stopwatch(self.call, clock=lambda: self.now)


def test_warm_up_stops_once_steady_and_past_the_least_time() -> None:
    fake = FakeTime(lambda query, n: 10 * MILLISECOND if n else SECOND)
    seen = warm_up(fake.watch(), [0, 1, 2], lambda q: q % 2, WarmUpLimits(min_s=2, max_s=30))
    assert seen.first_call_ms == 1000
    assert (seen.shapes, seen.settled) == (2, True)
    assert seen.seconds == pytest.approx(2, abs=0.05)
    counts = Counter(q % 2 for q in fake.calls)
    assert counts[0] == counts[1]
    assert counts[0] >= 10


def test_warm_up_calls_each_shape_ten_times_even_when_slow() -> None:
    fake = FakeTime(lambda query, n: SECOND)
    seen = warm_up(fake.watch(), [0], lambda q: q, WarmUpLimits(min_s=0, max_s=30))
    assert seen.settled
    assert seen.calls == 11


def test_warm_up_says_when_it_never_settles() -> None:
    fake = FakeTime(lambda query, n: int(MILLISECOND * 1.05**n) + 1)
    seen = warm_up(fake.watch(), [0], lambda q: q, WarmUpLimits(min_s=0, max_s=3))
    assert not seen.settled
    assert seen.seconds >= 3


def test_warm_up_touches_every_shape_but_repeats_only_some_when_told() -> None:
    fake = FakeTime(lambda query, n: MILLISECOND)
    limits = WarmUpLimits(min_s=0, max_s=1, window=2, round_shapes=4)
    seen = warm_up(fake.watch(), list(range(20)), lambda q: q, limits)
    counts = Counter(fake.calls)
    assert sorted(counts) == list(range(20))
    assert sorted(set(counts.values())) == [1, 5]
    assert (seen.calls, seen.shapes) == (len(fake.calls), 20)


def test_warm_up_needs_something() -> None:
    with pytest.raises(ValueError, match="sample is empty"):
        warm_up(FakeTime(lambda q, n: 1).watch(), [], lambda q: q, WarmUpLimits(0, 1))


@settings(deadline=None)
@given(queries=st.integers(1, 20), seconds=st.floats(0.001, 2), seed=st.integers(0, 9))
def test_single_stream_issues_every_query_equally_often(
    queries: int, seconds: float, seed: int
) -> None:
    fake = FakeTime(lambda query, n: (query + 1) * MILLISECOND)
    timed = single_stream(fake.watch(), list(range(queries)), seconds, seed)
    passes = len(timed.latencies_ms)
    assert set(Counter(fake.calls).values()) == {passes}
    # However shuffled, column i holds query i.
    assert np.array_equal(timed.latencies_ms, np.tile(np.arange(1.0, queries + 1), (passes, 1)))
    assert timed.wall_s >= seconds
    one_pass = queries * (queries + 1) / 2 / 1000
    assert timed.wall_s - seconds <= one_pass + 1e-9


def test_single_stream_orders_are_seeded_and_differ_between_passes() -> None:
    def calls(seed: int) -> list[int]:
        fake = FakeTime(lambda query, n: MILLISECOND)
        single_stream(fake.watch(), list(range(16)), 0.04, seed)
        return fake.calls

    assert calls(0) == calls(0) != calls(1)
    assert calls(0)[:16] != calls(0)[16:32]


def test_offline_throughput_is_rows_over_wall() -> None:
    fake = FakeTime(lambda query, n: 250 * MILLISECOND)
    timed = offline(fake.watch(), [0, 1, 2, 3], 2.5)
    assert (timed.passes, timed.wall_s) == (3, 3.0)
    assert timed.pass_s.tolist() == [1, 1, 1]
    assert len(fake.calls) == 12


class FakeDevice(FakeTime):
    """Work queues up behind the host until somebody waits for it."""

    def __init__(self, work: int) -> None:
        super().__init__(lambda query, n: 1000)
        self.work, self.queued, self.waits, self.log = work, 0, 0, ""

    def call(self, query: int) -> None:
        super().call(query)
        self.queued += self.work
        self.log += "c"

    def synchronize(self) -> None:
        self.now += self.queued
        self.queued = 0
        self.waits += 1
        self.log += "s"

    def watch(self) -> Stopwatch[int]:
        return Stopwatch(self.call, self.synchronize, clock=lambda: self.now)


def test_single_stream_on_a_device_waits_around_each_call() -> None:
    device = FakeDevice(5 * MILLISECOND)
    timed = single_stream(device.watch(), [0, 1], 0.001, 0)
    assert timed.latencies_ms.tolist() == [[5.001, 5.001]]
    assert device.log == "scsscs"


def test_single_stream_on_a_device_prepares_outside_the_timed_stretch() -> None:
    device = FakeDevice(5 * MILLISECOND)

    def prepare() -> None:
        device.now += SECOND

    watch = Stopwatch(device.call, device.synchronize, prepare, clock=lambda: device.now)
    assert single_stream(watch, [0], 0.001, 0).latencies_ms.tolist() == [[5.001]]


def test_offline_on_a_device_waits_at_its_ends_only() -> None:
    device = FakeDevice(100 * MILLISECOND)
    timed = offline(device.watch(), [0, 1], 2.0)
    # A probe pass takes .2 s, hence 10 passes; nothing waits in between.
    assert timed.passes == 10
    assert timed.wall_s == pytest.approx(2.0, rel=1e-3)
    assert device.log == "sccs" + "s" + "cc" * 10 + "s"
    assert timed.pass_s.size == 0


def test_garbage_collector_is_restored_after_an_error() -> None:
    def fail() -> None:
        with garbage_collector_off():
            assert not gc.isenabled()
            raise RuntimeError("a query failed")

    with pytest.raises(RuntimeError, match="a query failed"):
        fail()
    assert gc.isenabled()
