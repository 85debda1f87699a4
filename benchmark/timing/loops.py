"""The timed loops themselves: warm-up, single-stream and offline. No torch, any clock."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.records import WarmUp

Query = TypeVar("Query")

_SECOND = 1_000_000_000
_MILLISECOND = 1e6


@dataclass(frozen=True)
class WarmUpLimits:
    """When a warm-up may end.

    Attributes:
        min_s: shortest, seconds.
        max_s: longest, seconds; checked after each round.
        window: rounds a median is taken over; two windows are compared, so every shape of a round
            is called at least twice this often.
        round_shapes: most shapes in a round; the others are called once beforehand.
        tolerance: relative change of the median that counts as settled.
    """

    min_s: float
    max_s: float
    window: int = 5
    round_shapes: int = 1000
    tolerance: float = 0.02


@dataclass(frozen=True)
class Stopwatch(Generic[Query]):
    """How a call is made and timed.

    Attributes:
        call: answers one query; its result is dropped.
        synchronize: waits until the device is idle; None where calls return when done (CPU).
        prepare: with `synchronize`, what to do before each timed call besides waiting.
        clock: nanoseconds, monotonic.
    """

    call: Callable[[Query], object]
    synchronize: Callable[[], None] | None = None
    prepare: Callable[[], None] | None = None
    clock: Callable[[], int] = time.perf_counter_ns

    def time_each(self, queries: Sequence[Query]) -> list[int]:
        """Time queries one by one, in order, nanoseconds."""
        if self.synchronize is not None:
            return self._time_each_synchronized(queries, self.synchronize)
        call, clock = self.call, self.clock
        times = [0] * len(queries)
        for position, query in enumerate(queries):
            start = clock()
            call(query)
            times[position] = clock() - start
        return times

    def _time_each_synchronized(
        self, queries: Sequence[Query], synchronize: Callable[[], None]
    ) -> list[int]:
        # A second loop rather than a no-op call in the first: it would add to every CPU latency.
        call, clock = self.call, self.clock
        prepare = self.prepare or synchronize
        times = [0] * len(queries)
        for position, query in enumerate(queries):
            prepare()
            start = clock()
            call(query)
            synchronize()
            times[position] = clock() - start
        return times


@dataclass(frozen=True)
class SingleStream:
    """Latencies of a closed loop.

    Attributes:
        latencies_ms: float64 [passes, queries], column i always the same query.
        wall_s: seconds from the first query to the last answer.
    """

    latencies_ms: Float64Array
    wall_s: float


@dataclass(frozen=True)
class Offline:
    """One long run over the whole sample, again and again.

    Attributes:
        passes: passes over all queries.
        wall_s: seconds on one clock, from the first query to the last answer.
        pass_s: float64 [passes], seconds of each pass as the host saw it; without meaning when
            the device runs behind the host, hence empty then.
    """

    passes: int
    wall_s: float
    pass_s: Float64Array


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Keep the collector from running, so that no query pays for the garbage of the others."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def warm_up(
    watch: Stopwatch[Query],
    queries: Sequence[Query],
    shape_of: Callable[[Query], Hashable],
    limits: WarmUpLimits,
) -> WarmUp:
    """Call every distinct shape once, then rounds of shapes until a round takes a steady time.

    A round is one call of each shape (of an even choice when there are very many). It is steady
    when the median round of the last `window` differs from the median of the `window` before by
    less than `tolerance`.

    Args:
        watch: how to call and time.
        queries: what will be timed afterwards; one of each shape is used.
        shape_of: queries with equal shapes are interchangeable here.
        limits: when to stop.

    Raises:
        ValueError: when there are no queries.
    """
    if not queries:
        raise ValueError("nothing to warm up with: the sample is empty")
    distinct = list({shape_of(query): query for query in queries}.values())
    begin = watch.clock()
    first_call = watch.time_each(distinct)[0]
    stride = math.ceil(len(distinct) / limits.round_shapes)
    repeated = distinct[::stride]
    rounds: list[int] = []
    while True:
        rounds.append(sum(watch.time_each(repeated)))
        elapsed = (watch.clock() - begin) / _SECOND
        settled = _is_steady(rounds, limits)
        if (settled and elapsed >= limits.min_s) or elapsed >= limits.max_s:
            break
    return WarmUp(
        first_call_ms=first_call / _MILLISECOND,
        calls=len(distinct) + len(rounds) * len(repeated),
        shapes=len(distinct),
        seconds=elapsed,
        settled=settled,
    )


def _is_steady(rounds: Sequence[int], limits: WarmUpLimits) -> bool:
    if len(rounds) < 2 * limits.window:
        return False
    last = float(np.median(rounds[-limits.window :]))
    before = float(np.median(rounds[-2 * limits.window : -limits.window]))
    # One tick of slack: a clock that shows 0 or 1 ns for a call cannot move by less than that.
    return abs(last - before) <= max(limits.tolerance * before, 1.0)


def single_stream(
    watch: Stopwatch[Query], queries: Sequence[Query], min_s: float, seed: int
) -> SingleStream:
    """Answer queries one at a time, in whole passes, each pass in a new seeded order.

    Whole passes issue each query equally often; a new order keeps a query from always following
    the same neighbour.

    Args:
        watch: how to call and time.
        queries: one per row of the sample.
        min_s: the pass in which this many seconds are reached is the last.
        seed: of the orders.
    """
    rng = np.random.default_rng(seed)
    passes: list[Float64Array] = []
    with garbage_collector_off():
        begin = watch.clock()
        while True:
            order = rng.permutation(len(queries))
            times = watch.time_each([queries[i] for i in order])
            wall = watch.clock() - begin
            in_place = np.empty(len(queries))
            in_place[order] = times
            passes.append(in_place / _MILLISECOND)
            if wall >= min_s * _SECOND:
                break
    return SingleStream(np.stack(passes), wall / _SECOND)


def offline(watch: Stopwatch[Query], queries: Sequence[Query], min_s: float) -> Offline:
    """Answer all queries as fast as possible; on a device, wait for it only at the two ends.

    Args:
        watch: how to call and time.
        queries: batches that together hold the sample once.
        min_s: the pass in which this many seconds are reached is the last.
    """
    if watch.synchronize is not None:
        return _offline_behind_host(watch, queries, min_s, watch.synchronize)
    call, clock = watch.call, watch.clock
    marks: list[int] = []
    with garbage_collector_off():
        begin = clock()
        while not marks or marks[-1] - begin < min_s * _SECOND:
            for query in queries:
                call(query)
            marks.append(clock())
    pass_s = np.diff([begin, *marks]) / _SECOND
    return Offline(len(marks), (marks[-1] - begin) / _SECOND, pass_s)


def _offline_behind_host(
    watch: Stopwatch[Query],
    queries: Sequence[Query],
    min_s: float,
    synchronize: Callable[[], None],
) -> Offline:
    """Offline on a device that runs behind the host.

    The host's clock does not tell when to stop (the device may be seconds behind), so one
    synchronised pass is timed first and the number of passes fixed from it.
    """
    call, clock = watch.call, watch.clock

    def run(passes: int) -> float:
        synchronize()
        begin = clock()
        for _ in range(passes):
            for query in queries:
                call(query)
        synchronize()
        return (clock() - begin) / _SECOND

    with garbage_collector_off():
        passes = max(1, math.ceil(min_s / max(run(1), 1e-9)))
        wall = run(passes)
    return Offline(passes, wall, np.empty(0))
