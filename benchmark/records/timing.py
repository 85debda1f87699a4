"""What a latency and throughput measurement leaves in a run's record; needs no torch to read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Scenario = Literal["single-stream", "offline"]
Region = Literal["forward", "end_to_end"]


class _Record(BaseModel):
    """Immutable, and strict about its fields, so that an old record is never half read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Record):
    """A confidence interval, and what varied to give it.

    Attributes:
        low: lower end.
        high: upper end.
        confidence: coverage aimed at, 0 to 1.
        over: `processes` (a fresh process is the unit: the honest error bar), `passes` over the
            sample within one process (optimistic: says nothing about the next process), or
            `pairs` of calls.
        units: how many of them.
    """

    low: float
    high: float
    confidence: float
    over: Literal["processes", "passes", "pairs"]
    units: int


class Percentile(_Record):
    """One latency percentile that the query count supports.

    Attributes:
        rank: 50, 90, 95 or 99.
        value_ms: the percentile of the sample.
        upper_ms: what the true percentile stays below with 99% confidence, were the queries
            independent.
    """

    rank: float
    value_ms: float
    upper_ms: float


class WarmUp(_Record):
    """Calls made before the timed ones.

    Attributes:
        first_call_ms: the first of them; the model may have been called before.
        calls: all calls of the warm-up, the first included.
        shapes: distinct input shapes, each warmed equally often.
        seconds: how long the warm-up took.
        settled: whether the rolling median moved less than 2% before the time limit.
    """

    first_call_ms: float
    calls: int
    shapes: int
    seconds: float
    settled: bool


class LengthBin(_Record):
    """Single-stream latency of the rows whose token length lies in [shortest, longest]."""

    shortest: int
    longest: int
    rows: int
    queries: int
    p50_ms: float


class SweepPoint(_Record):
    """A short offline probe at one batch size; `samples_per_s` is None when memory ran out.

    Attributes:
        padding_share: padding tokens / all tokens computed, 0 to 1; None without token lengths.
    """

    batch_size: int
    samples_per_s: float | None
    padding_share: float | None


class Contention(_Record):
    """What else the machine did while a measurement ran; None where it cannot be read.

    Attributes:
        own_cores: cores this process kept busy (CPU seconds / wall seconds).
        stray_cores: of these, cores used by threads other than the measuring one.
        other_cores: cores that the rest of the machine kept busy.
        waiting_share: share of the time in which the measuring thread was ready but had no core.
        stolen_cores: cores that the hypervisor gave to somebody else.
    """

    own_cores: float
    stray_cores: float
    other_cores: float | None
    waiting_share: float | None
    stolen_cores: float | None


class Measurement(_Record):
    """One scenario on one region at one thread count.

    Attributes:
        scenario: `single-stream` (batch 1, the next query is issued when the last is answered) or
            `offline` (all rows at hand, one wall clock).
        region: `forward` (inputs on the device to logits on the device) or `end_to_end` (raw rows
            to probabilities on the host).
        threads: torch intra-op threads.
        batch_size: rows a call.
        processes: processes measured; with more than one, figures are means over processes.
        queries: calls timed, all processes together.
        rows: rows answered, all processes together; every row of the sample equally often.
        wall_s: length of the timed loops, all processes together.
        mean_ms: wall time a query.
        samples_per_s: rows / wall.
        percentiles: single-stream only, and only those that the count supports; over several
            processes, means of values and the largest bound.
        p50_interval_ms: interval of the median latency (single-stream).
        samples_per_s_interval: interval of the throughput.
        device_event_p50_ms: median by CUDA events (single-stream, forward, CUDA).
        by_length: latency against token length (single-stream, text).
        padding_share: padding tokens / all tokens computed, 0 to 1 (text).
        sweep: the batch sizes tried before the measured one was chosen (offline, forward).
        warm_up: calls before the timed ones (of the first process).
        contention: what else ran meanwhile (of the worst process).
        joules_per_sample: energy, where the machine can read it.
        unstable: why the figures should not be trusted; empty when nothing was seen.
    """

    scenario: Scenario
    region: Region
    threads: int
    batch_size: int
    processes: int = 1
    queries: int
    rows: int
    wall_s: float
    mean_ms: float
    samples_per_s: float
    percentiles: tuple[Percentile, ...] = ()
    p50_interval_ms: Interval | None = None
    samples_per_s_interval: Interval | None = None
    device_event_p50_ms: float | None = None
    by_length: tuple[LengthBin, ...] = ()
    padding_share: float | None = None
    sweep: tuple[SweepPoint, ...] = ()
    warm_up: WarmUp
    contention: Contention
    joules_per_sample: float | None = None
    unstable: tuple[str, ...] = ()

    def percentile(self, rank: float) -> Percentile | None:
        """Return the percentile of `rank`, or None when the query count does not support it."""
        return next((found for found in self.percentiles if found.rank == rank), None)


