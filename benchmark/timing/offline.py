"""The offline scenario: the whole sample again and again, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmark.records import Measurement, Region, SweepPoint
from benchmark.timing import contention, energy, loops, percentiles
from benchmark.timing.job import Batch
from benchmark.timing.session import Session


def measure_offline_forward(session: Session, threads: int) -> Measurement:
    """Sweep the batch sizes briefly, then measure the best one anew.

    The sweep's own figure for the winner would flatter it (it won partly by luck).

    Raises:
        MemoryError: no batch size fits.
    """
    sweep = [_probe(session, size) for size in _sizes(session)]
    best = max(sweep, key=lambda point: point.samples_per_s or 0.0)
    if best.samples_per_s is None:
        raise MemoryError(f"no batch size of {[p.batch_size for p in sweep]} fits in memory")
    seconds = session.durations.offline_s
    measured = _measure(session, "forward", threads, best.batch_size, seconds)
    return measured.model_copy(update={"sweep": tuple(sweep), "padding_share": best.padding_share})


def _sizes(session: Session) -> Sequence[int]:
    if session.device.type == "cuda":
        return session.durations.gpu_batch_sizes
    n = len(session.sample.rows)
    return [size for size in session.durations.batch_sizes if size <= n] or [n]


def measure_offline_end_to_end(session: Session, threads: int, size: int) -> Measurement:
    """Time raw rows to probabilities in batches of `size`, the forward pass's best."""
    seconds = session.durations.offline_end_to_end_s
    return _measure(session, "end_to_end", threads, size, seconds)


def _probe(session: Session, size: int) -> SweepPoint:
    import torch

    padding: float | None = None
    try:
        calls = session.calls("forward", size)
        padding = _padding_share(calls.queries, session.sample.lengths, size)
        loops.offline(calls.watch, calls.queries, 0.0)  # first touch of every shape
        timed = loops.offline(calls.watch, calls.queries, session.durations.probe_s)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return SweepPoint(batch_size=size, samples_per_s=None, padding_share=padding)
    rate = session.sample.rows_in_pass(size) * timed.passes / timed.wall_s
    return SweepPoint(batch_size=size, samples_per_s=rate, padding_share=padding)


def _measure(
    session: Session, region: Region, threads: int, size: int, seconds: float
) -> Measurement:
    calls = session.calls(region, size)
    warm_up = loops.warm_up(calls.watch, calls.queries, calls.shape, session.durations.warm_up)
    joules = energy.read_joules(session.device)
    before = contention.Usage.now()
    timed = loops.offline(calls.watch, calls.queries, seconds)
    seen = contention.contention_between(before, contention.Usage.now())
    in_pass = session.sample.rows_in_pass(size)
    rows, queries = in_pass * timed.passes, len(calls.queries) * timed.passes
    used = energy.difference(joules, energy.read_joules(session.device))
    per_pass = in_pass / timed.pass_s
    rate = rows / timed.wall_s
    return Measurement(
        scenario="offline",
        region=region,
        threads=threads,
        batch_size=size,
        queries=queries,
        rows=rows,
        wall_s=timed.wall_s,
        mean_ms=1000 * timed.wall_s / queries,
        samples_per_s=rate,
        samples_per_s_interval=percentiles.mean_interval(per_pass, over="passes", center=rate),
        warm_up=warm_up,
        contention=seen,
        joules_per_sample=None if used is None else used / rows,
        unstable=contention.unstable_reasons(seen, threads, 1000 * timed.pass_s[:, None], warm_up),
    )


def _padding_share(
    batches: Sequence[Batch], lengths: Sequence[int] | None, size: int
) -> float | None:
    """Padding tokens / all tokens that the batches hold; None without token ids or lengths."""
    if lengths is None or "input_ids" not in batches[0]:
        return None
    computed = sum(batch["input_ids"].numel() for batch in batches)
    own = np.resize(lengths, max(size, len(lengths))).sum()
    return float(1 - own / computed)
