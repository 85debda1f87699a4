"""Runs as tasks of a Ray cluster of two nodes, both on this machine. `make test-ray` has Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from record_differences import TIMES, differing_fields
from test_run import command, run

from benchmark.execution.launch import LaunchError
from benchmark.execution.ray_engine import _gpus_per_run, _Node, _node_of_kind
from benchmark.records import RunFolder, find_records

ray = pytest.importorskip("ray", reason="the extra ray is not installed (make test-ray)")

SMALL = ("--limit", "96", "--timing", "off")
RAY = ("--executor", "ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes of one core each; only the second can be lost, and is for timing."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.second = cluster.add_node(num_cpus=1, resources={"steady": 1})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def start(registry: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(registry, folder, *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def wait_for(holds: Callable[[], Any], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_node_is_lost_and_the_records_are_the_same(
    cluster: Any, registry_file: Path, tmp_path: Path
) -> None:
    suite = ("--seeds", "2", *SMALL)
    process = start(registry_file, tmp_path / "ray", *RAY, *suite)
    results = tmp_path / "ray/results"
    wait_for(lambda: len(find_records(results)) >= 2 if results.exists() else False)
    cluster.remove_node(cluster.second, allow_graceful=False)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "4 of 4 runs completed" in output
    whole = run(registry_file, tmp_path / "local", *suite)
    assert whole.returncode == 0, whole.stderr
    assert differing_fields(tmp_path / "local/results", results) <= TIMES | {
        "training.resumed_at_epoch"
    }


def test_ctrl_c_cancels_the_tasks(cluster: Any, registry_file: Path, tmp_path: Path) -> None:
    text = registry_file.read_text().replace("epochs: 2,", "epochs: 200,", 1)
    registry_file.write_text(text)
    arguments = ("--models", "vit", *RAY, *SMALL)
    process = start(registry_file, tmp_path, *arguments)
    folder = RunFolder.of(tmp_path / "results", "small-limit-96", "vit", "digits", 0)
    wait_for(folder.training_state.exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Run the same command again to continue" in output
    assert not folder.claim.exists()
    assert folder.training_state.exists()
    assert not list((tmp_path / "results/.cache").glob("shared-*"))


def test_models_are_timed_on_one_node_of_the_kind(
    cluster: Any, registry_file: Path, tmp_path: Path
) -> None:
    arguments = (*RAY, "--limit", "96", "--models", "vit")
    none = run(registry_file, tmp_path, *arguments, "--timing-node", "fast")
    assert none.returncode == 2
    assert "--timing-node fast: no node of the Ray cluster has that resource" in none.stderr
    assert "(there are: steady)" in none.stderr
    assert find_records(tmp_path) == []
    result = run(registry_file, tmp_path, *arguments, "--timing-node", "steady")
    assert result.returncode == 0, result.stderr
    assert "timing 1 models, one after the other (quick), on one node" in result.stdout
    ((_, record),) = find_records(tmp_path / "results")
    assert record.timing is not None


def test_a_folder_that_a_node_does_not_see_is_refused(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.execution.ray_engine import _check_nodes, _connected, _nodes
    from benchmark.execution.shared_folder import SharedFolder

    with _connected():
        with SharedFolder(tmp_path / "results") as folder:
            _check_nodes(_nodes(), folder)
        # As if the folder were on this machine's disk only: its mark is not there.
        with pytest.raises(
            LaunchError, match=r"--executor ray: .* does not see the results folder"
        ):
            _check_nodes(_nodes(), folder)


def nodes(*resources: dict[str, float]) -> list[_Node]:
    return [_Node(str(index), f"node-{index}", found) for index, found in enumerate(resources)]


def test_what_a_run_gets_and_where_models_are_timed() -> None:
    some = nodes({"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0, "a100": 1.0})
    assert _gpus_per_run(some, None) == 1.0
    assert _gpus_per_run(some[:1], None) == 0.0
    assert _gpus_per_run(some, 0.5) == 0.5
    with pytest.raises(LaunchError, match="--gpus-per-run 4: no node of the Ray cluster has as"):
        _gpus_per_run(some, 4.0)
    assert _node_of_kind(some, "a100").name == "node-1"
    with pytest.raises(LaunchError, match=r"--timing-node h100: no node .*there are: a100"):
        _node_of_kind(some, "h100")
