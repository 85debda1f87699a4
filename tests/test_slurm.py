"""Runs as jobs of submitit: on its local executor, which needs no Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from record_differences import TIMES, differing_fields
from test_run import command, run

from benchmark import RunSpec
from benchmark.execution.engines import Orders
from benchmark.execution.launch import LaunchError
from benchmark.execution.slurm_engine import SlurmEngine
from benchmark.execution.workers import Finished
from benchmark.records import RunFolder, find_records

pytest.importorskip("submitit", reason="the extra slurm is not installed")

LOCAL = ("--executor", "slurm", "--slurm", "cluster=local")
SMALL = ("--limit", "96", "--timing", "off")


def test_what_is_asked_of_slurm(tmp_path: Path) -> None:
    given = {
        "partition": "gpu",
        "time": "1-0:30",
        "mem": "16",
        "cluster": "slurm",
        "reservation": "r",
    }
    engine = SlurmEngine(Orders(tmp_path, workers=7, gpus_per_run=2.0, slurm=given))
    assert engine._settings() == {
        "name": "calibration",
        "timeout_min": 1470,
        "gpus_per_node": 2,
        "cpus_per_task": 1,
        "slurm_array_parallelism": 7,
        "slurm_partition": "gpu",
        "slurm_mem": "16",
        "slurm_additional_parameters": {"reservation": "r"},
    }
    timing = engine._settings("a100")
    assert timing["slurm_exclusive"] is True
    assert timing["slurm_constraint"] == "a100"
    assert "cpus_per_task" not in timing


def test_without_slurm_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    engine = SlurmEngine(Orders(tmp_path / "results"))
    with pytest.raises(LaunchError, match="--executor slurm: Could not detect"):
        next(engine.run([]))


class EndedJob:
    """A job that ended and left nothing but a log."""

    job_id, state = "17_3", "NODE_FAIL"

    def __init__(self, log: Path) -> None:
        log.write_text("Traceback ...\nOutOfMemoryError: no room\n\n")
        self.paths = type("Paths", (), {"stderr": log})

    def done(self) -> bool:
        return True

    def cancel(self, check: bool) -> None:
        assert not check


def test_a_job_that_leaves_no_record_is_submitted_again_and_then_told(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[str] = []

    def submit(executor: Any, errand: Any, specs: list[RunSpec]) -> list[EndedJob]:
        submitted.extend(spec.name for spec in specs)
        return [EndedJob(tmp_path / "log") for _ in specs]

    monkeypatch.setattr("benchmark.execution.slurm_engine._submit", submit)
    monkeypatch.setattr("benchmark.execution.slurm_engine._LOOK_S", 0.01)
    spec = make_spec()
    orders = Orders(tmp_path / "results", retries=2, slurm={"cluster": "local"})
    (event,) = SlurmEngine(orders).run([spec])
    assert submitted == [spec.name] * 3
    assert isinstance(event, Finished)
    failure = event.record.failure
    assert failure is not None
    assert failure.kind == "JobLost"
    assert "job 17_3 ended as NODE_FAIL: OutOfMemoryError: no room (" in failure.message
    assert spec.folder(orders.results).read_record() == event.record


def test_a_job_does_a_run_and_its_record_is_read(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec()
    orders = Orders(tmp_path / "results", slurm={"cluster": "local"})
    (event,) = SlurmEngine(orders).run([spec])
    assert isinstance(event, Finished)
    assert event.record.status == "completed"
    assert event.record == spec.folder(orders.results).read_record()
    cache = orders.results / ".cache"
    assert (cache / "slurm").stat().st_mode & 0o077 == 0  # what is unpickled there is ours
    assert not list(cache.glob("shared-*"))
    assert not spec.folder(orders.results).claim.exists()


@pytest.mark.slow
def test_jobs_give_the_records_of_workers(registry_file: Path, tmp_path: Path) -> None:
    whole = run(registry_file, tmp_path / "local", *SMALL)
    assert whole.returncode == 0, whole.stderr
    jobs = run(registry_file, tmp_path / "slurm", *LOCAL, "--limit", "96")
    assert jobs.returncode == 0, jobs.stderr
    assert "name the kind of node to time on with --timing-node" in jobs.stdout
    assert differing_fields(tmp_path / "local/results", tmp_path / "slurm/results") <= TIMES


LONG = """
  long: {epochs: 60, batch_size: 8, learning_rate: 3.0e-3}
models:
"""


def job_of(results: Path) -> psutil.Process:
    """Return the process of the only job there is: submitit's, which the signals are for."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "submitit.core._submit" in words and str(results) in " ".join(words):
            return process
    raise LookupError("no job is at work")


def wait_for(holds: Callable[[], Any], timeout_s: float = 240) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError


def start_long(registry_file: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    text = registry_file.read_text().replace("models:\n", LONG.lstrip("\n"), 1)
    registry_file.write_text(text.replace("recipe: quick", "recipe: long", 1))
    return subprocess.Popen(
        command(registry_file, folder, "--models", "vit", *arguments, *SMALL),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def folder_of(results: Path) -> RunFolder:
    return RunFolder.of(results, "small-limit-96", "vit", "digits", 0)


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_goes_on(registry_file: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    process = start_long(registry_file, tmp_path, *LOCAL)
    wait_for(folder_of(results).training_state.exists)
    first = job_of(results)
    first.send_signal(signal.SIGUSR2)  # what submitit asks Slurm to send before it preempts
    wait_for(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    record = folder_of(results).read_record()
    assert record is not None
    assert record.training is not None
    assert record.training.resumed_at_epoch > 0
    logs = list((results / ".cache/slurm").glob("*/*_log.out"))
    assert any("Requeued job" in log.read_text() for log in logs), logs


@pytest.mark.slow
def test_ctrl_c_ends_the_jobs(registry_file: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    process = start_long(registry_file, tmp_path, *LOCAL)
    wait_for(folder_of(results).training_state.exists)
    job = job_of(results)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Run the same command again to continue" in output
    wait_for(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE, 40)
    again = run(registry_file, tmp_path, *LOCAL, "--models", "vit", *SMALL)
    assert again.returncode == 0, again.stderr
    record = folder_of(results).read_record()
    assert record is not None
    assert record.training is not None
    assert record.training.resumed_at_epoch > 0


@pytest.mark.slow
def test_models_are_timed_by_one_job(registry_file: Path, tmp_path: Path) -> None:
    arguments = (*LOCAL, "--limit", "96", "--timing-node", "this")
    result = run(registry_file, tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    assert "timing 2 models, one after the other (quick), on one node" in result.stdout
    records = [record for _, record in find_records(tmp_path / "results")]
    settings = [record.timing.setting for record in records if record.timing is not None]
    assert len(settings) == 2
    assert len({setting.device_name for setting in settings}) == 1
