"""Gradients summed over processes: what one process gets, without a second copy of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_cases import CASES, Arrays, train

from benchmark.execution import gradients
from benchmark.execution.gradients import GradientSum

SCRIPT = Path(__file__).parent / "gradient_cases.py"
TOLERANCE = 1e-4


def trained_by(processes: int, folder: Path) -> list[Arrays]:
    """Return what each process of a launch has after all cases."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node", str(processes), str(SCRIPT), str(folder)),
    ]
    result = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [dict(np.load(folder / f"rank-{rank}.npz")) for rank in range(processes)]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[Arrays]:
    return trained_by(2, tmp_path_factory.mktemp("two"))


def require_same(name: str, several: list[Arrays], one: Arrays) -> None:
    for what, value in one.items():
        found = [process[f"{name}/{what}"] for process in several]
        np.testing.assert_allclose(found[0], value, atol=TOLERANCE, err_msg=f"{name}: {what}")
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_does(by_two: list[Arrays], name: str) -> None:
    one = train(CASES[name])
    require_same(name, by_two, one)
    assert np.isfinite(one["losses"]).all()


def test_a_weight_that_is_never_used_does_not_decay(by_two: list[Arrays]) -> None:
    assert (by_two[0]["a weight that is never used/spare"] == 1).all()


@pytest.mark.slow
def test_three_processes_train_what_one_does(tmp_path: Path) -> None:
    several = trained_by(3, tmp_path)
    for name, case in CASES.items():
        require_same(name, several, train(case))


def test_gradients_lie_where_they_are_exchanged_and_leave_early(by_two: list[Arrays]) -> None:
    for process in by_two:
        memory = {what: int(process[f"memory/{what}"])
                  for what in ("own", "held", "pieces", "early", "buckets")}  # fmt: skip
        assert memory["pieces"] == memory["buckets"] > 4
        assert memory["own"] <= memory["held"] < 1.2 * memory["own"]  # views begin at multiples
        assert memory["early"] == memory["buckets"]  # all on their way when the pass was over


def parameters_of(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def test_buckets_hold_each_gradient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 400)
    parameters = parameters_of((3,), (9, 9), (200,), (), (5, 2))
    parameters.append(torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)))
    total = GradientSum(parameters)
    sizes = [[p.numel() for p in bucket.parameters] for bucket in total._buckets]
    assert sizes == [[4], [10, 1], [200], [81, 3]]
    total.begin()
    for number, parameter in enumerate(parameters):
        assert parameter.grad is not None
        parameter.grad += number + 1
    for number, parameter in enumerate(parameters):
        assert (parameter.grad == number + 1).all()
    total.close()
    assert all(parameter.grad is None for parameter in parameters)


def test_a_gradient_in_two_parts_is_refused() -> None:
    (weight,) = parameters_of((3,))
    total = GradientSum([weight, *parameters_of((2,))])  # whose bucket waits for the other, too
    total.begin()
    total.last_pass()
    weight.sum().backward()
    with pytest.raises(RuntimeError, match="came in two parts"):
        weight.sum().backward()
