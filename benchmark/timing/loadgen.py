"""Cross-check of our latency and throughput with MLCommons LoadGen (extra `loadgen`).

LoadGen issues the queries and keeps the clock, we only answer. Its run rules (durations, counts,
auditing) are not followed, so what comes out is no MLPerf result and must not be called one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmark.records import CrossCheck
from benchmark.timing import loops as timing_loops
from benchmark.timing.device import forward_call, shape_of, stopwatch
from benchmark.timing.job import (
    TimingJob,
    TimingSubject,
    ask_process,
    load,
    read_request,
    write_answer,
)
from benchmark.timing.loops import WarmUpLimits

# The two tools take turns, so that a change of the machine's speed falls on both.
TURNS = 9
_PACKAGE = "mlcommons-loadgen"
_WARM_UP = WarmUpLimits(min_s=0.5, max_s=5.0)
_NANOSECONDS = 1e9


class _Checks(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: tuple[CrossCheck, ...]


def is_installed() -> bool:
    """Whether LoadGen can be imported."""
    return importlib.util.find_spec("mlperf_loadgen") is not None


def cross_check(
    job: TimingJob, *, seconds: float = 6.0, batch_size: int = 32, timeout_s: float = 600
) -> tuple[CrossCheck, ...]:
    """Measure region `forward` with LoadGen and with our own loops, in one fresh process.

    A process of its own because LoadGen keeps global state and threads.

    Args:
        job: how to load the model and its sample.
        seconds: for each tool and scenario.
        batch_size: of the offline scenario; rows that do not fill a batch are left out there.
        timeout_s: for everything.

    Returns:
        One entry for single-stream and one for offline.

    Raises:
        ModuleNotFoundError: when the extra is not installed.
        TimingError: when the model cannot be loaded or run.
    """
    if not is_installed():
        raise ModuleNotFoundError(
            f"the loadgen backend needs {_PACKAGE}: pip install 'calibration-benchmark[loadgen]'"
        )
    request = {"seconds": seconds, "batch_size": batch_size}
    answer = ask_process("benchmark.timing.loadgen", job, request, timeout_s)
    return _Checks.model_validate(answer).checks


def _check(request: dict[str, Any]) -> _Checks:
    import torch

    torch.set_num_threads(1)
    subject = load(TimingJob.model_validate(request["job"]))
    seconds, folder = request["seconds"] / TURNS, Path(request["answer"]).parent
    with torch.inference_mode():
        return _Checks(
            checks=(
                _check_single_stream(subject, seconds, folder),
                _check_offline(subject, seconds, request["batch_size"], folder),
            )
        )


def _encoded(subject: TimingSubject, batch_size: int) -> list[dict[str, Any]]:
    """Encode the sample in full batches, on the model's device."""
    device = next(subject.model.parameters()).device
    size = min(batch_size, len(subject.sample.rows))
    return [
        subject.sample.encode_on(device, rows)
        for rows in subject.sample.chunks(size)
        if len(rows) == size
    ]


def _check_single_stream(subject: TimingSubject, seconds: float, folder: Path) -> CrossCheck:
    device = next(subject.model.parameters()).device
    batches = _encoded(subject, 1)
    watch = stopwatch(forward_call(subject.model), device)
    timing_loops.warm_up(watch, batches, shape_of, _WARM_UP)
    ours, theirs, queries = [], [], 0
    for turn in range(TURNS):
        timed = timing_loops.single_stream(watch, batches, seconds, turn)
        ours.append(float(np.median(timed.latencies_ms)))
        answered = _Answerer(watch, batches)
        summary = _run(answered, "SingleStream", seconds, 1000 / ours[-1], folder)
        theirs.append(_figure(summary, r"^50\.00 percentile latency \(ns\)\s*: (\d+)") / 1e6)
        queries += answered.count
    return _compare("single-stream", queries, theirs, ours)


def _check_offline(
    subject: TimingSubject, seconds: float, batch_size: int, folder: Path
) -> CrossCheck:
    """One LoadGen sample is one encoded batch here: assembling batches is not what is timed."""
    device = next(subject.model.parameters()).device
    batches = _encoded(subject, batch_size)
    rows = min(batch_size, len(subject.sample.rows))
    watch = stopwatch(forward_call(subject.model), device)
    timing_loops.warm_up(watch, batches, shape_of, _WARM_UP)
    ours, theirs, queries = [], [], 0
    for _ in range(TURNS):
        timed = timing_loops.offline(watch, batches, seconds)
        rate = len(batches) * timed.passes / timed.wall_s
        ours.append(rate * rows)
        answered = _Answerer(watch, batches)
        summary = _run(answered, "Offline", seconds, rate, folder)
        theirs.append(_figure(summary, r"^Samples per second: ([\d.e+]+)") * rows)
        queries += answered.count
    return _compare("offline", queries, theirs, ours)


def _compare(
    scenario: Any, queries: int, theirs: Sequence[float], ours: Sequence[float]
) -> CrossCheck:
    return CrossCheck(
        tool=f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}",
        scenario=scenario,
        queries=queries,
        theirs=float(np.median(theirs)),
        ours=float(np.median(ours)),
    )


class _Answerer:
    """The system under test: answers queries with the model and counts them.

    LoadGen 6 calls it on the thread that started the test, which is in inference mode already;
    entering it again for every query would be measured with the query.
    """

    def __init__(self, watch: timing_loops.Stopwatch[Any], batches: Sequence[Any]) -> None:
        loadgen: Any = importlib.import_module("mlperf_loadgen")
        self._complete, self._response = loadgen.QuerySamplesComplete, loadgen.QuerySampleResponse
        self._call, self._synchronize = watch.call, watch.synchronize
        self._batches, self.count = batches, 0
        self.loadgen, self.library_size = loadgen, len(batches)

    def issue(self, samples: Sequence[Any]) -> None:
        """Answer samples one after the other.

        Single-stream queries hold one sample, the offline query all of them, and the device is
        waited for once a query: just as in our own loops.
        """
        import torch

        if not torch.is_inference_mode_enabled():
            raise RuntimeError("LoadGen calls on another thread than the one that started it")
        call, batches = self._call, self._batches
        for sample in samples:
            call(batches[sample.index])
        if self._synchronize is not None:
            self._synchronize()
        response = self._response
        self._complete([response(sample.id, 0, 0) for sample in samples])
        self.count += len(samples)


def _run(
    answerer: _Answerer, scenario: str, seconds: float, expected_per_s: float, folder: Path
) -> str:
    """Let LoadGen run one scenario and return its summary."""
    loadgen = answerer.loadgen
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1000 * seconds)
    settings.min_query_count = 1
    settings.single_stream_expected_latency_ns = int(_NANOSECONDS / expected_per_s)
    settings.offline_expected_qps = expected_per_s
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    system = loadgen.ConstructSUT(answerer.issue, _nothing)
    count = answerer.library_size
    library = loadgen.ConstructQSL(count, count, _nothing, _nothing)
    try:
        with timing_loops.garbage_collector_off():
            loadgen.StartTestWithLogSettings(system, library, settings, logs)
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    return (folder / "mlperf_log_summary.txt").read_text()


def _nothing(*_: object) -> None:
    """Rows are in memory already, and nothing waits to be flushed."""


def _figure(summary: str, pattern: str) -> float:
    found = re.search(pattern, summary, re.MULTILINE)
    if found is None:
        raise ValueError(f"LoadGen's summary has no line like {pattern!r}:\n{summary}")
    return float(found.group(1))


def _main() -> None:
    request = read_request()
    write_answer(Path(request["answer"]), lambda: _check(request))


if __name__ == "__main__":
    _main()
