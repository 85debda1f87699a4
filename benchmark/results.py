"""What runs leave on disk: a versioned record per run, written atomically, and one tidy frame.

`results/<suite>/<model>/<dataset>/seed-<n>/` holds `spec.json`, `logits.safetensors` and
`record.json`. Reading them back needs neither torch nor a GPU.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.registry import Mixer, Modality
from benchmark.timing_record import Timing

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION: Literal[1] = 1
Status = Literal["completed", "failed", "skipped", "unavailable"]


class ResultsError(ValueError):
    """A file under results/ cannot be used; the message names it and says what to do."""


class _Stored(BaseModel):
    # JSON has no infinity; a temperature at a bound needs one, so it is written as a string.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="strings"
    )


class Estimate(_Stored):
    """One number with its uncertainty.

    `low` and `high` bound the 95% interval; they are null where no valid interval exists
    (the binned ECEs). `floor_mean` and `floor_q95` are the noise floor: what a perfectly
    calibrated model with the same confidences would show.
    """

    value: float
    low: float | None = None
    high: float | None = None
    floor_mean: float | None = None
    floor_q95: float | None = None


class SplitScores(_Stored):
    """The metrics of one split, before and after temperature scaling."""

    n: int
    shifted: bool
    before: dict[str, Estimate]
    after: dict[str, Estimate]


class Temperature(_Stored):
    """The fitted temperature: how well the optimum was met, and its bootstrap interval."""

    value: float
    low: float | None
    high: float | None
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
    label_smoothing: bool | None = None
    mixup: bool | None = None
    distillation: bool | None = None
    reference: str | None = None


class DataFacts(_Stored):
    """What was scored: classes, rows per split, and the limit that was in force."""

    label_names: tuple[str, ...]
    rows: dict[str, int]
    limit: int | None = None


class Training(_Stored):
    """How fine-tuning went. `micro_batch_size` never changes the effective batch."""

    epochs: int
    steps: int
    seconds: float
    final_loss: float | None
    batch_size: int
    micro_batch_size: int
    world_size: int
    resumed_at_epoch: int
    device: str


class Failure(_Stored):
    """Why a run has no result: the stage, the error's type, and what a person can do."""

    stage: str
    kind: str
    message: str
    details: str = ""


class Record(_Stored):
    """Everything known of one run.

    `keys` says which inputs each stage's result came from. Seeds share one measurement of
    latency, since they share the architecture; `timed_run` names the run that was measured.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and move it into place.

    A reader sees the old file or the whole new one, also after a power cut. On an error
    nothing changes and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable; not every platform can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(folder: Path, record: Record) -> None:
    """Write `folder/record.json` atomically."""
    write_text(folder / "record.json", record.model_dump_json(indent=1) + "\n")


def read_record(folder: Path) -> Record | None:
    """Read `folder/record.json`, or return None where there is none.

    Raises:
        ResultsError: the file is not a record of this schema version.
    """
    path = folder / "record.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultsError(
            f"{path}: not a record of schema {SCHEMA_VERSION} ({where or 'file'}: {first['msg']});"
            " delete the file and run again to make it anew from the cached logits"
        ) from None


def find_records(results: Path) -> list[tuple[Path, Record]]:
    """Return (run folder, record) of every run below `results`, sorted by folder.

    `results` may be the whole tree, one suite, or a single run's folder.

    Raises:
        ResultsError: a record cannot be read.
    """
    found = []
    for path in sorted(results.rglob("record.json")):
        record = read_record(path.parent)
        if record is not None:
            found.append((path.parent, record))
    return found


def load_results(results: Path | str = "results") -> pd.DataFrame:
    """Return one tidy frame: a row per run and scored split.

    Columns: `suite model dataset seed status`; the facts `mixer family modality parameters
    pretraining_examples label_smoothing mixup distillation`; `split shifted n`; for each
    metric `<metric>_before`, `<metric>_after` and, where they exist, the same with `_low`,
    `_high`, `_floor_mean`, `_floor_q95` appended; `temperature`, `temperature_low`,
    `temperature_high`, `temperature_status`; `latency_p50_ms`, `latency_p90_ms`,
    `throughput` (samples/s), `peak_memory_mb`, `timing_unstable`; `folder`, where the record
    and the logits lie; `reason`, why a run has no result. A run without scores has one row
    with an empty split, so that it can be listed; never imputed.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for folder, record in find_records(Path(results)):
        rows.extend(tidy_rows(folder, record))
    return pd.DataFrame(rows)


def tidy_rows(folder: Path, record: Record) -> list[dict[str, Any]]:
    """Return one record's rows of the frame that `load_results` describes."""
    common: dict[str, Any] = {
        **record.model_dump(include={"suite", "model", "dataset", "seed", "status"}),
        **record.facts.model_dump(exclude={"source", "reference"}),
        **_temperature_columns(record.temperature),
        **_timing_columns(record.timing),
        "reason": None if record.failure is None else record.failure.message,
        "folder": str(folder),
    }
    if not record.scores:
        return [{**common, "split": None, "shifted": None, "n": 0}]
    return [
        {**common, "split": split, "shifted": scores.shifted, "n": scores.n}
        | _metric_columns(scores)
        for split, scores in record.scores.items()
    ]


def _temperature_columns(temperature: Temperature | None) -> dict[str, Any]:
    if temperature is None:
        return {"temperature": None}
    return {
        "temperature": temperature.value,
        "temperature_low": temperature.low,
        "temperature_high": temperature.high,
        "temperature_status": temperature.status,
    }


def _timing_columns(timing: Timing | None) -> dict[str, Any]:
    if timing is None:
        return {"latency_p50_ms": None}
    return {
        "latency_p50_ms": timing.latency_ms(50),
        "latency_p90_ms": timing.latency_ms(90),
        "throughput": None if timing.best_offline is None else timing.best_offline.samples_per_s,
        "peak_memory_mb": timing.peak_memory_mb,
        "timing_unstable": bool(timing.unstable),
    }


def _metric_columns(scores: SplitScores) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for moment, estimates in (("before", scores.before), ("after", scores.after)):
        for metric, estimate in estimates.items():
            columns[f"{metric}_{moment}"] = estimate.value
            for part in ("low", "high", "floor_mean", "floor_q95"):
                bound = getattr(estimate, part)
                if bound is not None:
                    columns[f"{metric}_{moment}_{part}"] = bound
    return columns
