"""Trackers through Accelerate: what they are told, once, and that they never cost a run."""

from __future__ import annotations

import json
import logging
import sqlite3
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import MODELS, make_timing

from benchmark import RunSpec, execute
from benchmark.execution import LaunchError, choose_trackers, resolve
from benchmark.execution import trackers as module
from benchmark.execution.timing_stage import _enter
from benchmark.execution.trackers import RunTracker, chosen_trackers
from benchmark.records import Record, Timing
from benchmark.run import main

Scalars = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_LOG_WITH", "")


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    choose_trackers(["tensorboard"])


def events(folder: Path) -> Scalars:
    """Read back the scalars of a run as TensorBoard does: by tag, steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def check_told(told: Scalars, record: Record) -> None:
    """Compare what a tracker was told with the record, the runner's own word on the run."""
    assert record.training is not None
    assert record.temperature is not None
    steps = record.training.steps
    per_epoch = steps // record.training.epochs
    assert [step for step, _ in told["train/loss"]] == list(range(1, steps + 1))
    last = [loss for _, loss in told["train/loss"]][-per_epoch:]
    assert sum(last) / per_epoch == pytest.approx(record.training.final_loss, rel=1e-5)
    assert told["train/epoch_loss"][-1] == (steps, pytest.approx(sum(last) / per_epoch))
    assert len(told["train/epoch_loss"]) == record.training.epochs
    maps = record.scores["test"].maps
    for name, when in (("none", "before"), ("temperature", "after")):
        for metric in ("accuracy", "nll", "ece_15"):
            expected = pytest.approx(maps[name][metric].value, rel=1e-6)
            assert told[f"test/{metric}_{when}"] == [(steps, expected)]
    assert told["calibration/temperature"][0][1] == pytest.approx(record.temperature.value)


