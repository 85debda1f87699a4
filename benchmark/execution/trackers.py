"""What a run gives, told to experiment trackers through Accelerate while it goes on.

A tracker never decides anything: one that fails is left out with a warning, and the run goes on.
One launch makes many runs, each of which is a run of the tracker under its own name, opened when
there is first something to tell of it. So a run with nothing to do tells nothing.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.execution.launch import LaunchError, process_index
from benchmark.markup import without_credentials
from benchmark.plan import RunSpec, content_hash
from benchmark.records import Record, Timing, Training
from benchmark.registry import did_you_mean

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
"""Names as Accelerate has them; each is an extra, and a module, of the same name."""

PROJECT = "calibration-benchmark"
_CHOSEN = "BENCHMARK_LOG_WITH"
_log = logging.getLogger(__name__)

_SCORES = ("accuracy", "nll", "brier", "ece_15", "debiased_calibration_error")
"""Metrics of the clean test rows that are told, before and after temperature scaling."""


def choose_trackers(names: Sequence[str]) -> None:
    """Say for this process, and those that it starts, which trackers are told of its runs.

    Raises:
        LaunchError: there is no such tracker, or it is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise LaunchError(
                f"--log-with: unknown tracker '{name}'{did_you_mean(name, TRACKERS)} "
                f"(known: {', '.join(TRACKERS)})"
            )
        if find_spec(name) is None:
            raise LaunchError(f"--log-with {name} needs the extra: pip install -e '.[{name}]'")
    os.environ[_CHOSEN] = ",".join(dict.fromkeys(names))


def chosen_trackers() -> tuple[str, ...]:
    """Return the names that `choose_trackers` was given."""
    return tuple(name for name in os.environ.get(_CHOSEN, "").split(",") if name)


