"""Hold the timing harness against other tools and known answers; print the table of docs/timing.md.

Run it alone on the machine: `python scripts/timing_crosscheck.py`. A check that other work
disturbed is repeated (up to --attempts times) and the least disturbed attempt counts. Exit status
1 when a figure misses its bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from benchmark.data import Rows
from benchmark.records import Memory, Timing
from benchmark.timing import contention, loadgen, memory, percentiles
from benchmark.timing import loops as timing_loops
from benchmark.timing.device import forward_call
from benchmark.timing.durations import QUICK
from benchmark.timing.job import TimingJob, TimingSample, TimingSubject
from benchmark.timing.loops import Stopwatch, WarmUpLimits
from benchmark.timing.model import time_model
from benchmark.timing.processes import time_jobs

PAIRS = 500
LOADGEN_S = 4.5
SIDE = 16
SHORT = dataclasses.replace(
    QUICK,
    single_stream_s=0.2,
    end_to_end_s=0.2,
    probe_s=0.05,
    offline_s=0.2,
    offline_end_to_end_s=0.1,
    warm_up=WarmUpLimits(min_s=0, max_s=0.2, window=2),
)


@dataclass(frozen=True)
class Check:
    """One line of the table; `disturbance` is the share of time without a core."""

    what: str
    found: str
    bound: str
    passed: bool
    disturbance: float = 0.0


class Stack(nn.Module):
    """Plain linear layers."""

    def __init__(self, width: int = 1024, depth: int = 12) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE * SIDE, width)
        self.rest = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, width]."""
        return self.rest(self.first(x))


class Transformer(nn.Module):
    """A tiny transformer over the rows of an image."""

    def __init__(self, width: int = 128, layers: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, 10]."""
        return self.head(self.encoder(self.embed(x.view(-1, SIDE, SIDE))).mean(1))


class Sleeper(nn.Module):
    """Sleeps 5 ms per call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return its input."""
        time.sleep(0.005)
        return x


class NoOperation(Sleeper):
    """Does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return its input."""
        return x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear stack": Stack,
    "tiny transformer": Transformer,
}


def load_model(name: str) -> TimingSubject:
    """Loader for the fresh processes of this script."""
    torch.manual_seed(0)
    return TimingSubject(MODELS[name]().eval(), sample(), 1.5)


def sample(count: int = 128) -> TimingSample:
    """Return random images."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return TimingSample(
        Rows(np.arange(count), np.zeros(count, dtype=np.int64), images=images), encode
    )


def encode(rows: Rows) -> dict[str, Tensor]:
    """Flatten one channel."""
    assert rows.images is not None
    grey = np.stack([rows.images[i][..., 0] for i in range(len(rows))])
    return {"x": torch.from_numpy(grey).flatten(1).float() / 255}


def job(name: str) -> TimingJob:
    """Return the job of one of `MODELS`."""
    return TimingJob(name=name, loader="timing_crosscheck:load_model", arguments={"name": name})


@contextmanager
def watched(seen: list[float]) -> Iterator[None]:
    """Note which share of the time this thread was ready but had no core."""
    start = contention.Usage.now()
    yield
    seen.append(contention.contention_between(start, contention.Usage.now()).waiting_share or 0.0)


def check_timer(name: str) -> Check:
    """Compare p50 with torch.utils.benchmark.Timer, the two alternating call by call."""
    subject = load_model(name)
    batch = encode(subject.sample.chunks(1)[0])
    watch = Stopwatch(forward_call(subject.model))
    statement = {"model": subject.model, "batch": batch}
    timer = Timer("model(**batch)", globals=statement, num_threads=1)
    ours, theirs, seen = [], [], []
    with torch.inference_mode(), timing_loops.garbage_collector_off(), watched(seen):
        for _ in range(PAIRS):
            # timeit(1) makes two calls before the one it times; so does this loop.
            ours.append(watch.time_each([batch] * 3)[-1] / 1e6)
            theirs.append(1000 * timer.timeit(1).median)
    ratio = float(np.median(ours) / np.median(theirs))
    interval = percentiles.median_interval(np.array(ours) / np.array(theirs))
    return Check(
        f"p50 of a {name} ({np.median(ours):.3f} ms) / torch Timer",
        f"{ratio:.3f} (median pair {interval.low:.3f} to {interval.high:.3f}, {PAIRS} pairs)",
        "1 ± .05",
        abs(ratio - 1) <= 0.05,
        seen[0],
    )


