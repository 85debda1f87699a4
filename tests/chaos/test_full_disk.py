"""A full or read-only disk at every write: a sentence that names the file, and nothing lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import figures
from full_disk import failing_disk

from benchmark import RunSpec, execute
from benchmark.records import Record
from benchmark.run import main

FAULTS = (errno.ENOSPC, errno.EROFS)


def must_name_the_file(record: Record, results: Path, number: int) -> None:
    assert record.status == "failed"
    assert record.failure is not None
    message, details = record.failure.message, record.failure.details
    assert str(results) in message, message
    assert os.strerror(number) in message, message
    assert "Traceback" not in message + details
    if number == errno.ENOSPC:
        assert "MiB free" in message
        assert "nothing that was finished is lost" in message


@pytest.fixture
def spec_and_writes(make_spec: Callable[..., RunSpec], tmp_path: Path) -> tuple[RunSpec, int]:
    """A run, and how many writes it takes from nothing to its record."""
    spec = make_spec("vit", limit=48)
    with failing_disk(tmp_path / "counted") as disk:
        assert execute(spec, tmp_path / "counted").status == "completed"
    return spec, disk.writes


def try_write(spec: RunSpec, results: Path, number: int, at: int, expected: object) -> None:
    with failing_disk(results, number, at) as disk:
        record = execute(spec, results)
    assert disk.failed
    if record.status != "completed":  # what only tidies up may fail in silence
        must_name_the_file(record, results, number)
    assert execute(spec, results).status == "completed"
    assert figures(spec.folder(results)) == expected


@pytest.mark.parametrize("number", FAULTS)
def test_some_writes_fail(
    number: int, spec_and_writes: tuple[RunSpec, int], tmp_path: Path
) -> None:
    spec, writes = spec_and_writes
    expected = figures(spec.folder(tmp_path / "counted"))
    for at in (1, writes // 3, writes):
        try_write(spec, tmp_path / f"at-{at}", number, at, expected)


@pytest.mark.chaos
@pytest.mark.parametrize("number", FAULTS)
def test_every_write_fails_once(
    number: int,
    spec_and_writes: tuple[RunSpec, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec, writes = spec_and_writes
    expected = figures(spec.folder(tmp_path / "counted"))
    for at in range(1, writes + 1):
        try_write(spec, tmp_path / f"at-{at}", number, at, expected)
    with capsys.disabled():
        print(f"\n{os.strerror(number)} at each of {writes} writes of a run")


@pytest.mark.parametrize("at", [1, pytest.param(7, marks=pytest.mark.chaos)])
def test_a_full_disk_costs_neither_the_runs_that_are_done_nor_the_report(
    at: int, registry_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--results", str(tmp_path / "results"), "--reports", str(tmp_path / "reports"))
    command = ["--registry", str(registry_file), *places, "--suite", "small", "--limit", "48"]
    command += ["--timing", "off", "--workers", "1"]
    assert main([*command, "--models", "vit"]) == 0
    capsys.readouterr()
    with failing_disk(tmp_path / "reports", errno.ENOSPC, at):
        code = main([*command, "--models", "vit", "--redraw"])
    shown = capsys.readouterr()
    assert code == 2
    report = tmp_path / "reports/small-limit-48"
    assert f"error: {report}: No space left on device" in shown.err
    assert "MiB free on its disk); nothing that was finished is lost" in shown.err
    assert not list(report.parent.glob(".*"))
    assert "Traceback" not in shown.out + shown.err
    assert (report / "README.md").exists()  # the old one


@pytest.mark.parametrize("blocked", ["small-limit-48", "small-limit-48/vit/digits"])
def test_a_file_where_a_folder_should_be_is_named(
    blocked: str, registry_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "results" / blocked
    place.parent.mkdir(parents=True)
    place.write_text("a file")
    command = ["--registry", str(registry_file), "--results", str(tmp_path / "results")]
    command += ["--reports", str(tmp_path / "reports"), "--suite", "small", "--limit", "48"]
    code = main([*command, "--timing", "off", "--workers", "1"])
    shown = capfd.readouterr()
    assert code in (1, 2)
    assert f"{place.name} is a file where a folder should be" in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err
    assert place.read_text() == "a file"
    if "vit" in blocked:  # the other run is not touched by it
        assert "1 of 2 runs completed" in shown.out
