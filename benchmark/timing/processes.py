"""Timing in fresh processes, interleaved over models, and what they say together."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmark.records import Contention, Measurement, Memory, Percentile, Timing
from benchmark.timing import memory, percentiles
from benchmark.timing.durations import Durations, Level
from benchmark.timing.job import (
    TimingError,
    TimingJob,
    ask_process,
    load,
    read_request,
    write_answer,
)
from benchmark.timing.model import first_call_ms, time_model

PROCESSES = 5


def time_jobs(
    jobs: Sequence[TimingJob],
    *,
    level: Level = "full",
    processes: int = PROCESSES,
    seed: int = 0,
    durations: Durations | None = None,
    timeout_s: float = 3600,
    on_progress: Callable[[TimingJob, int], None] | None = None,
) -> list[Timing | TimingError]:
    """Measure every job in several fresh processes, one at a time.

    Each round starts every job once, in a new random order: what changes slowly (heat, clock
    rates, the neighbours' load) then falls on all models alike instead of on the last ones.

    Args:
        jobs: how to load each model and sample.
        level: durations of each process.
        processes: rounds; 5 or more give a useful interval.
        seed: of the orders.
        durations: other durations than the level's.
        timeout_s: for each process.
        on_progress: called before each process with its job and round (from 0).

    Returns:
        One entry per job, in order: the merged timing, or the error of its first failing process
        (after which it is not started again).
    """
    rng = np.random.default_rng(seed)
    timings: list[list[Timing]] = [[] for _ in jobs]
    errors: dict[int, TimingError] = {}
    for turn in range(processes):
        for position in rng.permutation(len(jobs)).tolist():
            if position in errors:
                continue
            if on_progress is not None:
                on_progress(jobs[position], turn)
            try:
                measured = _in_fresh_process(
                    jobs[position], level, seed + turn, durations, timeout_s
                )
                timings[position].append(measured)
            except TimingError as error:
                errors[position] = error
    return [errors[i] if i in errors else merge(timings[i]) for i in range(len(jobs))]


def _in_fresh_process(
    job: TimingJob,
    level: Level,
    seed: int,
    durations: Durations | None,
    timeout_s: float,
) -> Timing:
    request = {
        "level": level,
        "seed": seed,
        "durations": None if durations is None else dataclasses.asdict(durations),
    }
    return Timing.model_validate(ask_process("benchmark.timing.processes", job, request, timeout_s))


def _measure(request: dict[str, Any]) -> Timing:
    """Measure one job in this process, which was started for it."""
    import torch

    torch.set_num_threads(1)
    durations = request["durations"]
    if durations is not None:
        durations = TypeAdapter(Durations).validate_python(durations)
    baseline = memory.current_rss_bytes()
    subject = load(TimingJob.model_validate(request["job"]))
    # First, while the process has done nothing else: afterwards the peak would be timing's too.
    cold = first_call_ms(subject.model, subject.sample)
    peak = memory.pass_peak(subject, fresh_process=True, baseline_bytes=baseline)
    measured = time_model(
        subject.model,
        subject.sample,
        level=request["level"],
        temperature=subject.temperature,
        seed=request["seed"],
        durations=durations,
        fresh_process=True,
    )
    return measured.model_copy(update={"memory": peak, "cold_first_call_ms": cold})


def merge(timings: Sequence[Timing]) -> Timing:
    """Join the timings of several processes of one model into one.

    Latency percentiles, their bounds, and throughputs become means over the processes (the bounds:
    the largest), intervals are between processes, and an `unstable` reason stays with the number of
    processes that had it. What does not vary is taken from the first process.

    Args:
        timings: one per process, at least one, all of the same model, sample and durations.

    Raises:
        ValueError: when there are none, or they did not measure the same things.
    """
    if not timings:
        raise ValueError("no timings to merge")
    first = timings[0]
    if len(timings) == 1:
        return first
    if len({tuple(map(_key, t.measurements)) for t in timings}) > 1:
        raise ValueError("the processes did not measure the same scenarios, regions and threads")
    measurements = tuple(
        _merge_measurements(group) for group in zip(*(t.measurements for t in timings), strict=True)
    )
    offline = next(m for m in measurements if m.scenario == "offline")
    flops = first.flops_per_sample
    cold = [t.cold_first_call_ms for t in timings if t.cold_first_call_ms is not None]
    return first.model_copy(
        update={
            "measurements": measurements,
            "memory": _merge_memory([t.memory for t in timings if t.memory is not None]),
            "cold_first_call_ms": float(np.mean(cold)) if cold else None,
            "achieved_flops_per_s": None if flops is None else flops * offline.samples_per_s,
        }
    )


def _key(measurement: Measurement) -> tuple[str, str, int]:
    return (measurement.scenario, measurement.region, measurement.threads)


def _merge_measurements(group: Sequence[Measurement]) -> Measurement:
    first = group[0]
    rates = np.array([m.samples_per_s for m in group])
    medians = np.array([p.value_ms for m in group if (p := m.percentile(50)) is not None])
    is_offline = first.scenario == "offline"
    energies = [m.joules_per_sample for m in group if m.joules_per_sample is not None]
    return first.model_copy(
        update={
            "batch_size": Counter(m.batch_size for m in group).most_common(1)[0][0],
            "processes": len(group),
            "queries": sum(m.queries for m in group),
            "rows": sum(m.rows for m in group),
            "wall_s": sum(m.wall_s for m in group),
            "mean_ms": float(np.mean([m.mean_ms for m in group])),
            "samples_per_s": float(rates.mean()),
            "samples_per_s_interval": (
                percentiles.mean_interval(rates, over="processes") if is_offline else None
            ),
            "percentiles": _merge_percentiles(group),
            "p50_interval_ms": (
                None if is_offline else percentiles.mean_interval(medians, over="processes")
            ),
            "joules_per_sample": float(np.mean(energies)) if energies else None,
            "contention": _worst([m.contention for m in group]),
            "unstable": _merge_reasons(group),
        }
    )


def _merge_percentiles(group: Sequence[Measurement]) -> tuple[Percentile, ...]:
    """Keep the ranks that every process supports."""
    merged = []
    for percentile in group[0].percentiles:
        found = [p for m in group if (p := m.percentile(percentile.rank)) is not None]
        if len(found) == len(group):
            merged.append(
                Percentile(
                    rank=percentile.rank,
                    value_ms=float(np.mean([p.value_ms for p in found])),
                    upper_ms=max(p.upper_ms for p in found),
                )
            )
    return tuple(merged)


def _merge_reasons(group: Sequence[Measurement]) -> tuple[str, ...]:
    """List every process' reasons, led by its number, and name disagreement between them."""
    reasons = [
        f"process {number} of {len(group)}: {reason}"
        for number, m in enumerate(group, start=1)
        for reason in m.unstable
    ]
    sizes = Counter(m.batch_size for m in group)
    if len(sizes) > 1:
        reasons.append(f"the best batch size differed between processes: {sorted(sizes)}")
    return tuple(reasons)


def _worst(seen: Sequence[Contention]) -> Contention:
    """Take the largest of each figure."""

    def largest(name: str) -> float | None:
        values = [value for c in seen if (value := getattr(c, name)) is not None]
        return max(values, default=None)

    return Contention.model_validate({name: largest(name) for name in Contention.model_fields})


def _merge_memory(peaks: Sequence[Memory]) -> Memory | None:
    """Take the largest of each figure."""
    if not peaks:
        return None

    def largest(name: str) -> int | None:
        values = [value for peak in peaks if (value := getattr(peak, name)) is not None]
        return max(values, default=None)

    sizes = [name for name in Memory.model_fields if name.endswith("_bytes")]
    return peaks[0].model_copy(update={name: largest(name) for name in sizes})


def _main() -> None:
    request = read_request()
    write_answer(Path(request["answer"]), lambda: _measure(request))
    sys.stdout.flush()
    # Libraries' threads and exit handlers must not keep a measured process alive.
    os._exit(0)


if __name__ == "__main__":
    _main()
