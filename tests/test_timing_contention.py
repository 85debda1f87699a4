from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from timing_models import SHORT, Stack, image_sample

from benchmark.records.timing import Contention, WarmUp
from benchmark.timing.contention import Usage, contention_between, disturbances, irregularities
from benchmark.timing.model import time_model

QUIET = Contention(
    own_cores=1.0, stray_cores=0.0, other_cores=0.02, waiting_share=0.001, stolen_cores=0.0
)
SETTLED = WarmUp(first_call_ms=9.0, calls=20, shapes=1, seconds=0.5, settled=True)
STRAY = "other threads of this process"


@contextmanager
def burning_thread() -> Iterator[None]:
    """Keep a core busy beside the measuring thread."""
    stop = threading.Event()
    weights = np.random.default_rng(0).normal(size=(300, 300))

    def burn() -> None:
        while not stop.is_set():
            np.linalg.svd(weights)

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_thread_burning_a_core_is_flagged_in_the_record() -> None:
    model, sample = Stack().eval(), image_sample(16)
    quiet = time_model(model, sample, durations=SHORT)
    with burning_thread():
        noisy = time_model(model, sample, durations=SHORT)
    for measurement in noisy.measurements:
        assert any(STRAY in reason for reason in measurement.unstable)
        assert measurement.contention.stray_cores > 0.05
    assert any(STRAY in reason for reason in noisy.unstable)
    assert noisy.unstable[0].startswith("single-stream forward, 1 thread: ")
    # Other processes may disturb this test at any time; only this process is under its control.
    assert not any(STRAY in reason for reason in quiet.unstable)


def test_nothing_is_said_of_a_quiet_machine() -> None:
    assert disturbances(QUIET, threads=1, cores=2) == ()


@pytest.mark.parametrize(
    ("update", "threads", "cores", "said"),
    [
        ({"stray_cores": 0.3}, 1, 2, "other threads of this process used 0.30 cores"),
        ({"stray_cores": 0.9}, 2, 2, None),
        ({"other_cores": 0.8}, 1, 2, "other processes kept 0.80 of 2 cores busy"),
        ({"other_cores": 0.8}, 1, 64, None),
        ({"other_cores": 7.0}, 1, 64, "other processes kept 7.00 of 64 cores busy"),
        ({"waiting_share": 0.25}, 1, 2, "waited for a core 25.0% of the time"),
        ({"stolen_cores": 0.1}, 1, 2, "the hypervisor took 0.10 cores away"),
        ({"other_cores": None, "waiting_share": None, "stolen_cores": None}, 1, 2, None),
    ],
)
def test_each_disturbance_is_named(
    update: dict[str, float | None], threads: int, cores: int, said: str | None
) -> None:
    found = disturbances(QUIET.model_copy(update=update), threads, cores)
    assert found == (() if said is None else (said,))


def test_unequal_rows_are_no_spread_but_unequal_repeats_are() -> None:
    rows = np.tile(np.linspace(1, 100, 50), (8, 1))
    assert irregularities(rows, SETTLED) == ()
    noise = np.random.default_rng(0).uniform(0.5, 1.5, rows.shape)
    (reason,) = irregularities(rows * noise, SETTLED)
    assert reason.startswith("the same work varied by ")


def test_drift_is_named_with_its_sign() -> None:
    rows = np.ones((10, 4))
    rows[5:] = 1.1
    assert irregularities(rows, SETTLED) == ("latency drifted by +10% from first to second half",)


def test_unsettled_warm_up_and_single_pass_are_named() -> None:
    unsettled = SETTLED.model_copy(update={"settled": False})
    assert irregularities(np.ones((1, 4)), unsettled) == (
        "warm-up did not settle within 0.5 s",
        "only one pass over the sample: spread unknown",
    )
    assert irregularities(np.empty((0, 1)), SETTLED) == ()


def test_counters_are_read_where_they_exist(tmp_path: Path) -> None:
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "thread-self" / "schedstat").write_text("5000000000 2500000000 7\n")
    (tmp_path / "stat").write_text("cpu  100 10 40 900 5 3 2 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    usage = Usage.now(tmp_path)
    assert usage.waiting == 2.5
    # 155 busy ticks, 50 stolen ones; Linux' tick is 1/100 s almost everywhere.
    assert usage.machine is not None
    assert usage.stolen is not None
    assert usage.machine / usage.stolen == pytest.approx(155 / 50)


def test_counters_are_none_elsewhere(tmp_path: Path) -> None:
    usage = Usage.now(tmp_path)
    assert (usage.waiting, usage.machine, usage.stolen) == (None, None, None)
    seen = contention_between(usage, Usage.now(tmp_path))
    assert (seen.other_cores, seen.waiting_share, seen.stolen_cores) == (None, None, None)


def test_rates_are_differences_over_wall() -> None:
    start = Usage(wall=10, process=1, thread=1, waiting=0, machine=100, stolen=0)
    end = Usage(wall=20, process=9, thread=6, waiting=2, machine=118, stolen=1)
    seen = contention_between(start, end)
    assert seen.model_dump() == pytest.approx(
        {
            "own_cores": 0.8,
            "stray_cores": 0.3,
            "other_cores": 1.0,
            "waiting_share": 0.2,
            "stolen_cores": 0.1,
        }
    )


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux counters only")
def test_own_cores_of_an_idle_stretch() -> None:
    """In a process of its own: threads that other tests left spinning would count here."""
    code = (
        "import time\n"
        "from benchmark.timing.contention import Usage, contention_between\n"
        "start = Usage.now()\ntime.sleep(0.2)\n"
        "print(contention_between(start, Usage.now()).own_cores)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(result.stdout) < 0.2


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux counters only")
def test_own_cores_of_a_busy_stretch() -> None:
    start = Usage.now()
    while time.thread_time() < start.thread + 0.1:
        pass
    busy = contention_between(start, Usage.now())
    # Running and waiting for a core account for the whole stretch, however loaded the machine.
    assert busy.waiting_share is not None
    own = busy.own_cores - busy.stray_cores
    assert own + busy.waiting_share == pytest.approx(1, abs=0.15)
