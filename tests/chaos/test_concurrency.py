"""Several commands at once: each run once, and nothing runs while something is timed."""

from __future__ import annotations

import errno
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults import command, environment, launch

from benchmark.records import find_records

SUITE = ("--suite", "seeds", "--limit", "96", "--workers", "1")
WORK = ("benchmark.execution.training:_Loop._backward", "benchmark.execution.scoring:score_run")
TIMED = "benchmark.execution.timing_stage:measure_subject"
TRAINED = "benchmark.execution.stages:save_trained_model"


def notes(file: Path) -> list[dict[str, Any]]:
    """Note the steps of trainings, the trainings that end, and what is timed from when to when."""
    common = {"do": "note", "file": str(file)}
    named = {"at": "benchmark.execution.stages:try_execute", "do": "run"}
    places = (*WORK, TRAINED, TIMED)
    return [named, *({**common, "at": place} for place in places),
            {**common, "at": TIMED, "after": True}]  # fmt: skip


def read_notes(file: Path) -> list[tuple[str, str, float, str]]:
    lines = [line.rstrip("\n").split(" ") for line in file.read_text().splitlines()]
    return [(what, pid, float(moment), run) for what, pid, moment, run in lines]


def start(folder: Path, file: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, *SUITE, *arguments), env=environment(notes(file), folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def timed_windows(found: list[tuple[str, str, float, str]]) -> list[tuple[float, float]]:
    starts = {pid: moment for what, pid, moment, _ in found if what == TIMED}
    ends = {pid: moment for what, pid, moment, _ in found if what == f"{TIMED}:after"}
    return [(starts[pid], end) for pid, end in ends.items()]


def check_apart(found: list[tuple[str, str, float, str]]) -> None:
    """Assert that no step was taken, and nothing else timed, while something was timed."""
    windows = timed_windows(found)
    for first, last in windows:
        inside = [note for note in found if note[0] in WORK and first < note[2] < last]
        assert not inside
        assert not [w for w in windows if first < w[0] < last]


@pytest.mark.chaos
@pytest.mark.parametrize(("launches", "killed"), [(2, False), (2, True), (4, True)])
def test_each_run_once_and_nothing_beside_timing(
    tmp_path: Path, launches: int, killed: bool
) -> None:
    file = tmp_path / "notes"
    started = time.monotonic()
    processes = [start(tmp_path, file, "--seeds", "6") for _ in range(launches)]
    if killed:
        while not file.exists() or TRAINED not in file.read_text():
            time.sleep(0.1)
        processes[0].send_signal(signal.SIGKILL)
    for number, process in enumerate(processes):
        output, errors = process.communicate(timeout=400)
        if not (killed and number == 0):
            assert process.returncode == 0, errors
            assert "6 of 6 runs completed" in output
    print(f"{launches} launches: {time.monotonic() - started:.1f} s")
    found = read_notes(file)
    trained = Counter(run for what, _, _, run in found if what == TRAINED)
    assert len(trained) == 6
    # A run that was killed is done again by another.
    assert sum(trained.values()) <= 6 + killed
    check_apart(found)
    records = [record for _, record in find_records(tmp_path / "results")]
    assert all(record.timing is not None for record in records)
    workers = {pid for what, pid, _, _ in found if what == TRAINED}
    assert killed or len(workers) >= 2  # the second took free runs instead of waiting


@pytest.mark.chaos
def test_other_results_folders_keep_apart_too(tmp_path: Path) -> None:
    """Commands with folders of their own share nothing but the machine."""
    file = tmp_path / "notes"
    processes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        line = command(tmp_path / name, *SUITE, "--seeds", "3" if name == "b" else "1")
        processes.append(
            subprocess.Popen(
                line, env=environment(notes(file), tmp_path), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    found = read_notes(file)
    assert len(timed_windows(found)) == 2
    check_apart(found)


@pytest.mark.chaos
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_file_locks(tmp_path: Path, number: int) -> None:
    """As on a network file system: claims keep commands apart without flock."""
    file = tmp_path / "notes"
    faults = [*notes(file), {"at": "fcntl:flock", "do": "errno", "errno": number}]
    processes = [
        subprocess.Popen(
            command(tmp_path, *SUITE, "--seeds", "4", "--timing", "off"),
            env=environment(faults, tmp_path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    trained = Counter(run for what, _, _, run in read_notes(file) if what == TRAINED)
    assert sorted(trained.values()) == [1, 1, 1, 1]


@pytest.mark.chaos
def test_several_processes_wait_for_another_launch(tmp_path: Path) -> None:
    """Ranks that find a run taken keep meeting, for longer than a collective call may last."""
    from benchmark.records import RunFolder, try_claim

    run = RunFolder(tmp_path / "results/seeds-limit-96/vit/digits/seed-0")
    claim = try_claim(run)
    assert claim is not None
    line = command(tmp_path, "--suite", "seeds", "--limit", "96", "--timing", "off", ranks=2)
    extra = {"ACCELERATE_USE_CPU": "true", "BENCHMARK_COLLECTIVE_TIMEOUT_S": "10"}
    process = subprocess.Popen(
        line, env=environment((), tmp_path, **extra), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    other = RunFolder(run.path.parent / "seed-1")
    while not other.record.exists():
        time.sleep(0.2)
        assert process.poll() is None
    time.sleep(25)
    claim.release()
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "2 of 2 runs completed" in output


@pytest.mark.chaos
def test_one_launch_alone(tmp_path: Path) -> None:
    """What the wall times above are compared with."""
    started = time.monotonic()
    assert launch(tmp_path, *SUITE, "--seeds", "6").returncode == 0
    print(f"1 launch: {time.monotonic() - started:.1f} s")
