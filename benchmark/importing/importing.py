"""Checked splits -> a run in the results tree: logits, temperature, scores, record."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmark.execution import score_run
from benchmark.importing.checks import Checked
from benchmark.importing.layout import SplitName
from benchmark.importing.source import file_sha256
from benchmark.plan import STAGE_VERSIONS, content_hash
from benchmark.records import (
    DamagedError,
    DataFacts,
    ModelFacts,
    Record,
    ResultsError,
    RunFolder,
    claimed,
    describe_machine,
    set_aside,
    stored_key,
    suite_members,
    verify_logits,
    write_logits,
)

IMPORT_VERSION = 2
"""Raised when a change of code changes what is stored of the same files: columns taken for
classes, or which rows. Imports of an earlier version are made anew, as their files are at hand."""

SOURCE = "imported logits"
_SCRATCH = ".import-"

Digests = list[tuple[SplitName | None, str, str]]
"""Of each file: the one split it holds or None, its name, and the SHA-256 of its bytes."""

Outcome = Literal["imported", "described anew", "nothing to do"]


class ImportRefusedError(ValueError):
    """The run's folder holds something else, which is not replaced without being told to."""


class Source(Protocol):
    """Files that become the splits of one run."""

    @property
    def files(self) -> tuple[tuple[SplitName | None, Path], ...]:
        """What is read; each file with the one split it holds, or None."""

    def decides(self, digests: Digests) -> Mapping[str, Any]:
        """Return what decides the stored logits: file contents and options."""

    def describe(self) -> Mapping[str, Any]:
        """Return what the record's provenance says of how the values were understood."""

    def read(self) -> Checked:
        """Read and check the files; nothing is written.

        Raises:
            SourceError: they cannot be used.
        """


@dataclass(frozen=True)
class Job:
    """One import.

    Attributes:
        suite: name of the suite.
        model: name of the model.
        dataset: name of the dataset.
        seed: the run's seed.
        source: what is imported.
        facts: what is known of the model.
        licence: of the logits.
        arguments: the command line, kept so that the import can be repeated.
    """

    suite: str
    model: str
    dataset: str
    seed: int
    source: Source
    facts: ModelFacts
    licence: str | None = None
    arguments: tuple[str, ...] = ()

    def folder(self, results: Path) -> RunFolder:
        """Return the folder in `results` that holds the run's files."""
        return RunFolder.of(results, self.suite, self.model, self.dataset, self.seed)


@dataclass(frozen=True)
class Result:
    """What an import did: the record, and what a person should know of the values."""

    outcome: Outcome
    record: Record
    notes: tuple[str, ...]


def import_logits(job: Job, results: Path, *, force: bool = False) -> Result:
    """Store the logits as a run, fit its temperature, score it and write its record.

    Everything is checked and scored before anything of an earlier import is touched, and the
    record comes last: a reader never sees a record without the logits it speaks of.

    Args:
        job: what to import.
        results: the results tree.
        force: replace whatever the run's folder holds.

    Raises:
        SourceError: the files cannot be used.
        ImportRefusedError: the folder holds another run.
        ResultsError: the logits cannot be read back.
        ValueError: they cannot be scored.
    """
    _refuse_undeclared(job, results)
    digests = [(role, path.name, file_sha256(path)) for role, path in job.source.files]
    keys = _keys(job, digests)
    folder = job.folder(results)
    # Asked before the files are read, to be quick, and again when no one else can write.
    if not force and (previous := _same_import(folder, job, digests)) is not None:
        return _described(folder, previous, job)
    checked = job.source.read()
    folder.path.mkdir(parents=True, exist_ok=True)
    with claimed(folder), _scratch_folder(folder) as scratch:
        if not force and (previous := _same_import(folder, job, digests)) is not None:
            return Result("nothing to do", previous, checked.notes)
        write_logits(scratch, checked.splits, keys["logits"])
        record = _scored_record(job, scratch, checked, keys, digests)
        _replace(folder, scratch, record, _spec(job, digests))
    return Result("imported", record, checked.notes)


def _refuse_undeclared(job: Job, results: Path) -> None:
    """Refuse a run that its suite's report would leave out.

    Raises:
        ImportRefusedError: a registry declares the suite's runs, and this is none of them.
    """
    members = suite_members(results, job.suite)
    name = f"{job.model}/{job.dataset}/seed-{job.seed}"
    if members is not None and name not in members.runs:
        raise ImportRefusedError(
            f"suite {job.suite} holds the runs that {members.registry or 'its registry'} declares, "
            f"and {name} is none of them: import into another suite, with --suite NAME"
        )