class Memory(_Record):
    """Peak memory of a pass of its own.

    Attributes:
        fresh_process: whether the process was started for this; if not, the resident sets are
            those of a fork of a process that had only imported the libraries, or absent.
        batch_size: rows a call; the same for every model, so that peaks compare.
        cpu_baseline_rss_bytes: resident set with the libraries imported and no model yet.
        cpu_loaded_rss_bytes: resident set with the model loaded, before the pass.
        cpu_peak_rss_bytes: peak resident set, libraries and loading included.
        cuda_peak_allocated_bytes: peak of live tensors.
        cuda_peak_reserved_bytes: peak held by the caching allocator.
    """

    fresh_process: bool
    batch_size: int
    cpu_baseline_rss_bytes: int | None = None
    cpu_loaded_rss_bytes: int | None = None
    cpu_peak_rss_bytes: int | None = None
    cuda_peak_allocated_bytes: int | None = None
    cuda_peak_reserved_bytes: int | None = None

    @property
    def peak_bytes(self) -> int | None:
        """The device's peak: reserved memory on CUDA, resident set on the CPU."""
        if self.cuda_peak_reserved_bytes is not None:
            return self.cuda_peak_reserved_bytes
        return self.cpu_peak_rss_bytes


class TemperatureOverhead(_Record):
    """What dividing logits by the temperature adds to a query, from paired calls.

    Attributes:
        batch_size: rows a call.
        pairs: pairs timed, softmax with and without the division, in random order.
        added_us: median paired difference, microseconds a call; may be negative.
        interval_us: its interval.
        share_of_latency: added / median single-stream end-to-end latency (batch size 1 only).
    """

    batch_size: int
    pairs: int
    added_us: float
    interval_us: Interval
    share_of_latency: float | None = None


class Setting(_Record):
    """What the figures depend on besides the model."""

    device: str
    device_name: str
    dtype: str
    attention: str
    tf32: bool
    compiled: bool
    inter_op_threads: int
    available_threads: int
    affinity: tuple[int, ...]
    load_average: tuple[float, float, float] | None
    other_device_processes: int | None
    garbage_collector: str = "off inside timed loops"


class CrossCheck(_Record):
    """The same model measured by another tool in the same process, right beside ours.

    Attributes:
        tool: name and version.
        scenario: single-stream or offline; the region is always `forward`.
        queries: calls that the tool issued.
        theirs: p50 in ms (single-stream) or samples per second (offline).
        ours: the same, mean of our measurements just before and just after.
    """

    tool: str
    scenario: Scenario
    queries: int
    theirs: float
    ours: float

    @property
    def ratio(self) -> float:
        """Ours / theirs; 1 is perfect agreement."""
        return self.ours / self.theirs


class Timing(_Record):
    """Latency, throughput and memory of one model.

    Attributes:
        level: `quick` or `full`.
        fresh_process: whether each process was started for this measurement alone.
        sample_rows: rows of the sample.
        measurements: one per scenario, region and thread count.
        memory: None when no pass was made for it.
        cold_first_call_ms: the first call of a fresh process (mean over processes), one row.
        parameters: parameters of the model, shared ones counted once.
        flops_per_sample: by torch's counter (one multiply-add is two), mean over the rows counted.
        achieved_flops_per_s: `flops_per_sample` times the best offline throughput at 1 thread.
        temperature_overhead: one per batch size.
        cross_checks: other tools' figures.
        setting: device, precision, threads.
    """

    level: Literal["quick", "full"]
    fresh_process: bool
    sample_rows: int
    measurements: tuple[Measurement, ...]
    memory: Memory | None
    cold_first_call_ms: float | None = None
    parameters: int
    flops_per_sample: float | None
    achieved_flops_per_s: float | None
    temperature_overhead: tuple[TemperatureOverhead, ...]
    cross_checks: tuple[CrossCheck, ...] = ()
    setting: Setting

    def measurement(
        self, scenario: Scenario, region: Region = "forward", threads: int = 1
    ) -> Measurement | None:
        """Return the measurement of a scenario, or None when it was not made."""
        wanted = (scenario, region, threads)
        return next(
            (m for m in self.measurements if (m.scenario, m.region, m.threads) == wanted), None
        )

    def latency_ms(self, rank: float = 50, region: Region = "forward") -> float | None:
        """Headline latency: single-stream, 1 thread, in ms; None when unsupported or not made."""
        found = self.measurement("single-stream", region)
        percentile = None if found is None else found.percentile(rank)
        return None if percentile is None else percentile.value_ms

    @property
    def best_offline(self) -> Measurement | None:
        """The offline forward measurement of the highest throughput, whatever its threads."""
        found = [m for m in self.measurements if (m.scenario, m.region) == ("offline", "forward")]
        return max(found, key=lambda m: m.samples_per_s, default=None)

    @property
    def peak_memory_mb(self) -> float | None:
        """Peak memory in MB (10^6 bytes), or None when it was not measured."""
        peak = None if self.memory is None else self.memory.peak_bytes
        return None if peak is None else peak / 1e6

    @property
    def unstable(self) -> tuple[str, ...]:
        """Every reason for mistrust, each led by the measurement that it concerns."""
        return tuple(
            f"{m.scenario} {m.region}, {m.threads} thread{'s' * (m.threads > 1)}: {reason}"
            for m in self.measurements
            for reason in m.unstable
        )
