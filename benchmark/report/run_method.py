"""What a record and its specification say of how a run was made: everything but its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from benchmark.plan import RunSpec
from benchmark.records import (
    MapFacts,
    ModelFacts,
    Record,
    RunFolder,
    Temperature,
    Timing,
    Training,
)


@dataclass(frozen=True)
class TimingMethod:
    """How a model was timed, and whether anything disturbed it; see `records.Timing`.

    Attributes:
        setting: level, device, precision, attention, threads of the headline: what comparable
            figures share, as pairs of name and value.
        queries: timed for the median latency, all processes together; None: not measured.
        sample_rows: rows of the sample.
        is_disturbed: whether any measurement is marked as not to be trusted.
    """

    setting: tuple[tuple[str, str], ...]
    queries: int | None
    sample_rows: int
    is_disturbed: bool


@dataclass(frozen=True)
class RunMethod:
    """One run: what went in and what was done to it.

    Attributes:
        name: model/dataset/seed-n.
        scored: rows of each scored split.
        spec: what decided the result; None: not there, imported, or of another version.
        is_current: whether the scores are those of this version's code; None: not known.
    """

    name: str
    model: str
    dataset: str
    seed: int
    status: str
    facts: ModelFacts
    classes: int
    rows: Mapping[str, int]
    limit: int | None
    scored: Mapping[str, int]
    training: Training | None
    temperature: Temperature | None
    maps: Mapping[str, MapFacts]
    timing: TimingMethod | None
    timed_run: str | None
    provenance: Mapping[str, Any] = field(hash=False)
    spec: RunSpec | None = None
    is_current: bool | None = None

    @property
    def is_imported(self) -> bool:
        """Whether its logits were made by another program."""
        return "imported" in self.provenance

    @property
    def is_completed(self) -> bool:
        """Whether it has a result."""
        return self.status == "completed"


def run_method(folder: RunFolder, record: Record) -> RunMethod:
    """Return what a record, and the specification beside it, say of how the run was made."""
    spec = _spec(folder)
    scored = record.keys.get("scores")
    data = record.data
    return RunMethod(
        name=record.name,
        model=record.model,
        dataset=record.dataset,
        seed=record.seed,
        status=record.status,
        facts=record.facts,
        classes=len(data.label_names) if data else 0,
        rows=data.rows if data else {},
        limit=data.limit if data else None,
        scored={split: scores.n for split, scores in record.scores.items()},
        training=record.training,
        temperature=record.temperature,
        maps=record.maps,
        timing=None if record.timing is None else _timing(record.timing),
        timed_run=record.timed_run,
        provenance=record.provenance,
        spec=spec,
        is_current=None if spec is None or scored is None else scored == spec.key("scores"),
    )


def _spec(folder: RunFolder) -> RunSpec | None:
    """Return a run's specification; None where there is none that this version understands."""
    content = folder.read_spec()
    try:
        return RunSpec.model_validate(content) if content else None
    except ValidationError:
        return None


def _timing(timing: Timing) -> TimingMethod:
    headline = timing.measurement("single-stream")
    setting = timing.setting
    facts = {
        "level": timing.level,
        "device": setting.device_name,
        "precision": setting.dtype,
        "attention": setting.attention,
        "TF32": "on" if setting.tf32 else "off",
        "compiled": "yes" if setting.compiled else "no",
        "threads": "" if headline is None else str(headline.threads),
        "processes": "" if headline is None else str(headline.processes),
        "fresh process": "yes" if timing.fresh_process else "no",
    }
    return TimingMethod(
        setting=tuple(facts.items()),
        queries=None if headline is None else headline.queries,
        sample_rows=timing.sample_rows,
        is_disturbed=bool(timing.unstable),
    )
