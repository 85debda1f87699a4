"""Latency, throughput and memory of one model in this process.

Two scenarios (single-stream, offline) on two regions (forward, end to end); see docs/timing.md.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.data import Rows
from benchmark.records import (
    LengthBin,
    Measurement,
    Region,
    Setting,
    SweepPoint,
    TemperatureOverhead,
    Timing,
)
from benchmark.timing import contention, energy, memory, percentiles
from benchmark.timing import device as timing_device
from benchmark.timing import loops as timing_loops
from benchmark.timing.device import forward_call, logits_of, shape_of, stopwatch
from benchmark.timing.job import Batch, TimingSample, TimingSubject
from benchmark.timing.loops import Stopwatch, WarmUpLimits

if TYPE_CHECKING:  # torch takes seconds to import; whoever calls `time_model` has done so already.
    import torch
    from torch import Tensor, nn


_LENGTH_BINS = 4


@dataclass(frozen=True)
class Durations:
    """How long each part of a measurement lasts, in seconds.

    Attributes:
        single_stream_s: single-stream, forward.
        end_to_end_s: single-stream, end to end.
        probe_s: offline, each batch size of the sweep.
        offline_s: offline, forward, at the best batch size.
        offline_end_to_end_s: offline, end to end, at the same batch size.
        overhead_pairs: pairs of calls for the overhead of temperature scaling.
        warm_up: limits of each warm-up.
        batch_sizes: of the offline sweep; those above the sample's size are left out.
        all_threads: whether to measure with all cores as well as with 1 thread.
    """

    single_stream_s: float
    end_to_end_s: float
    probe_s: float
    offline_s: float
    offline_end_to_end_s: float
    overhead_pairs: int
    warm_up: WarmUpLimits
    batch_sizes: tuple[int, ...]
    all_threads: bool


# Quick: about 6 s a model. The offline scenario's 2 s are three probes and the final run.
QUICK = Durations(
    single_stream_s=2.0,
    end_to_end_s=0.5,
    probe_s=0.2,
    offline_s=1.4,
    offline_end_to_end_s=0.3,
    overhead_pairs=1000,
    warm_up=WarmUpLimits(min_s=0.1, max_s=0.3, window=3, round_shapes=8),
    batch_sizes=(8, 32, 128),
    all_threads=False,
)
FULL = Durations(
    single_stream_s=10.0,
    end_to_end_s=10.0,
    probe_s=1.0,
    offline_s=10.0,
    offline_end_to_end_s=10.0,
    overhead_pairs=5000,
    warm_up=WarmUpLimits(min_s=2.0, max_s=30.0),
    batch_sizes=(1, 4, 16, 64, 256),
    all_threads=True,
)


def time_model(
    model: nn.Module,
    sample: TimingSample,
    *,
    level: Literal["quick", "full"] = "quick",
    temperature: float = 1.0,
    seed: int = 0,
    durations: Durations | None = None,
    fresh_process: bool = False,
) -> Timing:
    """Measure a model in this process.

    With `full`, this is one process's share; `timing_process.time_jobs` runs several and merges.

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
        The measurement; `memory` is filled on CUDA only (see `memory.measure_memory` for the CPU).

    Raises:
        ValueError: when the temperature is not positive and finite, or the model is in training
            mode.
    """
    import torch

    if not (0 < temperature < math.inf):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before timing it")
    gc.collect()  # once, since it takes a tenth of a second; it stays off inside the loops
    session = _Session(model, sample, temperature, seed, durations or _durations(level))
    cores = timing_device.available_threads()
    with torch.inference_mode():
        measurements = session.measure(1)
        if session.durations.all_threads and session.device.type == "cpu" and cores > 1:
            measurements += session.measure(cores)
        with _threads(1):
            overhead = session.temperature_overhead(measurements)
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
        setting=session.setting(),
    )


def first_call_ms(model: nn.Module, sample: TimingSample) -> float:
    """Make one forward call with the first row and return its latency in ms.

    In a fresh process this is the cold start: libraries initialise, weights are first touched.
    """
    import torch

    device = next(model.parameters()).device
    batch = {name: t.to(device) for name, t in sample.encode(sample.chunks(1)[0]).items()}
    with torch.inference_mode():
        return stopwatch(forward_call(model), device).time_each([batch])[0] / 1e6


def _durations(level: Literal["quick", "full"]) -> Durations:
    return {"quick": QUICK, "full": FULL}[level]


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


class _Session:
    """The inputs of one measurement on their device, and the parts it is made of."""

    def __init__(
        self,
        model: nn.Module,
        sample: TimingSample,
        temperature: float,
        seed: int,
        durations: Durations,
    ) -> None:
        self.model, self.sample = model, sample
        self.temperature, self.seed, self.durations = temperature, seed, durations
        self.device: torch.device = next(model.parameters()).device
        self.single_rows = [self._encoded(rows) for rows in sample.chunks(1)]

    def _encoded(self, rows: Rows) -> dict[str, Tensor]:
        return {name: t.to(self.device) for name, t in self.sample.encode(rows).items()}

    def setting(self) -> Setting:
        return timing_device.describe(self.model, self.device)

    def measure(self, threads: int) -> list[Measurement]:
        """Measure both scenarios on both regions with `threads` torch threads."""
        with _threads(threads):
            offline = self.offline_forward(threads)
            return [
                self.single_stream("forward", threads),
                offline,
                self.single_stream("end_to_end", threads),
                self.offline_end_to_end(threads, offline.batch_size),
            ]

    def _end_to_end(self, rows: Rows) -> Tensor:
        """Raw rows to probabilities on the host."""
        import torch

        logits = logits_of(self.model(**self._encoded(rows)))
        return torch.softmax(logits.float() / self.temperature, dim=-1).cpu()

    def single_stream(self, region: Region, threads: int) -> Measurement:
        """Time one row after the other."""
        queries: Sequence[Any]
        shape: Callable[[Any], Hashable]
        events = None
        if region == "forward":
            queries, shape = self.single_rows, shape_of
            watch = stopwatch(forward_call(self.model), self.device)
            if self.device.type == "cuda":
                events = timing_device.EventCall(forward_call(self.model), self.device)
                watch = Stopwatch(events, events.synchronize, events.prepare)
            seconds = self.durations.single_stream_s
        else:
            queries, shape = self.sample.chunks(1), _one_shape
            watch = stopwatch(self._end_to_end, self.device)
            seconds = self.durations.end_to_end_s
        warm_up = timing_loops.warm_up(watch, queries, shape, self.durations.warm_up)
        if events is not None:
            events.forget()
        before = contention.Usage.now()
        timed = timing_loops.single_stream(watch, queries, seconds, self.seed)
        seen = contention.contention_between(before, contention.Usage.now())
        latencies = timed.latencies_ms
        found = percentiles.supported_percentiles(latencies.ravel())
        pass_medians = np.median(latencies, axis=1)
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
            percentiles=found,
            p50_interval_ms=percentiles.mean_interval(
                pass_medians, over="passes", center=float(np.median(latencies))
            ),
            device_event_p50_ms=None if events is None else events.median_ms(),
            by_length=_by_length(latencies, self.sample.lengths),
            warm_up=warm_up,
            contention=seen,
            unstable=(
                *contention.disturbances(seen, threads),
                *contention.irregularities(latencies, warm_up),
            ),
        )

    def offline_forward(self, threads: int) -> Measurement:
        """Sweep the batch sizes briefly, then measure the best one anew.

        The sweep's own figure for the winner would flatter it (it won partly by luck).
        """
        watch = stopwatch(forward_call(self.model), self.device)
        fitting = [size for size in self.durations.batch_sizes if size <= len(self.sample.rows)]
        sweep = [self._probe(watch, size) for size in fitting or [len(self.sample.rows)]]
        best = max(sweep, key=lambda point: point.samples_per_s or 0.0)
        if best.samples_per_s is None:
            raise MemoryError(f"no batch size of {[p.batch_size for p in sweep]} fits in memory")
        batches = [self._encoded(rows) for rows in self.sample.chunks(best.batch_size)]
        measured = self._offline(
            watch, batches, shape_of, "forward", threads, best.batch_size, self.durations.offline_s
        )
        return measured.model_copy(
            update={"sweep": tuple(sweep), "padding_share": best.padding_share}
        )

    def _probe(self, watch: Stopwatch[Any], size: int) -> SweepPoint:
        import torch

        padding: float | None = None
        try:
            batches = [self._encoded(rows) for rows in self.sample.chunks(size)]
            padding = _padding_share(batches, self.sample.lengths)
            timing_loops.offline(watch, batches, 0.0)  # first touch of every shape
            timed = timing_loops.offline(watch, batches, self.durations.probe_s)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return SweepPoint(batch_size=size, samples_per_s=None, padding_share=padding)
        rate = len(self.sample.rows) * timed.passes / timed.wall_s
        return SweepPoint(batch_size=size, samples_per_s=rate, padding_share=padding)

    def offline_end_to_end(self, threads: int, size: int) -> Measurement:
        """Time raw rows to probabilities at the batch size that was best for the forward pass."""
        return self._offline(
            stopwatch(self._end_to_end, self.device),
            self.sample.chunks(size),
            len,
            "end_to_end",
            threads,
            size,
            self.durations.offline_end_to_end_s,
        )

    def _offline(
        self,
        watch: Stopwatch[Any],
        queries: Sequence[Any],
        shape: Callable[[Any], Hashable],
        region: Region,
        threads: int,
        size: int,
        seconds: float,
    ) -> Measurement:
        warm_up = timing_loops.warm_up(watch, queries, shape, self.durations.warm_up)
        joules = energy.read_joules(self.device)
        before = contention.Usage.now()
        timed = timing_loops.offline(watch, queries, seconds)
        seen = contention.contention_between(before, contention.Usage.now())
        rows = len(self.sample.rows) * timed.passes
        used = energy.difference(joules, energy.read_joules(self.device))
        per_pass = len(self.sample.rows) / timed.pass_s
        return Measurement(
            scenario="offline",
            region=region,
            threads=threads,
            batch_size=size,
            queries=len(queries) * timed.passes,
            rows=rows,
            wall_s=timed.wall_s,
            mean_ms=1000 * timed.wall_s / (len(queries) * timed.passes),
            samples_per_s=rows / timed.wall_s,
            samples_per_s_interval=percentiles.mean_interval(
                per_pass, over="passes", center=rows / timed.wall_s
            ),
            warm_up=warm_up,
            contention=seen,
            joules_per_sample=None if used is None else used / rows,
            unstable=(
                *contention.disturbances(seen, threads),
                *contention.irregularities(1000 * timed.pass_s[:, None], warm_up),
            ),
        )

    def temperature_overhead(
        self, measurements: Sequence[Measurement]
    ) -> tuple[TemperatureOverhead, ...]:
        """Time softmax with and without the division by the temperature, pair by pair."""
        latency = next(
            m for m in measurements if (m.scenario, m.region) == ("single-stream", "end_to_end")
        )
        offline = next(m for m in measurements if m.scenario == "offline")
        logits = logits_of(self.model(**self._encoded(self.sample.chunks(offline.batch_size)[0])))
        found = []
        for size in sorted({1, len(logits)}):
            added = self._paired_differences_us(logits[:size].float())
            middle = float(np.median(added))
            p50 = latency.percentile(50) if size == 1 else None
            found.append(
                TemperatureOverhead(
                    batch_size=size,
                    pairs=len(added),
                    added_us=middle,
                    interval_us=percentiles.median_interval(added),
                    share_of_latency=None if p50 is None else middle / 1000 / p50.value_ms,
                )
            )
        return tuple(found)

    def _paired_differences_us(self, logits: Tensor) -> Float64Array:
        import torch

        scale = self.temperature

        def divided(values: Tensor) -> Tensor:
            return torch.softmax(values / scale, dim=-1)

        def plain(values: Tensor) -> Tensor:
            return torch.softmax(values, dim=-1)

        watches = (stopwatch(plain, self.device), stopwatch(divided, self.device))
        rng = np.random.default_rng(self.seed)
        pairs = self.durations.overhead_pairs
        differences = np.empty(pairs)
        with timing_loops.garbage_collector_off():
            for position, flip in enumerate(rng.integers(2, size=pairs)):
                times = [0, 0]
                for which in (flip, 1 - flip):
                    (times[which],) = watches[which].time_each([logits])
                differences[position] = (times[1] - times[0]) / 1000
        return differences[pairs // 10 :]  # the first tenth warms up


def _one_shape(_: object) -> Hashable:
    return None


def _padding_share(batches: Sequence[Batch], lengths: Sequence[int] | None) -> float | None:
    """Padding tokens / all tokens that the batches hold; None without token ids or lengths."""
    if lengths is None or "input_ids" not in batches[0]:
        return None
    computed = sum(batch["input_ids"].numel() for batch in batches)
    return 1 - sum(lengths) / computed


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