def check_loadgen(name: str) -> list[Check]:
    """Compare single-stream and offline with LoadGen, in a fresh process."""
    if not loadgen.is_installed():
        return [Check(f"LoadGen, {name}", "not installed", "", True)]
    seen: list[float] = []
    units = {"single-stream": "ms", "offline": "samples/s"}
    start = os.times()
    found = loadgen.cross_check(job(name), seconds=LOADGEN_S)
    seen.append(_child_disturbance(start))
    return [
        Check(
            f"{one.scenario} of a {name} ({one.ours:.4g} {units[one.scenario]}) / LoadGen",
            f"{one.ratio:.3f} ({one.queries} queries)",
            "1 ± .05" if one.scenario == "single-stream" else "(reported)",
            one.scenario == "offline" or abs(one.ratio - 1) <= 0.05,
            seen[0],
        )
        for one in found
    ]


def _child_disturbance(start: os.times_result) -> float:
    """Share of the time in which the (single-threaded) child did not run."""
    now = os.times()
    ran = now.children_user + now.children_system - start.children_user - start.children_system
    return max(0.0, 1 - ran / (now.elapsed - start.elapsed))


def check_sleeper() -> Check:
    """Time a model of a known latency."""
    found = time_model(
        Sleeper().eval(), sample(64), durations=dataclasses.replace(SHORT, single_stream_s=2)
    )
    p50, p90 = found.latency_ms(50) or 0, found.latency_ms(90) or 0
    return Check(
        "p50 of a model that sleeps 5 ms",
        f"{p50:.3f} ms (p90 {p90:.3f})",
        "5 ± .3 ms",
        abs(p50 - 5) <= 0.3,
        found.measurements[0].contention.waiting_share or 0.0,
    )


def check_offline() -> Check:
    """Count rows inside the model and hold the reported rate to rows / wall by another clock."""
    model, rows, seen = Transformer().eval(), sample(), []
    model.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    watch = Stopwatch(forward_call(model))
    batches = [encode(chunk) for chunk in rows.chunks(32)]
    with torch.inference_mode():
        start = time.monotonic()
        timed = timing_loops.offline(watch, batches, 1.0)
        wall = time.monotonic() - start
    reported = len(rows.rows) * timed.passes / timed.wall_s
    ratio = reported / (sum(seen) / wall)
    return Check(
        "offline throughput / (rows seen by the model / wall by another clock)",
        f"{ratio:.5f}",
        "1 ± .001",
        abs(ratio - 1) <= 0.001,
    )


def check_overhead() -> Check:
    """Time a model that does nothing, and subtract the bare call of the same model."""
    model = NoOperation().eval()
    batches = [{"x": torch.zeros(1)}] * 1000
    watch = Stopwatch(forward_call(model))
    with torch.inference_mode():
        reported = np.median(timing_loops.single_stream(watch, batches, 1.0, 0).latencies_ms)
        bare = min(_bare_call_us(model, batches) for _ in range(20))
    whole = 1000 * float(reported)
    return Check(
        "harness overhead per single-stream call (no-op model)",
        f"{whole:.2f} µs reported, {whole - bare:.2f} µs above the bare call",
        "≤ 5 µs",
        whole <= 5,
    )


def _bare_call_us(model: nn.Module, batches: list[dict[str, Tensor]]) -> float:
    start = time.perf_counter_ns()
    for batch in batches:
        model(**batch)
    return (time.perf_counter_ns() - start) / 1000 / len(batches)


def check_burner() -> Check:
    """Burn a core in another thread while timing."""
    stop = threading.Event()
    matrix = np.random.default_rng(0).normal(size=(300, 300))

    def burn() -> None:
        while not stop.is_set():
            np.linalg.svd(matrix)

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        noisy = time_model(load_model("linear stack").model, sample(), durations=SHORT)
    finally:
        stop.set()
        thread.join()
    reasons = noisy.measurements[0].unstable
    flagged = any("other threads of this process" in reason for reason in reasons)
    return Check("a thread burns a core during timing", "; ".join(reasons), "flagged", flagged)


