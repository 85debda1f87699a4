"""What a person or a full disk can do to a command is a line and an exit code, no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.shell import command

ROOT = Path(__file__).parents[1]
RUN = str(ROOT / "benchmark" / "run.py")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PY": sys.executable, "RUN": RUN},
    )  # fmt: skip


@pytest.mark.parametrize("line", ["$PY $RUN --list", "$PY -m benchmark.registry show"])
def test_a_reader_that_has_seen_enough(tmp_path: Path, line: str) -> None:
    done = shell(f"{line} | head -1", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_a_full_disk(tmp_path: Path) -> None:
    done = shell("$PY $RUN --list > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize(
    "line",
    [
        "$PY $RUN --results",
        "$PY $RUN --reports",
        "$PY -m benchmark.report --results",
        "$PY -m benchmark.claim",
        "$PY -m benchmark.importing import x.npz --model a --dataset b --results",
    ],
)
def test_a_file_in_the_place_of_a_folder(tmp_path: Path, line: str, place: str) -> None:
    (tmp_path / "file").touch()
    done = shell(f"{line} {place}", tmp_path)
    assert done.returncode == 2
    assert "'file' is a file; name a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_conditions_become_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: BaseException) -> int:
        raise error

    guarded = command(raising)
    assert guarded(KeyboardInterrupt()) == 130
    assert "Run the same command again" in capsys.readouterr().err
    assert guarded(PermissionError(errno.EACCES, "Permission denied", "results/x")) == 2
    assert capsys.readouterr().err == "error: results/x: Permission denied\n"
    # What is no condition of files stays what it is.
    for error in (BrokenPipeError(errno.EPIPE, "a worker"), ConnectionResetError(), KeyError("x")):
        with pytest.raises(type(error)):
            guarded(error)
