"""Claims of a run's folder: one owner at a time, and dead owners are replaced by one."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

import benchmark.records.claim as claims
from benchmark.records import RunFolder, claimed, sole_maker, try_claim

SPAWN = multiprocessing.get_context("spawn")


def write_claim(folder: RunFolder, **owner: object) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.claim.write_text(json.dumps({"token": "other", **owner}))


def test_a_living_owner_keeps_others_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed-0")
    with claimed(folder) as claim:
        assert claim.is_held()
        assert try_claim(folder) is None
        late = claimed(folder, timeout_s=0.1)
        with pytest.raises(TimeoutError, match="another command works on this run"), late:
            pass
    assert not folder.claim.exists()


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": 2**22 + 1, "started": 0.0},  # no such process
        {"pid": os.getpid(), "started": 1.0},  # a later namesake
        {"pid": "x"},
    ],
)
def test_a_dead_owner_of_this_machine_is_replaced_at_once(
    tmp_path: Path, owner: dict[str, object]
) -> None:
    folder = RunFolder(tmp_path / "seed-0")
    write_claim(folder, host=claims._host(), **owner)
    claim = try_claim(folder)
    assert claim is not None
    assert claim.is_held()
    claim.release()


def claim_elsewhere(folder: RunFolder, age_s: float) -> None:
    """As a process of another machine holds a claim that it touched some time ago."""
    write_claim(folder, host="elsewhere", pid=2**22 + 1, started=0.0)  # no process here has that id
    touched = time.time() - age_s
    os.utime(folder.claim, (touched, touched))


def test_an_owner_elsewhere_is_dead_when_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "WATCH_S", 0.3)
    folder = RunFolder(tmp_path / "seed-0")
    claim_elsewhere(folder, age_s=claims.SILENCE_S - 20)
    assert try_claim(folder) is None
    claim_elsewhere(folder, age_s=claims.SILENCE_S + 5)
    assert try_claim(folder) is None  # watched from now on
    time.sleep(0.4)
    claim = try_claim(folder)
    assert claim is not None
    claim.release()


def test_an_owner_elsewhere_that_was_out_of_reach_keeps_its_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "WATCH_S", 0.2)
    folder = RunFolder(tmp_path / "seed-0")
    claim_elsewhere(folder, age_s=500)  # nobody could touch it while the file system was away
    assert try_claim(folder) is None
    claim_elsewhere(folder, age_s=400)  # it comes back, and the owner with it
    time.sleep(0.3)
    assert try_claim(folder) is None
    claim_elsewhere(folder, age_s=0)
    time.sleep(0.3)
    assert try_claim(folder) is None


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
def test_the_clock_of_this_machine_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    monkeypatch.setattr(claims, "WATCH_S", 0.0)
    living, dead = RunFolder(tmp_path / "seed-0"), RunFolder(tmp_path / "seed-1")
    claim_elsewhere(living, age_s=20)
    claim_elsewhere(dead, age_s=claims.SILENCE_S + 20)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    assert try_claim(living) is None
    claim = try_claim(dead)
    assert claim is not None
    claim.release()


def test_a_file_system_out_of_reach_does_not_end_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    folder = RunFolder(tmp_path / "seed-0")
    read, away = Path.read_text, [True]

    def read_text(path: Path, *arguments: object, **options: object) -> str:
        if away[0] and path.name == ".claim":
            raise OSError(5, "Input/output error")
        return read(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read_text)
    with claimed(folder):
        time.sleep(0.2)
        away[0] = False
        os.utime(folder.claim, (0, 0))
        time.sleep(0.3)
        assert folder.claim.stat().st_mtime > time.time() - 5


def test_a_claim_that_was_lost_is_left_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "seed-0")
    claim = try_claim(folder)
    assert claim is not None
    write_claim(folder, host="elsewhere")
    assert not claim.is_held()
    claim.release()
    assert folder.claim.exists()


def test_an_owner_keeps_its_claim_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    folder = RunFolder(tmp_path / "seed-0")
    with claimed(folder):
        os.utime(folder.claim, (0, 0))
        time.sleep(0.5)
        assert folder.claim.stat().st_mtime > time.time() - 5


def compete(path: str, rounds: int) -> None:
    """Take a folder again and again; count in a file that only its owner may touch."""
    folder, count = RunFolder(Path(path) / "seed-0"), Path(path) / "count"
    for number in range(rounds):
        with claimed(folder) as claim:
            value = int(count.read_text())
            time.sleep(0.001)
            count.write_text(str(value + 1))
            if number % 3 == 0:  # as if this owner had died
                write_claim(folder, host=claims._host(), pid=2**22 + 1, started=0.0)
                claim.release()


def test_owners_never_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "count").write_text("0")
    processes = [SPAWN.Process(target=compete, args=(str(tmp_path), 15)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "60"


def make_once(path: str) -> None:
    """Make what is not there, as a run does with encoded rows."""
    place = Path(path)
    with sole_maker(place):
        if not place.exists():
            time.sleep(0.05)
            with place.open("x") as file:  # a second one would fail
                file.write(str(os.getpid()))


def test_what_several_want_is_made_by_one(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "rows"
    # One that died while it made it keeps nobody waiting.
    write_claim(RunFolder(place.with_name("rows.owner")), host=claims._host(), pid=2**22 + 1)
    processes = [SPAWN.Process(target=make_once, args=(str(place),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert place.exists()
    assert not (tmp_path / "cache/rows.owner/.claim").exists()
