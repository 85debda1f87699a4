"""The versioned record of a run: what is known of it, and why a run has no result."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import product
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.notebook import Shown
from benchmark.records.timing import Timing
from benchmark.registry import Loss, MixedPrecision, Mixer, Modality
from benchmark.statistics import Estimate

SCHEMA_VERSION: Literal[2] = 2
Status = Literal["completed", "failed", "skipped", "unavailable"]


class _Stored(BaseModel):
    # JSON has no infinity; a temperature at a bound needs one, so it is written as a string.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="strings"
    )


class SplitScores(_Stored):
    """The metrics of one split after each calibration map.

    `maps` has estimates by map and metric: of `none` and `temperature` with their intervals, of
    other maps as bare values. `against_temperature` has, by map and metric, what the map gives
    minus what the temperature gives, on the same rows with both maps fixed.
    """

    n: int
    shifted: bool
    maps: dict[str, dict[str, Estimate]]
    against_temperature: dict[str, dict[str, Estimate]] = {}


class UnreadScores(BaseModel):
    """The place of a split's metrics in a record that was read without them."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MapFacts(_Stored):
    """How a calibration map did on the calibration split, or why it could not be fitted there."""

    parameters: int | None = None
    cross_validated_nll: float | None = None
    unsuitable: str | None = None


class Temperature(_Stored):
    """The fitted temperature: how well the optimum was met, and its interval or why it has none."""

    value: float
    low: float | None
    high: float | None
    no_interval: str | None = None
    status: Literal["converged", "at_zero", "at_infinity", "flat"]
    nll_before: float
    nll_after: float
    gradient: float
    iterations: int
    n: int


class ModelFacts(_Stored):
    """What the claim needs to know of a checkpoint. None: unknown, never guessed.

    Mixer, family and modality are known of every registry entry; imported logits may lack them.
    """

    mixer: Mixer | None
    family: str | None
    modality: Modality | None
    source: str
    parameters: int | None = None
    pretraining_examples: float | None = None
    loss: Loss | None = None
    label_smoothing: bool | None = None
    mixup: bool | None = None
    cutmix: bool | None = None
    distillation: bool | None = None
    teacher_mixer: Mixer | None = None
    evaluation_resolution: int | None = None
    twin: str | None = None
    reference: str | None = None


class DataFacts(_Stored):
    """What was scored: classes, rows per split, and the limit that was in force.

    `notes` say what a reader of the figures must know of the rows: how many were left out, which
    classes are missing from a split, a split chosen by default.
    """

    label_names: tuple[str, ...]
    rows: dict[str, int]
    limit: int | None = None
    notes: tuple[str, ...] = ()


class Training(_Stored):
    """How fine-tuning went. `micro_batch_size` never changes the effective batch.

    `mixed_precision` is what was in force (None: not recorded then); `overridden` holds settings of
    the launch that the recipe overrode.
    """

    epochs: int
    steps: int
    seconds: float
    final_loss: float | None
    batch_size: int
    micro_batch_size: int
    world_size: int
    resumed_at_epoch: int
    device: str
    mixed_precision: MixedPrecision | None = None
    overridden: dict[str, str] = {}


class Failure(_Stored):
    """Why a run has no result: the stage, the error's type, and what a person can do."""

    stage: str
    kind: str
    message: str
    details: str = ""


class Record(Shown, _Stored):
    """Everything known of one run.

    `keys` says which inputs each stage's result came from. Seeds share one measurement of
    latency, since they share the architecture; `timed_run` names the run that was measured.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    suite: str
    model: str
    dataset: str
    seed: int
    status: Status
    keys: dict[str, str] = {}
    facts: ModelFacts
    data: DataFacts | None = None
    training: Training | None = None
    temperature: Temperature | None = None
    maps: dict[str, MapFacts] = {}
    scores: dict[str, SplitScores] = {}
    timing: Timing | None = None
    timed_run: str | None = None
    timing_failure: Failure | None = None
    failure: Failure | None = None
    provenance: dict[str, Any] = {}
    finished_at: datetime

    @property
    def name(self) -> str:
        """The run's name as printed everywhere: model/dataset/seed-n."""
        return f"{self.model}/{self.dataset}/seed-{self.seed}"

    def _shown(self) -> tuple[str, dict[str, str]]:
        """Return the record's headline, under the names of the columns of `load_results`."""
        facts = {"suite": self.suite, "status": self.status}
        if self.failure is not None:
            facts["reason"] = f"{self.failure.stage}: {self.failure.message}"
        facts |= {
            name: str(value)
            for name in ("mixer", "family", "modality", "parameters")
            if (value := getattr(self.facts, name)) is not None
        }
        if self.temperature is not None:
            facts["temperature"] = _shown_value(self.temperature)
        test = self.scores.get("test")
        maps = test.maps if isinstance(test, SplitScores) else {}
        for metric, name in product(_HEADLINE, ("none", "temperature")):
            if metric in maps.get(name, {}):
                facts[f"{metric}_{name}"] = _shown_value(maps[name][metric])
        others = [split for split in self.scores if split != "test"]
        if others:
            facts["other splits"] = ", ".join(others)
        return f"Record of {self.name}", facts


_HEADLINE = ("accuracy", "ece_15", "debiased_calibration_error", "nll", "brier")


def _shown_value(estimate: Estimate | Temperature) -> str:
    value = f"{estimate.value:.4f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:.4f} to {estimate.high:.4f})"


class RecordHead(Record):
    """A record without its metrics, which are all but a hundredth of its file.

    Reading it takes a fifth of the time and a hundredth of the memory. All other fields are read,
    and checked, as those of a `Record`.
    """

    scores: dict[str, UnreadScores] = {}  # type: ignore[assignment]


RecordT = TypeVar("RecordT", bound=Record)


def parse_record(kind: type[RecordT], text: str) -> RecordT:
    """Read a record's JSON, also of schema 1, which knew of no map but the temperature.

    Raises:
        ValidationError: it is no record of either.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        content = _of_schema_1(text)
        if content is None:
            raise
    return kind.model_validate_json(json.dumps(content))


def _of_schema_1(text: str) -> dict[str, Any] | None:
    """Return an old record as one of today's; None: it is not of schema 1."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("schema_version") != 1:
        return None
    scores = {
        split: {
            "n": old["n"],
            "shifted": old["shifted"],
            "maps": {"none": old["before"], "temperature": old["after"]},
        }
        for split, old in content.get("scores", {}).items()
    }
    return {**content, "schema_version": SCHEMA_VERSION, "scores": scores}
