"""The single-stream scenario: one row after the other, each waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.records import Interval, LengthBin, Measurement, Region
from benchmark.timing import contention, loops, percentiles
from benchmark.timing.device import EventCall
from benchmark.timing.session import Session

_LENGTH_BINS = 4


def measure_single_stream(session: Session, region: Region, threads: int) -> Measurement:
    """Time a region row by row.

    Args:
        session: the model and its sample.
        region: `forward` or `end_to_end`.
        threads: torch threads that are set now; recorded.
    """
    durations = session.durations
    seconds = durations.single_stream_s if region == "forward" else durations.end_to_end_s
    calls, events = session.calls(region, 1), None
    if region == "forward" and session.device.type == "cuda":
        events = EventCall(calls.watch.call, session.device)
        calls = replace(calls, watch=loops.Stopwatch(events, events.synchronize, events.prepare))
    warm_up = loops.warm_up(calls.watch, calls.queries, calls.shape, durations.warm_up)
    if events is not None:
        events.forget()
    before = contention.Usage.now()
    timed = loops.single_stream(calls.watch, calls.queries, seconds, session.seed)
    seen = contention.contention_between(before, contention.Usage.now())
    latencies = timed.latencies_ms
    return Measurement(
        scenario="single-stream",
        region=region,
        threads=threads,
        batch_size=1,
        queries=latencies.size,
        rows=latencies.size,
        wall_s=timed.wall_s,
        mean_ms=float(latencies.mean()),
        samples_per_s=latencies.size / timed.wall_s,
        percentiles=percentiles.supported_percentiles(latencies.ravel()),
        p50_interval_ms=_median_interval(latencies),
        device_event_p50_ms=None if events is None else events.median_ms(),
        by_length=_by_length(latencies, session.sample.lengths),
        warm_up=warm_up,
        contention=seen,
        unstable=contention.unstable_reasons(seen, threads, latencies, warm_up),
    )


def _median_interval(latencies_ms: Float64Array) -> Interval | None:
    middle = float(np.median(latencies_ms))
    pass_medians = np.median(latencies_ms, axis=1)
    return percentiles.mean_interval(pass_medians, over="passes", center=middle)


def _by_length(latencies_ms: Float64Array, lengths: Sequence[int] | None) -> tuple[LengthBin, ...]:
    """Latency of rows grouped by quartiles of token length; ties stay together."""
    if lengths is None:
        return ()
    tokens = np.asarray(lengths)
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1]))
    group = np.searchsorted(edges, tokens, side="left")
    return tuple(
        LengthBin(
            shortest=int(tokens[group == g].min()),
            longest=int(tokens[group == g].max()),
            rows=int((group == g).sum()),
            queries=int((group == g).sum()) * len(latencies_ms),
            p50_ms=float(np.median(latencies_ms[:, group == g])),
        )
        for g in np.unique(group)
    )
