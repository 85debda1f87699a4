"""Several processes of one launch: one of them in trouble at each step of a run.

None waits for ever, the run's outcome is typed, the other run goes on, and what completes has the
logits of an undisturbed launch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import launch

from benchmark.records import RunFolder, read_split

STAGES = "benchmark.execution.stages"
TRAINING = "benchmark.execution.training:_Loop"
STEPS = {
    "resolve": (f"{STAGES}:resolve", 0),
    "record before": (f"{STAGES}:begin", 0),
    "data": (f"{STAGES}:load_corpus", None),
    "encode": (f"{STAGES}:encode_splits", None),
    "restore": (f"{TRAINING}.resume", None),
    "step": (f"{TRAINING}._backward", None),
    "backward pass": ("benchmark.execution.gradients:GradientSum._arrived", None),
    "sum gradients": ("benchmark.execution.gradients:GradientSum._start_next", None),
    "optimiser": (f"{TRAINING}._update", None),
    "buffers": (f"{TRAINING}._share_buffers", None),
    "save state": (f"{TRAINING}.save", None),
    "save model": (f"{STAGES}:save_trained_model", 0),
    "columns": (f"{STAGES}:_Run._columns", None),
    "predict": ("benchmark.execution.forward:_forward", None),
    "write logits": (f"{STAGES}:write_logits", 0),
    "score": ("benchmark.execution.scoring:score_run", 0),
}
ARGUMENTS = ("--suite", "seeds", "--seeds", "2", "--limit", "96", "--timing", "off")


def logits_of(folder: Path, seed: int) -> np.ndarray:
    return read_split(run_of(folder, seed), "test").logits


def run_of(folder: Path, seed: int) -> RunFolder:
    return RunFolder(folder / f"results/seeds-limit-96/vit/digits/seed-{seed}")


def faults_at_each_step(rank: int) -> list[dict[str, Any]]:
    """One seed for each step, at which one rank fails; where only one works, it is that one."""
    note = {"at": f"{STAGES}:try_execute", "do": "run"}
    return [note] + [
        {"at": place, "rank": rank if only is None else only, "do": "raise",
         "run": f"vit/digits/seed-{seed}"}
        for seed, (place, only) in enumerate(STEPS.values())
    ]  # fmt: skip


@pytest.mark.chaos
@pytest.mark.parametrize("ranks", [2, 3])
def test_one_rank_fails_at_each_step(tmp_path: Path, ranks: int) -> None:
    seeds = len(STEPS) + 1
    arguments = (*ARGUMENTS, "--seeds", str(seeds))
    result = launch(tmp_path, *arguments, ranks=ranks, faults=faults_at_each_step(ranks - 1))
    assert f"1 of {seeds} runs completed" in result.stdout, (result.stdout, result.stderr)
    for seed, (step, (place, _)) in enumerate(STEPS.items()):
        record = run_of(tmp_path, seed).read_record()
        assert record is not None, step
        assert record.failure is not None, step
        assert record.failure.message == f"injected at {place}", step

    again = launch(tmp_path, *arguments, ranks=ranks)
    assert again.returncode == 0, again.stderr
    reference = tmp_path / "undisturbed"
    reference.mkdir()
    assert launch(reference, *arguments, ranks=ranks).returncode == 0
    for seed in range(seeds):
        np.testing.assert_array_equal(logits_of(tmp_path, seed), logits_of(reference, seed))


def test_gradients_of_different_seeds_are_never_summed(tmp_path: Path) -> None:
    """A rank that cannot resolve a run must not go on to the next while the others train it.

    Each rank once resolved for itself, outside any vote; with seeds of one model the shapes fit,
    and seed 0 "completed" with the sum of both seeds' gradients.
    """
    fault = {"at": f"{STAGES}:resolve", "rank": 1, "call": 1, "do": "raise"}
    result = launch(tmp_path, *ARGUMENTS, ranks=2, faults=[fault])
    assert result.returncode == 0, result.stderr
    alone = tmp_path / "alone"
    alone.mkdir()
    assert launch(alone, *ARGUMENTS, "--workers", "1").returncode == 0
    for seed in (0, 1):
        apart = np.abs(logits_of(tmp_path, seed) - logits_of(alone, seed)).max()
        assert apart < 1e-3, f"seed {seed} differs by {apart}"


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("ranks", "step"),
    [(2, "before its sums"), (3, "before its sums"), (2, "a sum begun"), (2, "before its vote")],
)
def test_a_rank_that_is_killed_ends_the_launch(tmp_path: Path, ranks: int, step: str) -> None:
    place = {
        "before its sums": {"at": f"{TRAINING}._backward"},
        "a sum begun": {"at": "benchmark.execution.gradients:GradientSum._start_next"},
        "before its vote": {"at": f"{TRAINING}._update"},
    }[step]
    fault = {**place, "rank": ranks - 1, "call": 2, "after": step == "a sum begun"}
    note = tmp_path / "killed"
    faults = [{**fault, "do": "note", "file": str(note)}, {**fault, "do": "kill"}]
    result = launch(tmp_path, *ARGUMENTS, ranks=ranks, faults=faults)
    waited = time.time() - float(note.read_text().split()[2])
    print(f"rank {ranks - 1} of {ranks} killed, {step}: the launch ended after {waited:.1f} s")
    assert result.returncode == 1
    again = launch(tmp_path, *ARGUMENTS, ranks=ranks)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 runs completed" in again.stdout


@pytest.mark.chaos
def test_a_rank_that_does_not_come_ends_the_launch_with_the_reason(tmp_path: Path) -> None:
    fault = {"at": f"{TRAINING}._backward", "rank": 1, "call": 2, "do": "sleep", "seconds": 600}
    result = launch(
        tmp_path, *ARGUMENTS, ranks=2, faults=[fault], BENCHMARK_COLLECTIVE_TIMEOUT_S="60"
    )
    assert result.returncode == 1
    assert "did not answer within 60 s" in result.stderr


@pytest.mark.chaos
@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_logits_do_not_depend_on_the_number_of_processes(tmp_path: Path, model: str) -> None:
    found = []
    for ranks in (1, 2, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        arguments = ("--suite", "mixers", "--models", model, "--limit", "96", "--timing", "off")
        result = launch(folder, *arguments, ranks=ranks)
        assert result.returncode == 0, result.stderr
        run = RunFolder(folder / f"results/mixers-limit-96/{model}/digits/seed-0")
        found.append(read_split(run, "test").logits)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-4)