def test_tensorboard_shows_a_run_and_nothing_twice(
    tensorboard: None, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("resnet")
    record = execute(spec, tmp_path)
    folder = spec.folder(tmp_path).path
    check_told(events(folder), record)
    assert spec.recipe is not None
    assert (
        max(rate for _, rate in events(folder)["train/learning_rate"]) <= spec.recipe.learning_rate
    )
    first = {path: path.stat().st_size for path in folder.glob("events.*")}
    assert len(first) == 1
    execute(spec, tmp_path)  # nothing to do: nothing is told
    assert {path: path.stat().st_size for path in folder.glob("events.*")} == first
    again = execute(spec, tmp_path, force=True)
    check_told(events(folder), again)


def enter_timing(spec: RunSpec, results: Path) -> Timing:
    """Put a measurement into a run's record, as the timing stage does."""
    timing, resolved = make_timing(MODELS[0]), resolve(spec, results)
    _enter(resolved, results, resolved, timing)
    return timing


class Killed(BaseException):
    pass


class StopAfter:
    """Ends a training in mid-epoch, as a kill does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def stage(self, name: str, total: int) -> None:
        self.left = self.steps if name == "training" else 10**9

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left == 0:
            raise Killed


def test_a_resumed_training_goes_on_in_the_same_curve(
    tensorboard: None, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("vit")
    assert spec.recipe is not None
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"epochs": 3})})
    straight = execute(spec, tmp_path / "straight")
    assert straight.training is not None
    with pytest.raises(Killed):
        execute(spec, tmp_path / "killed", progress=StopAfter(straight.training.steps // 3 + 1))
    resumed = execute(spec, tmp_path / "killed")
    assert resumed.training is not None
    assert resumed.training.resumed_at_epoch == 1
    told = [events(spec.folder(tmp_path / tree).path) for tree in ("killed", "straight")]
    assert told[0]["train/loss"] == told[1]["train/loss"]
    check_told(told[0], resumed)


def test_a_timing_joins_the_run(
    tensorboard: None, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("resnet")
    record = execute(spec, tmp_path)
    timing = enter_timing(spec, tmp_path)
    told = events(spec.folder(tmp_path).path)
    check_told(told, record)
    assert record.training is not None
    after = record.training.steps + 1
    assert told["timing/latency_p50_ms"] == [(after, pytest.approx(timing.latency_ms(50)))]
    assert told["timing/throughput_rows_per_s"][0][1] == pytest.approx(5e3 / MODELS[0].latency_ms)
    assert "timing/latency_p99_ms" not in told  # too few queries for it


def test_only_the_first_process_tells(
    tensorboard: None,
    make_spec: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "process_index", lambda: 1)
    spec = make_spec("resnet")
    assert execute(spec, tmp_path).status == "completed"
    assert list(spec.folder(tmp_path).path.glob("events.*")) == []


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_a_tracker_that_fails_costs_one_warning(
    where: str,
    make_spec: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from accelerate import tracking

    class Failing(tracking.GeneralTracker):  # type: ignore[misc]
        name, requires_logging_directory, tracker = "wandb", False, None

        def __init__(self, project: str, **options: Any) -> None:
            super().__init__()

    def fails(self: object, *_: object, **__: object) -> None:
        raise ConnectionError("no route to https://ann:secret@mirror.example")

    setattr(Failing, where, fails)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Failing)
    monkeypatch.setenv("BENCHMARK_LOG_WITH", "wandb")
    with caplog.at_level(logging.WARNING):
        assert execute(make_spec("resnet"), tmp_path).status == "completed"
    told = [record.getMessage() for record in caplog.records if "tracker wandb" in record.message]
    assert len(told) == 1
    assert "no route" in told[0]
    assert "secret" not in told[0]


# --- names ----------------------------------------------------------------------------------------


def test_a_misspelt_tracker_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--results", str(tmp_path / "results"), "--log-with", "tensorbord"]
    assert main(options) == 2
    told = capsys.readouterr().err
    assert "unknown tracker 'tensorbord', did you mean 'tensorboard'?" in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"--log-with mlflow needs .* '\.\[mlflow\]'"):
        choose_trackers(["mlflow"])
    assert chosen_trackers() == ()


def test_every_tracker_is_an_extra_and_one_of_accelerate() -> None:
    import tomllib

    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(module.TRACKERS) <= set(extras)
    assert set(module.TRACKERS) <= set(LOGGER_TYPE_TO_CLASS)


# --- others ---------------------------------------------------------------------------------------


def test_trackio_has_one_run_with_all_of_it(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio = pytest.importorskip("trackio", reason="needs the extra trackio")
    utils = pytest.importorskip("trackio.utils")
    for place in (utils, __import__("trackio.sqlite_storage", fromlist=["x"])):
        monkeypatch.setattr(place, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert trackio
    choose_trackers(["trackio"])
    spec = make_spec("resnet")
    record = execute(spec, tmp_path / "results")
    enter_timing(spec, tmp_path / "results")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id")
        found = [(name, step, json.loads(text)) for name, step, text in rows]
    assert {name.partition(" #")[0] for name, _, _ in found} == {f"{spec.suite}/{spec.name}"}
    told: Scalars = {}
    for _, step, values in found:
        for tag, value in values.items():
            told.setdefault(tag, []).append((step, value))
    check_told(told, record)
    assert told["timing/latency_p50_ms"][0][1] == pytest.approx(MODELS[0].latency_ms)


class Recorded:
    """Stands in for a service's client: what it is asked, in order."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: Any) -> Recorded:
        self.inits.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def update(self, values: dict[str, Any], **_: Any) -> None:
        self.configuration = values


def test_wandb_is_opened_again_as_the_same_run(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Recorded()
    wandb = types.ModuleType("wandb")
    wandb.init, wandb.config = client.init, client  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "wandb", wandb)
    monkeypatch.setenv("BENCHMARK_LOG_WITH", "wandb")
    spec = make_spec("resnet")
    record = execute(spec, tmp_path)
    enter_timing(spec, tmp_path)
    first, second = client.inits
    assert first == second
    assert first["name"] == f"{spec.suite}/{spec.name}"
    assert first["resume"] == "allow"
    assert client.finished == 2
    assert client.configuration["seed"] == spec.seed
    steps = [step for step, _ in client.logged]
    assert steps == sorted(steps)  # a service takes no step twice that is behind another
    assert record.training is not None
    assert steps[-1] == record.training.steps + 1
    other = spec.model_copy(update={"seed": 7})
    assert RunTracker(other, tmp_path)._identity() != RunTracker(spec, tmp_path)._identity()


def test_mlflow_is_opened_again_as_the_same_run(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    started: list[dict[str, Any]] = []
    mlflow = types.ModuleType("mlflow")

    def start_run(**options: Any) -> None:
        started.append(options)
        found.append(types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc")))

    members: dict[str, Callable[..., Any]] = {
        "search_runs": lambda **options: found[:1],
        "search_experiments": lambda **options: [types.SimpleNamespace(experiment_id="1")],
        "start_run": start_run,
        "log_params": lambda values: None,
        "log_metrics": lambda values, step=None: None,
        "end_run": lambda: None,
    }
    for name, member in members.items():
        setattr(mlflow, name, member)
    mlflow.utils = types.SimpleNamespace(  # type: ignore[attr-defined]
        validation=types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    )
    monkeypatch.setitem(__import__("sys").modules, "mlflow", mlflow)
    monkeypatch.setenv("BENCHMARK_LOG_WITH", "mlflow")
    spec = make_spec("resnet")
    assert execute(spec, tmp_path).status == "completed"
    enter_timing(spec, tmp_path)
    assert [options["run_id"] for options in started] == [None, "abc"]
    assert {options["run_name"] for options in started} == {f"{spec.suite}/{spec.name}"}