def _scored_record(
    job: Job, scratch: RunFolder, checked: Checked, keys: dict[str, str], digests: Digests
) -> Record:
    found = score_run(scratch)
    return Record(
        suite=job.suite,
        model=job.model,
        dataset=job.dataset,
        seed=job.seed,
        status="completed",
        keys=keys,
        facts=job.facts,
        data=DataFacts(
            label_names=checked.label_names,
            rows={name: len(split.labels) for name, split in checked.splits.items()},
        ),
        temperature=found.temperature,
        maps=found.maps,
        scores=found.scores,
        provenance=_provenance(job, digests, checked.notes),
        finished_at=datetime.now(UTC),
    )


def _keys(job: Job, digests: Digests) -> dict[str, str]:
    """Return what decides the stored logits and the scores: file contents and options."""
    logits = _logits_key(job, digests, IMPORT_VERSION)
    version = STAGE_VERSIONS["scores"]
    return {"logits": logits, "scores": content_hash({"version": version, "from": logits})}


def _logits_key(job: Job, digests: Digests, version: int) -> str:
    return content_hash({"version": version, **job.source.decides(digests)})


def _same_import(folder: RunFolder, job: Job, digests: Digests) -> Record | None:
    """Return the record of this very import, or None where there is something to do.

    Raises:
        ImportRefusedError: the folder holds another run, or a record that cannot be read.
    """
    try:
        previous = folder.read_record()
    except DamagedError:
        return None  # it is made anew
    except ResultsError as error:
        raise ImportRefusedError(str(error)) from None
    if previous is None:
        return None
    keys = _keys(job, digests)
    if previous.keys.get("logits") != keys["logits"]:
        earlier = {_logits_key(job, digests, version) for version in range(1, IMPORT_VERSION)}
        if previous.keys.get("logits") in earlier:
            return None
        raise ImportRefusedError(_refusal(folder, previous))
    return previous if previous.keys == keys and stored_key(folder) == keys["logits"] else None


def _refusal(folder: RunFolder, previous: Record) -> str:
    imported = previous.provenance.get("imported")
    what = "another import" if imported else f"a run of the benchmark ({previous.status})"
    names = [str(file.get("name")) for file in imported.get("files", ())] if imported else []
    of = f" of {', '.join(names)}" if names else ""
    return (
        f"{folder.path} holds {what}{of}; choose another --model, --dataset, --suite or --seed, or "
        "replace it with --force"
    )


def _described(folder: RunFolder, previous: Record, job: Job) -> Result:
    """Bring the facts of an import up to date; its logits and scores are those asked for."""
    imported = previous.provenance.get("imported", {})
    notes = tuple(imported.get("notes", ()))
    if previous.facts == job.facts and imported.get("licence") == job.licence:
        return Result("nothing to do", previous, notes)
    provenance = {**previous.provenance, "imported": {**imported, "licence": job.licence}}
    record = previous.model_copy(update={"facts": job.facts, "provenance": provenance})
    with claimed(folder):
        folder.write_record(record)
    return Result("described anew", record, notes)


def _provenance(job: Job, digests: Digests, notes: tuple[str, ...]) -> dict[str, Any]:
    return describe_machine() | {
        "imported": {
            "files": _files(digests),
            "licence": job.licence,
            **job.source.describe(),
            "notes": list(notes),
        }
    }


def _files(digests: Digests) -> list[Mapping[str, str | None]]:
    return [{"name": name, "sha256": digest, "split": role} for role, name, digest in digests]


def _spec(job: Job, digests: Digests) -> dict[str, Any]:
    """Return what `spec.json` says: how to do the import again, from the files' folder."""
    command = shlex.join(["python", "-m", "benchmark.importing", *job.arguments])
    return {"imported": _files(digests), "command": command}


@contextmanager
def _scratch_folder(folder: RunFolder) -> Iterator[RunFolder]:
    """Yield a folder beside the run's files; what a killed import left there goes as well."""
    for left in folder.path.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.path, prefix=_SCRATCH))
    try:
        yield RunFolder(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(
    folder: RunFolder, scratch: RunFolder, record: Record, spec: Mapping[str, Any]
) -> None:
    """Put the new files in place: the old record goes first and the new one comes last."""
    for read in (folder.read_record, folder.verified_spec, partial(verify_logits, folder)):
        try:
            read()
        except DamagedError as error:
            set_aside(error)
        except (FileNotFoundError, ResultsError):
            continue
    folder.record.unlink(missing_ok=True)
    os.replace(scratch.logits, folder.logits)
    folder.write_spec(json.dumps(spec, indent=1))
    folder.write_record(record)
