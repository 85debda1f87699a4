"""Two real processes: one order, every row once, agreement on failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmark.records import find_records
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
import sys, os, time
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from benchmark import Registry, plan, execute
import benchmark.execution.gradients as gradients
import benchmark.execution.training as training

MODES = {modes!r}
gradients.BUCKET_BYTES = 1000  # several exchanges a step
rank = int(os.environ["RANK"])
mode, steps = "", 0

def trouble(at):
    if rank == 1 and mode == at and steps == 2:
        print("TROUBLE", mode, time.time(), flush=True)
        raise RuntimeError(f"device 1 had enough: {{at}}")

class Loop(training._Loop):
    def _step(self, *arguments):
        global steps
        steps += 1
        return super()._step(*arguments)

    def _backward(self, inputs, batch_rows):
        trouble("before the exchanges")
        if rank == 1 and mode.startswith("memory") and len(inputs["labels"]) > 6:
            raise torch.OutOfMemoryError("fake")
        if rank == 1 and mode == "no memory in a step" and steps == 2:
            print("TROUBLE", mode, time.time(), flush=True)
            raise torch.OutOfMemoryError("fake")
        return super()._backward(inputs, batch_rows)

    def _update(self):
        trouble("after the exchanges")
        super()._update()

    def find_micro_batch_size(self):
        if not mode.startswith("memory"):
            return super().find_micro_batch_size()
        # Search as on a GPU: there is no memory to run out of here.
        def attempt(rows):
            self.gradients.begin()
            self._backward(next(self._load([__import__("numpy").arange(rows)])), rows)
            self.optimizer.zero_grad()
        return training.largest_fitting(attempt, self._largest_share)

arrived = gradients.GradientSum._arrived
def arriving(self, *arguments):
    arrived(self, *arguments)
    if self._started == 2:
        trouble("within the exchanges")
gradients.GradientSum._arrived = arriving
training._Loop = Loop

for seed, mode in enumerate(MODES):
    steps = 0
    spec = plan(Registry.load({registry!r}), models=["vit"], limit=96, seeds=len(MODES))[seed]
    record = execute(spec, Path({results!r}))
    print("OUTCOME", mode, record.status, time.time(), flush=True)
"""
STEPS_OF_TROUBLE = ("before the exchanges", "within the exchanges", "after the exchanges")


def test_trouble_on_one_rank_is_agreed_on(registry_file: Path, tmp_path: Path) -> None:
    """One of two ranks raises in a step, or runs out of memory: neither waits forever."""
    script = tmp_path / "script.py"
    results = tmp_path / "results"
    modes = [*STEPS_OF_TROUBLE, "no memory in a step", "memory to search"]
    script.write_text(
        ONE_RANK_FAILS.format(
            root=str(ROOT), registry=str(registry_file), results=str(results), modes=modes
        )
    )
    result = subprocess.run(
        [*TORCHRUN, str(script)],
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = [line.rsplit(" ", 1) for line in result.stdout.splitlines()]
    times = {what: float(time) for what, time in lines if what.startswith(("TROUBLE", "OUTCOME"))}
    records = {record.seed: record for _, record in find_records(results)}
    for seed, mode in enumerate(modes):
        record = records[seed]
        if mode == "memory to search":
            assert record.status == "completed", record.failure
            assert record.training is not None
            assert record.training.micro_batch_size == 4  # 16 -> 8 -> 4, on both ranks
            assert record.training.batch_size == 32
            continue
        assert record.failure is not None, mode
        message = "fake" if mode == "no memory in a step" else f"device 1 had enough: {mode}"
        assert record.failure.message == message
        waited = times[f"OUTCOME {mode} failed"] - times[f"TROUBLE {mode}"]
        print(f"{mode}: over on both after {waited:.2f} s")
    assert result.stdout.count("OUTCOME") == 2 * len(modes)


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
