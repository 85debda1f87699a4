"""Where runs are executed: options that go together, and shards that make a whole."""

from __future__ import annotations

import argparse
import doctest
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_differences import TIMES, differing_fields
from test_run import run

from benchmark import Registry, RunSpec, execute, plan
from benchmark.execution.engine_options import Shard
from benchmark.execution.engines import engine_of
from benchmark.execution.estimates import estimate_cost, relative_costs
from benchmark.execution.launch import LaunchError
from benchmark.execution.run_options import parse_run_options
from benchmark.execution.shards import divide, longest_first, part_of
from benchmark.execution.shared_folder import SharedFolder, answer_mark, require_mark
from benchmark.plan import select
from benchmark.records import ResultsError

SMALL = ("--limit", "96", "--timing", "off")


@pytest.mark.parametrize(
    "name", ["execution.engine_options", "execution.shards", "report.machines"]
)
def test_examples(name: str) -> None:
    module = import_module(f"benchmark.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--shard 3/2", "there is no 3/2: shards go from 1/2 to 2/2"),
        ("--shard 0/2", "there is no 0/2: shards go from 1/2 to 2/2"),
        ("--shard 1/0", "there is no 1/0: shards go from 1/1 to 1/1"),
        ("--shard half", "'half' is no part of a whole; write it as 2/8"),
        ("--shard 1/2 --executor ray", "--shard 1/2 goes with --executor local: ray hands out"),
        ("--shard 1/2 --executor slurm", "goes with --executor local: slurm hands out the runs"),
        ("--shard 1/2 --json", "--json tells what a report gave, and a shard writes none"),
        ("--slurm partition=x", "--slurm needs --executor slurm"),
        ("--gpus-per-run 2", "--gpus-per-run needs --executor ray or slurm"),
        ("--timing-node a100", "--timing-node needs --executor ray or slurm"),
        ("--executor ray --gpus-per-run 1.5", "neither a number of GPUs nor a fraction of one"),
        ("--executor slurm --gpus-per-run .5", "--gpus-per-run 0.5: Slurm gives whole GPUs"),
        ("--executor slurm --slurm time=soon", "time=soon: write minutes, hours:minutes:seconds"),
        ("--executor slurm --slurm cluster=mars", "cluster=mars: known are slurm, local"),
        ("--executor slurm --slurm partition", "'partition' is not KEY=VALUE, as in partition=gpu"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_run_options(arguments.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_for_slurm_are_merged() -> None:
    settings = ("partition=gpu,time=2:00:00", "mem-per-cpu=4G")
    options = parse_run_options(
        ["--executor", "slurm", "--slurm", settings[0], "--slurm", settings[1]]
    )
    assert options.slurm == {"partition": "gpu", "time": "2:00:00", "mem_per_cpu": "4G"}


def options(tmp_path: Path, executor: str) -> argparse.Namespace:
    return parse_run_options(["--executor", executor, "--results", str(tmp_path)])


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_an_extra_that_is_missing_is_named(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.execution.engines.find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=rf"needs the extra: pip install -e '\.\[{executor}\]'"):
        engine_of(options(tmp_path, executor))


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_a_cluster_is_not_asked_by_several_processes(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match=f"--executor {executor} starts the processes itself"):
        engine_of(options(tmp_path, executor))


# --- shards ---------------------------------------------------------------------------------------

COSTS = st.dictionaries(st.text(max_size=5), st.floats(0, 1e9), max_size=40)


@given(COSTS, st.integers(1, 12))
def test_shards_hold_each_run_once_and_are_balanced(costs: dict[str, float], count: int) -> None:
    parts = divide(costs, count)
    assert len(parts) == count
    assert sorted(key for part in parts for key in part) == sorted(costs)
    for part in parts:
        assert [costs[key] for key in part] == sorted((costs[key] for key in part), reverse=True)
    # The last run of the largest part began when every part had as much (Graham 1966).
    ordered = sorted(costs.values(), reverse=True)
    last = ordered[count] if len(ordered) > count else 0.0
    bound = max([sum(ordered) / count + last * (1 - 1 / count), *ordered[:1]])
    assert max(sum(costs[key] for key in part) for part in parts) <= bound * (1 + 1e-9)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(1, 3))
def test_the_largest_shard_is_within_grahams_bound_of_the_best(
    sizes: list[int], count: int
) -> None:
    costs = {str(index): float(size) for index, size in enumerate(sizes)}
    largest = max(sum(costs[key] for key in part) for part in divide(costs, count))
    best = min(
        max(
            sum(s for s, o in zip(sizes, owners, strict=True) if o == shard)
            for shard in range(count)
        )
        for owners in _owners(len(sizes), count)
    )
    assert largest <= (4 / 3 - 1 / (3 * count)) * best + 1e-9


def _owners(runs: int, count: int) -> list[tuple[int, ...]]:
    from itertools import product

    return list(product(range(count), repeat=runs))


def test_equal_costs_keep_their_order() -> None:
    assert longest_first({"b": 1.0, "a": 2.0, "c": 1.0}) == ["a", "b", "c"]
    assert divide({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, 2) == [["a", "c"], ["b", "d"]]


def names(specs: list[RunSpec]) -> list[str]:
    return [spec.name for spec in specs]


def test_the_division_outlasts_what_finishes_meanwhile(
    registry_file: Path, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    registry, results = Registry.load(registry_file), tmp_path / "results"
    selection = select(registry, limit=96, seeds=3)
    before = [names(part_of(selection, Shard(i, 2), results).specs) for i in (1, 2)]
    assert sorted(before[0] + before[1]) == sorted(names(selection.specs))
    (division,) = (results / selection.suite).glob("shards-2-*.json")
    text = division.read_bytes()
    assert execute(selection.specs[1], results).status == "completed"
    assert set(relative_costs(selection.specs, results).values()) != {1.0}  # it would divide anew
    after = [names(part_of(selection, Shard(i, 2), results).specs) for i in (1, 2)]
    assert after == before
    assert division.read_bytes() == text
    # A preview leaves nothing, and another selection is another division.
    part_of(selection, Shard(1, 3), results, keep=False)
    assert len(list((results / selection.suite).glob("shards-*.json"))) == 1
    part_of(select(registry, limit=96, seeds=2), Shard(1, 2), results)
    assert len(list((results / selection.suite).glob("shards-2-*.json"))) == 2

    division.write_text(text.decode().replace("seed-1", "seed-0", 1))
    with pytest.raises(ResultsError, match=r"shards-2-.*"):
        part_of(selection, Shard(1, 2), results)


def test_costs_are_measured_where_they_can_be(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    done, other = make_spec("vit"), make_spec("vit", seed=1)
    unknown = make_spec("resnet")
    assert set(relative_costs([done, other, unknown], tmp_path).values()) == {1.0}
    record = execute(done, tmp_path)
    assert record.training is not None
    costs = relative_costs([other, unknown, make_spec("vit", limit=400)], tmp_path)
    assert costs[other.suite, other.name] == record.training.seconds
    # What nothing is known of costs what is usual; a run of more rows is not the same run.
    assert set(costs.values()) == {record.training.seconds}


def test_costs_are_estimated_where_sizes_are_declared(tmp_path: Path) -> None:
    registry = Registry.load(Path(__file__).parents[1] / "registry.yaml")
    specs = plan(registry, models=["vit-base", "bert-base"], datasets=["cifar10", "quora"], seeds=1)
    costs = relative_costs(specs, tmp_path)
    for spec in specs:
        cost = estimate_cost(spec)
        assert cost is not None
        assert costs[spec.suite, spec.name] == pytest.approx(cost.hours * 3600)


def test_a_shard_does_its_part_and_says_what_follows(registry_file: Path, tmp_path: Path) -> None:
    first = run(registry_file, tmp_path, "--shard", "1/2", *SMALL)
    assert first.returncode == 0, first.stderr
    assert "suite small-limit-96: 1 runs, 1 to do" in first.stdout
    assert "shard 1/2: 1 of the 2 runs are still with other shards" in first.stdout
    assert "the same command without --shard times the models and writes" in first.stdout
    assert not (tmp_path / "reports").exists()
    dry = run(registry_file, tmp_path, "--shard", "2/2", "--dry-run", *SMALL)
    assert "resnet/digits/seed-0  " in first.stdout
    assert "vit/digits/seed-0  " in dry.stdout
    assert "resnet/digits/seed-0" not in dry.stdout


@pytest.mark.slow
def test_shards_make_the_whole(registry_file: Path, tmp_path: Path) -> None:
    arguments = ("--seeds", "2", *SMALL)
    whole = run(registry_file, tmp_path / "whole", *arguments)
    assert whole.returncode == 0, whole.stderr
    for index in (2, 1):
        part = run(registry_file, tmp_path / "parts", "--shard", f"{index}/2", *arguments)
        assert part.returncode == 0, part.stderr
    assert "the other shards' runs are all there" in part.stdout
    fields = differing_fields(tmp_path / "whole/results", tmp_path / "parts/results")
    assert fields <= TIMES
    last = run(registry_file, tmp_path / "parts", *arguments)
    assert "4 runs, 0 to do" in last.stdout
    assert "report:" in last.stdout


# --- the folder that machines share ---------------------------------------------------------------


def test_a_machine_proves_that_it_sees_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.execution.shared_folder._PATIENCE_S", 0.0)
    with SharedFolder(tmp_path / "results") as folder:
        assert folder.answered(answer_mark(folder.results, folder.token))
        assert not folder.answered("shared-never")
        other = tmp_path / "local-disk"
        (other / ".cache").mkdir(parents=True)
        with pytest.raises(LaunchError, match=r"does not see the results folder .*local-disk of"):
            require_mark(other, folder.token)
    with pytest.raises(LaunchError, match="give --results a path that leads to the same folder"):
        require_mark(folder.results, folder.token)
    assert list((tmp_path / "results/.cache").iterdir()) == []


def test_options_cost_no_import_of_torch() -> None:
    code = (
        "import sys; from benchmark.execution import parse_run_options; parse_run_options([]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
