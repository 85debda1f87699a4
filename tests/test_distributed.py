"""Two real processes: one order, every row once, agreement on failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.records import RunFolder, find_records
from benchmark.records.logits import read_split

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def launch(
    registry: Path, folder: Path, *arguments: str, **extra: str
) -> subprocess.CompletedProcess[str]:
    command = [
        *TORCHRUN, str(ROOT / "benchmark" / "run.py"), "--registry", str(registry),
        "--results", str(folder / "results"), "--reports", str(folder / "reports"),
        "--timing", "off", *arguments,
    ]  # fmt: skip
    return subprocess.run(
        command, env=environment(**extra), capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_make_one_record_with_every_row_once(
    registry_file: Path, tmp_path: Path
) -> None:
    result = launch(
        registry_file, tmp_path, "--models", "vit", "--limit", "97", ACCELERATE_USE_CPU="true"
    )
    assert result.returncode == 0, result.stderr
    ((folder, record),) = find_records(tmp_path / "results")
    assert record.status == "completed"
    assert record.training is not None
    assert record.training.world_size == 2
    split = read_split(folder, "test")
    assert len(np.unique(split.ids)) == 97
    assert result.stdout.count("vit/digits/seed-0") == 1  # one process reports

    # The same run by one process: same batches, so the same model up to rounding.
    single = tmp_path / "single"
    command = [
        sys.executable, str(ROOT / "benchmark" / "run.py"), "--registry", str(registry_file),
        "--results", str(single), "--reports", str(tmp_path / "reports-single"),
        "--timing", "off", "--models", "vit", "--limit", "97", "--workers", "1",
    ]  # fmt: skip
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=300)
    ((other, other_record),) = find_records(single)
    assert record.keys == other_record.keys
    first, second = split.logits, read_split(other, "test").logits
    np.testing.assert_array_equal(split.ids, read_split(other, "test").ids)
    assert np.abs(first - second).max() < 0.05 * np.abs(second).max()


def test_a_failure_ends_one_run_and_the_others_go_on(registry_file: Path, tmp_path: Path) -> None:
    result = launch(
        registry_file, tmp_path, "--suite", "failing", "--limit", "96", ACCELERATE_USE_CPU="true"
    )
    assert "1 of 2 runs completed" in result.stdout
    assert "failed: diverging/digits/seed-0" in result.stderr
    statuses = {record.model: record.status for _, record in find_records(tmp_path / "results")}
    assert statuses == {"diverging": "failed", "vit": "completed"}


def test_misunderstood_launch_is_refused(registry_file: Path, tmp_path: Path) -> None:
    """A bare torchrun without a GPU would train two independent copies."""
    result = launch(registry_file, tmp_path, "--models", "vit", ACCELERATE_USE_CPU="false",
                    CUDA_VISIBLE_DEVICES="")  # fmt: skip
    assert result.returncode != 0
    assert "started 2 processes but Accelerate sees 1" in result.stderr
    assert not (tmp_path / "results").exists()


ONE_RANK_FAILS = """
import sys, os
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from benchmark import Registry, plan, execute
import benchmark.execution.training as training
import benchmark.failures as failures

mode = sys.argv[1]
rank = int(os.environ["RANK"])
backward = training._Loop._backward
calls = 0

def sometimes_failing(self, inputs, batch_rows):
    global calls
    calls += 1
    if rank == 1 and mode == "crash" and calls == 3:
        raise RuntimeError("device 1 had enough")
    if rank == 1 and mode == "memory" and len(inputs["labels"]) > 6:
        raise torch.OutOfMemoryError("fake")
    return backward(self, inputs, batch_rows)

training._Loop._backward = sometimes_failing
if mode == "memory":
    # Search as on a GPU: there is no memory to run out of here.
    def search(self):
        def attempt(rows):
            inputs = next(self._load([__import__("numpy").arange(rows)]))
            self._backward(inputs, rows)
            self.optimizer.zero_grad()
        return training.largest_fitting(attempt, self._largest_share)
    training._Loop.find_micro_batch_size = search
spec = plan(Registry.load({registry!r}), models=["vit"], limit=96)[0]
record = execute(spec, Path({results!r}))
print("OUTCOME", rank, record.status, flush=True)
"""


@pytest.mark.parametrize(("mode", "status"), [("crash", "failed"), ("memory", "completed")])
def test_trouble_on_one_rank_is_agreed_on(
    registry_file: Path, tmp_path: Path, mode: str, status: str
) -> None:
    """One of two ranks raises in mid-training, or runs out of memory: neither waits forever."""
    script = tmp_path / "script.py"
    results = tmp_path / "results"
    script.write_text(
        ONE_RANK_FAILS.format(root=str(ROOT), registry=str(registry_file), results=str(results))
    )
    result = subprocess.run(
        [*TORCHRUN, str(script), mode],
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("OUTCOME") == 2
    record = RunFolder(results / "small-limit-96/vit/digits/seed-0").read_record()
    assert record is not None
    assert record.status == status
    if mode == "crash":
        assert record.failure is not None
        assert record.failure.message == "device 1 had enough"
    else:
        assert record.training is not None
        assert record.training.micro_batch_size == 4  # 16 -> 8 -> 4, on both ranks
        assert record.training.batch_size == 32


def test_help_answers_under_accelerate() -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]
    result = subprocess.run(
        [*accelerate, "--config_file", str(ROOT / "accelerate.yaml"),
         str(ROOT / "benchmark" / "run.py"), "--help"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0
    assert "--models" in result.stdout
    assert not result.stderr.strip()