def check_quick(name: str) -> list[Check]:
    """Run the quick level and report its length and the overhead of temperature scaling."""
    subject = load_model(name)
    # The first measurement of a process also imports the FLOP counter (over a second).
    time_model(subject.model, subject.sample, durations=SHORT)
    start = time.perf_counter()
    found = time_model(subject.model, subject.sample, temperature=subject.temperature)
    wall = time.perf_counter() - start
    added = found.temperature_overhead[0]
    waiting = found.measurements[0].contention.waiting_share or 0.0
    interval = added.interval_us
    return [
        Check(f"length of `quick` ({name})", f"{wall:.1f} s", "≤ 8 s", wall <= 8, waiting),
        Check(
            f"temperature scaling adds to a query ({name})",
            f"{added.added_us:.2f} µs (95% {interval.low:.2f} to {interval.high:.2f}), "
            f"{added.share_of_latency or 0:.2%} of its end-to-end latency",
            "(reported)",
            True,
            waiting,
        ),
    ]


def check_memory() -> list[Check]:
    """Compare peaks of forks with those of processes started from nothing."""
    jobs = [job(name) for name in MODELS]
    started = time_jobs(jobs, level="quick", processes=1, durations=SHORT)
    checks = []
    for one, forked, fresh in zip(jobs, memory.measure_memory(jobs), started, strict=True):
        if not isinstance(forked, Memory) or not isinstance(fresh, Timing) or fresh.memory is None:
            checks.append(Check(f"peak memory of a {one.name}", f"{forked} {fresh}", "", False))
            continue
        ratio = (forked.cpu_peak_rss_bytes or 0) / (fresh.memory.cpu_peak_rss_bytes or 1)
        peak = (fresh.memory.cpu_peak_rss_bytes or 0) / 1e6
        checks.append(
            Check(
                f"peak memory of a {one.name} ({peak:.0f} MB), fork / fresh process",
                f"{ratio:.3f}",
                "1 ± .1",
                abs(ratio - 1) <= 0.1,
            )
        )
    return checks


def wait_for_quiet(longest_s: float) -> None:
    """Wait until other processes use less than .3 cores over a second."""
    deadline = time.monotonic() + longest_s
    while time.monotonic() < deadline:
        start = contention.Usage.now()
        time.sleep(1)
        if (contention.contention_between(start, contention.Usage.now()).other_cores or 0) < 0.3:
            return


def least_disturbed(
    make: Callable[[], Check | list[Check]], attempts: int, wait_s: float
) -> list[Check]:
    """Repeat a check while something disturbed it; keep the calmest attempt."""
    best: list[Check] = []
    for _ in range(attempts):
        wait_for_quiet(wait_s)
        made = make()
        found = made if isinstance(made, list) else [made]
        if not best or found[0].disturbance < best[0].disturbance:
            best = found
        if best[0].disturbance < 0.02:
            break
    return best


def main() -> int:
    """Run every check and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attempts", type=int, default=3, help="of a disturbed check")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for a quiet moment")
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    makers: list[Callable[[], Check | list[Check]]] = [
        *(lambda name=name: check_timer(name) for name in MODELS),
        *(lambda name=name: check_loadgen(name) for name in MODELS),
        check_sleeper,
        check_offline,
        check_overhead,
        check_burner,
        *(lambda name=name: check_quick(name) for name in MODELS),
        check_memory,
    ]
    print(f"load before: {os.getloadavg()}, torch {torch.__version__}, {os.cpu_count()} cores\n")
    print("| check | found | bound | without a core | |\n| --- | --- | --- | --- | --- |")
    failed = False
    for make in makers:
        for check in least_disturbed(make, options.attempts, options.wait):
            failed |= not check.passed
            verdict = "ok" if check.passed else "MISSED"
            share = f"{check.disturbance:.1%}"
            print(
                f"| {check.what} | {check.found} | {check.bound} | {share} | {verdict} |",
                flush=True,
            )
    print(f"\nload after: {os.getloadavg()}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
