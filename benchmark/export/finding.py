"""The run that a person names, if it is whole enough to be exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmark.export.errors import ExportError
from benchmark.plan import RunSpec
from benchmark.records import DataFacts, Record, RunFolder, Temperature, verify_folder
from benchmark.registry import did_you_mean

_AGAIN = "run its suite again with --force and --models {model}, which trains it anew"


@dataclass(frozen=True)
class FinishedRun:
    """A completed run with a checkpoint whose files are as they were written.

    Attributes:
        folder: where it lies.
        record: what is known of it.
        spec: what decided it.
        temperature: that was fitted.
        data: what it was trained and scored on.
    """

    folder: RunFolder
    record: Record
    spec: RunSpec
    temperature: Temperature
    data: DataFacts

    @property
    def name(self) -> str:
        """`suite/model/dataset/seed-n`."""
        return self.folder.name

    @property
    def is_exact(self) -> bool:
        """Whether its logits are float32 numbers of a CPU, which another CPU gives again."""
        facts = self.record.provenance
        training = self.record.training
        full = training is None or training.mixed_precision in (None, "no")
        return full and facts.get("device") == facts.get("processor")


def find_run(name: str, results: Path) -> FinishedRun:
    """Return the run called `suite/model/dataset/seed-n`, or whose folder that is.

    Raises:
        ExportError: there is no such run, it is not completed, or has no checkpoint.
        ResultsError: one of its files is damaged or cannot be read.
    """
    folder = _folder(name, results)
    record = folder.read_record()
    if record is None:
        raise ExportError(f"{folder.path}: there is no record.json, so no run has ended here")
    if record.status != "completed":
        why = "" if record.failure is None else f" ({record.failure.message})"
        raise ExportError(
            f"{folder.name}: the run is {record.status}{why}; only a completed one can be exported"
        )
    spec = _spec(folder)
    again = _AGAIN.format(model=record.model)
    if not folder.model.exists():
        raise ExportError(f"{folder.model}: the checkpoint is gone: {again}")
    verify_folder(folder.model)
    if record.temperature is None or record.data is None:
        raise ExportError(f"{folder.record}: it is of an earlier version: {again}")
    return FinishedRun(folder, record, spec, record.temperature, record.data)


def _folder(name: str, results: Path) -> RunFolder:
    place = Path(name)
    if place.is_dir() and RunFolder(place).record.exists():
        return RunFolder(place.resolve())
    words = name.strip("/").split("/")
    folder = RunFolder(results.joinpath(*words))
    if len(words) == 4 and ".." not in words and folder.record.exists():
        return RunFolder(folder.path.resolve())
    if not results.is_dir():
        raise ExportError(f"{results}: there is no such folder of results; name one with --results")
    known = [
        "/".join(path.parts[-5:-1])
        for path in results.glob(f"*/*/*/seed-*/{folder.record.name}")
        if not path.parts[-5].startswith(".")
    ]
    if not known:
        raise ExportError(f"{results}: it holds no runs; name another folder with --results")
    ends = [one for one in known if one.endswith(f"/{name.strip('/')}")]
    hint = f", did you mean '{ends[0]}'?" if len(ends) == 1 else did_you_mean(name, known)
    raise ExportError(f"no run '{name}' in {results}{hint}")


def _spec(folder: RunFolder) -> RunSpec:
    stored = folder.verified_spec()
    if not stored:
        raise ExportError(f"{folder.spec}: it is gone, and with it what the run was made of")
    if "imported" in stored or "model" not in stored:
        raise ExportError(
            f"{folder.name}: its logits were imported, so there is no checkpoint here to export"
        )
    try:
        return RunSpec.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ExportError(
            f"{folder.spec}: it is of another version of this program ({where}: {first['msg']})"
        ) from None
