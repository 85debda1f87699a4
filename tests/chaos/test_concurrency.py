"""Several commands at once: each run once, and nothing runs while something is timed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults import ROOT, command, environment, finish, start, wait_until

from benchmark.execution import alone
from benchmark.execution.machine import Share
from benchmark.records import find_records

SUITE = ("--suite", "seeds", "--seeds", "2", "--limit", "96", "--workers", "1")
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


def start_noted(folder: Path, file: Path, *arguments: str) -> subprocess.Popen[str]:
    return start(command(folder, *SUITE, *arguments), environment(notes(file), folder))


def timed_windows(found: list[tuple[str, str, float, str]]) -> list[tuple[float, float]]:
    windows, open_ones = [], {}
    for what, pid, moment, _ in found:  # a process times one model after the other
        if what == TIMED:
            open_ones[pid] = moment
        elif what == f"{TIMED}:after":
            windows.append((open_ones.pop(pid), moment))
    return windows


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
    processes = [start_noted(tmp_path, file, "--seeds", "6") for _ in range(launches)]
    if killed:
        trained_one = lambda: file.exists() and TRAINED in file.read_text()  # noqa: E731
        wait_until(trained_one, processes[0], tmp_path)
        processes[0].send_signal(signal.SIGKILL)
    for number, process in enumerate(processes):
        result = finish(process, tmp_path)
        if not (killed and number == 0):
            assert result.returncode == 0, result.stderr
            assert "6 of 6 runs completed" in result.stdout
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
        processes.append(start(line, environment(notes(file), tmp_path)))
    for process in processes:
        result = finish(process, tmp_path)
        assert result.returncode == 0, result.stderr
    found = read_notes(file)
    assert len(timed_windows(found)) == 2
    check_apart(found)


def another_user_enters(place: Path) -> bool:
    """Say whether a command of another user may work now."""
    process = os.fork()
    if process == 0:
        os.environ["BENCHMARK_MACHINE_LOCKS"] = str(place)
        os.setuid(65534)
        os._exit(10 if Share().enter() else 11)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
@pytest.mark.parametrize("first", ["we", "they"])
def test_other_users_commands_keep_apart_too(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made the lock files, in a folder that is as /tmp is."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o1777)
        monkeypatch.setenv("BENCHMARK_MACHINE_LOCKS", folder)
        if first == "they":
            assert another_user_enters(place)
        with alone(lambda: None):
            assert not another_user_enters(place)
        assert another_user_enters(place)
        assert {path.stat().st_uid for path in place.iterdir()} == {65534 * (first == "they")}


@pytest.mark.chaos
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_file_locks(tmp_path: Path, number: int) -> None:
    """As on a network file system: claims keep commands apart without flock."""
    file = tmp_path / "notes"
    faults = [*notes(file), {"at": "fcntl:flock", "do": "errno", "errno": number}]
    line = command(tmp_path, *SUITE, "--seeds", "4", "--timing", "off")
    processes = [start(line, environment(faults, tmp_path)) for _ in range(2)]
    for process in processes:
        result = finish(process, tmp_path)
        assert result.returncode == 0, result.stderr
    trained = Counter(run for what, _, _, run in read_notes(file) if what == TRAINED)
    assert sorted(trained.values()) == [1, 1, 1, 1]


@pytest.mark.chaos
def test_several_processes_wait_for_another_launch(tmp_path: Path) -> None:
    """Ranks that find a run taken keep meeting, for longer than a collective call may last."""
    from benchmark.records import RunFolder, try_claim

    run = RunFolder(tmp_path / "results/seeds-limit-96/vit/digits/seed-0")
    claim = try_claim(run)
    assert claim is not None
    line = command(tmp_path, *SUITE, "--timing", "off", ranks=2)
    extra = {"ACCELERATE_USE_CPU": "true", "BENCHMARK_COLLECTIVE_TIMEOUT_S": "40"}
    process = start(line, environment((), tmp_path, **extra))
    other = RunFolder(run.path.parent / "seed-1")
    wait_until(other.record.exists, process, tmp_path)
    time.sleep(60)
    claim.release()
    result = finish(process, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 runs completed" in result.stdout


@pytest.mark.chaos
def test_two_launches_of_the_default_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one and two take. CHAOS_LIMIT: rows of each split; CHAOS_SUITE: another suite."""
    rows = os.environ.get("CHAOS_LIMIT", "40")
    suite = os.environ.get("CHAOS_SUITE", "embedded")
    seconds = []
    for launches in (1, 2):
        folder = tmp_path / str(launches)
        folder.mkdir()
        line = command(folder, "--suite", suite, "--limit", rows)
        line += ["--registry", str(ROOT / "registry.yaml")]
        started = time.monotonic()
        variables = environment(notes(folder / "notes"), folder)
        processes = [start(line, variables) for _ in range(launches)]
        for process in processes:
            result = finish(process, folder)
            assert result.returncode == 0, result.stderr
        seconds.append(time.monotonic() - started)
        found = read_notes(folder / "notes")
        records = [record for _, record in find_records(folder / "results")]
        trained = Counter(run for what, _, _, run in found if what == TRAINED)
        assert len(trained) == len(records) == sum(trained.values())
        assert all(record.timing is not None for record in records)
        check_apart(found)
    with capsys.disabled():
        print(
            f"\nsuite {suite}, {rows} rows, {len(records)} runs: one launch {seconds[0]:.0f} s, "
            f"two {seconds[1]:.0f} s; {len(timed_windows(found))} models timed"
        )
