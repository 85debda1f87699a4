"""Latency, throughput and memory of one model in this process.

Two scenarios (single-stream, offline) on two regions (forward, end to end); see docs/timing.md.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmark.records import Measurement, Timing, available_cores
from benchmark.timing import device as timing_device
from benchmark.timing import memory
from benchmark.timing.device import forward_call, stopwatch
from benchmark.timing.durations import DURATIONS, Durations, Level
from benchmark.timing.job import TimingSample, TimingSubject
from benchmark.timing.offline import measure_offline_end_to_end, measure_offline_forward
from benchmark.timing.overhead import temperature_overhead
from benchmark.timing.session import Session
from benchmark.timing.single_stream import measure_single_stream

if TYPE_CHECKING:  # torch takes seconds to import; whoever calls `time_model` has done so already.
    from torch import nn


def time_model(
    model: nn.Module,
    sample: TimingSample,
    *,
    level: Level = "quick",
    temperature: float = 1.0,
    seed: int = 0,
    durations: Durations | None = None,
    fresh_process: bool = False,
) -> Timing:
    """Measure a model in this process.

    With `full`, this is one process's share; `time_jobs` runs several and merges.

    Args:
        model: in evaluation mode, on its device. Its output is the logits, or has them as
            attribute `logits` or first element.
        sample: what to time it on.
        level: `quick` (about 6 s) or `full` (each scenario at least 10 s).
        temperature: the fitted one, > 0; used by the end-to-end region.
        seed: of the order in which rows are issued.
        durations: other durations than the level's.
        fresh_process: whether this process was started for this measurement; only recorded.

    Returns:
        The measurement; `memory` is filled on CUDA only (see `measure_memory` for the CPU).

    Raises:
        ValueError: when the temperature is not positive and finite, or the model is in training
            mode.
    """
    if not (0 < temperature < math.inf):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before timing it")
    gc.collect()  # once, since it takes a tenth of a second; it stays off inside the loops
    session = Session(model, sample, temperature, seed, durations or DURATIONS[level])
    return _measure(session, level, fresh_process=fresh_process)


def _measure(session: Session, level: Level, *, fresh_process: bool) -> Timing:
    import torch

    model, sample = session.model, session.sample
    cores = available_cores()
    with torch.inference_mode():
        measurements = _measure_with(1, session)
        if session.durations.all_threads and session.device.type == "cpu" and cores > 1:
            measurements += _measure_with(cores, session)
        with _threads(1):
            overhead = temperature_overhead(session, measurements)
        flops = timing_device.count_flops(model, session.single_rows)
        peak = None
        if session.device.type == "cuda":
            peak = memory.pass_peak(TimingSubject(model, sample), fresh_process=fresh_process)
    offline = next(m for m in measurements if m.scenario == "offline")
    return Timing(
        level=level,
        fresh_process=fresh_process,
        sample_rows=len(sample.rows),
        measurements=tuple(measurements),
        memory=peak,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops_per_sample=flops,
        achieved_flops_per_s=None if flops is None else flops * offline.samples_per_s,
        temperature_overhead=overhead,
        setting=timing_device.describe(model, session.device),
    )


def _measure_with(threads: int, session: Session) -> list[Measurement]:
    """Measure both scenarios on both regions with `threads` torch threads."""
    with _threads(threads):
        offline = measure_offline_forward(session, threads)
        return [
            measure_single_stream(session, "forward", threads),
            offline,
            measure_single_stream(session, "end_to_end", threads),
            measure_offline_end_to_end(session, threads, offline.batch_size),
        ]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with `count` torch threads, the tokenizers library on one or all accordingly."""
    import torch

    variable = "TOKENIZERS_PARALLELISM"
    threads, tokenizers = torch.get_num_threads(), os.environ.get(variable)
    torch.set_num_threads(count)
    os.environ[variable] = "false" if count == 1 else "true"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if tokenizers is None:
            del os.environ[variable]
        else:
            os.environ[variable] = tokenizers


def first_call_ms(model: nn.Module, sample: TimingSample) -> float:
    """Make one forward call with the first row and return its latency in ms.

    In a fresh process this is the cold start: libraries initialise, weights are first touched.
    """
    import torch

    device = next(model.parameters()).device
    batch = sample.encode_on(device, sample.chunks(1)[0])
    with torch.inference_mode():
        return stopwatch(forward_call(model), device).time_each([batch])[0] / 1e6