class RunTracker:
    """One run's trackers, opened when there is first something to tell.

    Only the first process of a launch tells anything.

    Args:
        spec: the run.
        results: the results tree.
    """

    def __init__(self, spec: RunSpec, results: Path) -> None:
        self._spec, self._results = spec, results
        self._open: dict[str, Any] | None = None

    def epoch(self, first_step: int, losses: Sequence[float], rates: Sequence[float]) -> None:
        """Tell the mean loss of each step of an epoch, and its learning rate.

        Args:
            first_step: steps of the training before this epoch; 0 begins the run anew.
            losses: of the rows of each step, mean, nats.
            rates: learning rate of each step.
        """
        if first_step == 0:
            self._forget()
        for number, (loss, rate) in enumerate(zip(losses, rates, strict=True), first_step + 1):
            self._tell({"train/loss": loss, "train/learning_rate": rate}, number)
        if losses:
            mean = sum(losses) / len(losses)
            self._tell({"train/epoch_loss": mean}, first_step + len(losses))

    def scores(self, record: Record) -> None:
        """Tell what a completed run has scored: accuracy and errors before and after, and T."""
        test = record.scores.get("test")
        if record.status != "completed" or test is None:
            return
        told = {
            f"test/{metric}_{when}": test.maps[name][metric].value
            for name, when in (("none", "before"), ("temperature", "after"))
            for metric in _SCORES
            if metric in test.maps.get(name, {})
        }
        if record.temperature is not None:
            told["calibration/temperature"] = record.temperature.value
        self._tell(told, 0 if record.training is None else record.training.steps)

    def timing(self, timing: Timing, training: Training | None) -> None:
        """Tell latency and throughput of a run's model, after its training and its scores."""
        offline = timing.best_offline
        told = {
            "timing/latency_p50_ms": timing.latency_ms(50),
            "timing/latency_p99_ms": timing.latency_ms(99),
            "timing/throughput_rows_per_s": None if offline is None else offline.samples_per_s,
        }
        known = {name: value for name, value in told.items() if value is not None}
        # Trackers that are opened again take no step that they have had.
        self._tell(known, 1 + (0 if training is None else training.steps))

    def finish(self) -> None:
        """Close what was opened."""
        trackers, self._open = self._open or {}, None
        for name, tracker in trackers.items():
            with _no_matter(name, "close"):
                tracker.finish()

    # --- below ----------------------------------------------------------------------------------

    def _tell(self, values: Mapping[str, float], step: int) -> None:
        trackers = self._trackers()
        for name in list(trackers):
            with _no_matter(name, "log", trackers):
                trackers[name].log(dict(values), step=step)

    def _trackers(self) -> dict[str, Any]:
        if self._open is None:
            self._open = {}
            for name in chosen_trackers() if process_index() == 0 else ():
                with _no_matter(name, "start"):
                    self._open[name] = self._start(name)
        return self._open

    def _start(self, name: str) -> Any:
        from accelerate.state import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if not PartialState._shared_state:  # where nothing was trained; its loggers ask for it
            PartialState(cpu=True)
        tracker = LOGGER_TYPE_TO_CLASS[name](*self._place(name), **self._options(name))
        tracker.start()
        if name == "tensorboard":
            # Its own way makes a folder, and a run in the list, for the configuration alone.
            tracker.log({"configuration": _as_table(self._configuration())}, step=0)
        else:
            tracker.store_init_configuration(self._configuration())
        return tracker

    def _place(self, name: str) -> tuple[str, ...]:
        if name == "tensorboard":  # lists a run by its folder below --logdir
            return self._spec.name, str(self._results / self._spec.suite)
        return (PROJECT,)

    def _options(self, name: str) -> dict[str, Any]:
        """Return what makes the tracker's run this one, also when it is opened again."""
        label, identity = f"{self._spec.suite}/{self._spec.name}", self._identity()
        if name == "wandb":
            os.environ.setdefault("WANDB_SILENT", "true")
            run = {"id": identity, "name": label, "resume": "allow"}
            return {**run, "group": self._spec.suite}
        if name == "trackio":
            return {"name": f"{label} #{identity[:6]}", "resume": "allow"}
        if name == "mlflow":
            return {"run_name": label, "tags": {"run": identity}, "run_id": _of_mlflow(identity)}
        return {}

    def _identity(self) -> str:
        """Return what tells this training from one of another recipe under the same name."""
        name = f"{self._spec.suite}/{self._spec.name}"
        return content_hash({"run": name, "key": self._spec.key("training")})

    def _configuration(self) -> dict[str, str | int | float | bool]:
        spec = self._spec
        recipe = {} if spec.recipe is None else spec.recipe.model_dump(mode="json")
        facts = {
            "suite": spec.suite,
            "model": spec.model.name,
            "mixer": spec.model.mixer,
            "family": spec.model.family,
            "source": spec.model.hub or str(spec.model.path or "scratch"),
            "dataset": spec.dataset.name,
            "seed": spec.seed,
            **{f"recipe.{name}": value for name, value in recipe.items()},
        }
        return {
            name: value if isinstance(value, int | float) else without_credentials(str(value))
            for name, value in facts.items()
            if value is not None
        }

    def _forget(self) -> None:
        """Remove what an earlier training of the run told TensorBoard, which only adds."""
        if "tensorboard" in chosen_trackers() and process_index() == 0 and self._open is None:
            for file in self._spec.folder(self._results).path.glob("events.out.tfevents.*"):
                with _no_matter("tensorboard", "start"):
                    file.unlink()


def _of_mlflow(identity: str) -> str | None:
    """Return MLflow's own name for a run that it has been told of."""
    found = import_module("mlflow").search_runs(
        experiment_names=[PROJECT],
        filter_string=f"tags.run = '{identity}'",
        max_results=1,
        output_format="list",
    )
    return str(found[0].info.run_id) if found else None


def _as_table(values: Mapping[str, Any]) -> str:
    rows = (f"| {name} | {value} |" for name, value in values.items())
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


@contextmanager
def _no_matter(name: str, doing: str, trackers: dict[str, Any] | None = None) -> Iterator[None]:
    """Let a tracker's trouble cost a warning and its place among `trackers`, and no run.

    What it prints is not shown: it would come between lines that are.
    """
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # any library can fail in any way; the run goes on
        if trackers is not None:
            trackers.pop(name, None)
        told = without_credentials(f"{type(error).__name__}: {error}")[:300]
        _log.warning("tracker %s could not %s, and is left out: %s", name, doing, told)
