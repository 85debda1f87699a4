"""The owner of a run's folder: the only place that knows the names in it and where it lies."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.markup import without_credentials
from benchmark.records.checksums import FileState, file_state, read_json_text, sealed_json
from benchmark.records.files import (
    DamagedError,
    OtherVersionError,
    ResultsError,
    reading,
    write_text,
)
from benchmark.records.record import (
    SCHEMA_VERSION,
    Record,
    RecordHead,
    RecordT,
    parse_record,
)
from benchmark.shell import special_kind

_RECORD = "record.json"


@dataclass(frozen=True, order=True)
class RunFolder:
    """`<results>/<suite>/<model>/<dataset>/seed-<n>/` and what lies in it.

    Attributes:
        path: the folder, which need not exist yet.

    Example:
        >>> folder = RunFolder.of(Path("results"), "embedded", "vit-tiny", "digits", seed=0)
        >>> folder.name
        'embedded/vit-tiny/digits/seed-0'
        >>> folder.record.as_posix()
        'results/embedded/vit-tiny/digits/seed-0/record.json'
        >>> folder.read_record() is None  # nothing has run here
        True
    """

    path: Path

    @classmethod
    def of(cls, results: Path, suite: str, model: str, dataset: str, seed: int) -> RunFolder:
        """Return the folder of one run in a results tree."""
        return cls(results / suite / model / dataset / f"seed-{seed}")

    @property
    def name(self) -> str:
        """`suite/model/dataset/seed-n`, unique in a results tree."""
        return "/".join(self.path.parts[-4:])

    @property
    def record(self) -> Path:
        """The run's record; written last, so that what it speaks of is there."""
        return self.path / _RECORD

    @property
    def spec(self) -> Path:
        """Everything that decides the result, with revisions resolved."""
        return self.path / "spec.json"

    @property
    def model(self) -> Path:
        """The fine-tuned checkpoint, as `from_pretrained` loads it."""
        return self.path / "model"

    @property
    def training(self) -> Path:
        """Marks `model` as finished, with its stage key."""
        return self.path / "training.json"

    @property
    def training_state(self) -> Path:
        """What the next epoch of a training under way needs."""
        return self.path / "training-state.safetensors"

    @property
    def logits(self) -> Path:
        """Logits, labels and row ids of every split but the training split."""
        return self.path / "logits.safetensors"

    @property
    def claim(self) -> Path:
        """Names the one process that may write here (see `try_claim`)."""
        return self.path / ".claim"

    def read_record(self) -> Record | None:
        """Read the run's record, or return None where there is none.

        Raises:
            DamagedError: the file is not as it was written.
            OtherVersionError: it is of a newer schema.
            ResultsError: it cannot be read, or one of the run's files is none that can be read to
                its end, such as a named pipe.
        """
        self._refuse_special_files()
        try:
            return _read_record(Record, self.record)
        except FileNotFoundError:
            return None

    def read_head(self) -> RecordHead | None:
        """Read the run's record without its metrics, once for each state of it.

        A metric that another version wrote otherwise is left to `read_record` to find.

        Returns:
            None where there is no record.

        Raises:
            DamagedError, OtherVersionError, ResultsError: see `read_record`.
        """
        self._refuse_special_files()
        try:
            with reading(self.record):
                return _read_head(self.record, file_state(self.record))
        except FileNotFoundError:
            return None

    def _refuse_special_files(self) -> None:
        for file in (self.record, self.spec, self.logits):
            kind = special_kind(file)
            if kind is not None:
                raise ResultsError(f"{file}: is {kind}, not a file; remove it")

    def write_record(self, record: Record) -> None:
        """Write the run's record atomically, with its checksum and without credentials."""
        write_text(self.record, sealed_json(without_credentials(record.model_dump_json(indent=1))))

    def read_spec(self) -> dict[str, Any]:
        """Return what `spec.json` says, or an empty dictionary where it is missing or damaged."""
        try:
            return self.verified_spec()
        except ResultsError:
            return {}

    def verified_spec(self) -> dict[str, Any]:
        """Return what `spec.json` says, or an empty dictionary where there is none.

        Raises:
            DamagedError: it is not as it was written.
            ResultsError: it cannot be read.
        """
        found = _read_json(self.spec)
        if found is None:
            return {}
        try:
            spec = json.loads(found[0])
        except ValueError as error:
            raise DamagedError(self.spec, str(error)) from None
        if not isinstance(spec, dict):
            raise DamagedError(self.spec, "it does not hold an object")
        return spec

    def write_spec(self, json_text: str) -> None:
        """Write `spec.json` atomically, with its checksum and without credentials."""
        write_text(self.spec, sealed_json(without_credentials(json_text)))


def _read_json(path: Path) -> tuple[str, bool] | None:
    """Return a file's text and whether it had a checksum; None where there is no file."""
    try:
        return read_json_text(path)
    except FileNotFoundError:
        return None


def _read_record(kind: type[RecordT], path: Path) -> RecordT:
    text, sealed = read_json_text(path)
    try:
        if not sealed and kind is not Record:  # nothing vouches for what is not read
            parse_record(Record, text)
        return parse_record(kind, text)
    except ValidationError as error:
        raise _not_a_record(path, text, sealed, error) from None


@functools.lru_cache(maxsize=4096)
def _read_head(path: Path, _state: FileState) -> RecordHead:
    """Read a record's head; commands look at each several times, and `_state` tells a new one."""
    return _read_record(RecordHead, path)


def _not_a_record(path: Path, text: str, sealed: bool, error: ValidationError) -> ResultsError:
    """Return what is wrong with a record that this version does not understand."""
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError):
        version = None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return OtherVersionError(
            path, f"a record of schema {version}, newer than {SCHEMA_VERSION}, the latest known"
        )
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    problem = f"not a record of schema {SCHEMA_VERSION} ({where or 'file'}: {first['msg']})"
    return OtherVersionError(path, problem) if sealed else DamagedError(path, problem)


def shared_cache(results: Path) -> Path:
    """Return the folder of a results tree for what its runs share and can make anew.

    >>> shared_cache(Path("results")).as_posix()
    'results/.cache'
    """
    return results / ".cache"


def suites_of(results: Path) -> list[str]:
    """Return the names of the suites of a results tree that have a record, sorted."""
    folders = sorted(folder for folder in results.iterdir() if folder.is_dir())
    return [folder.name for folder in folders if next(_runs_of_suite(folder), None) is not None]


def runs_in_suite(results: Path, suite: str) -> list[RunFolder]:
    """Return the runs that lie in a suite's folder and have a record, sorted."""
    return sorted(_runs_of_suite(results / suite))


def find_runs(place: Path) -> list[RunFolder]:
    """Return the folders with a record at or below `place`: a tree, a suite or a run; sorted.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as results:
    ...     for seed in range(2):
    ...         folder = RunFolder.of(Path(results), "mine", "vit", "digits", seed)
    ...         write_text(folder.record, "{}")
    ...     [run.name for run in find_runs(Path(results) / "mine")], suites_of(Path(results))
    (['mine/vit/digits/seed-0', 'mine/vit/digits/seed-1'], ['mine'])
    """
    return _holders(place.rglob(_RECORD))


def find_logits(place: Path) -> list[RunFolder]:
    """Return the run folders with logits at or below `place`, sorted."""
    return _holders(place.rglob(RunFolder(place).logits.name))


def find_records(place: Path) -> list[tuple[RunFolder, Record]]:
    """Return the folder and record of every run at or below `place`; see `read_records`."""
    return read_records(find_runs(place))


def read_records(folders: Iterable[RunFolder]) -> list[tuple[RunFolder, Record]]:
    """Return runs' folders and records.

    A record that cannot be read costs its own run only: a warning names it.
    """
    found = []
    for folder in folders:
        try:
            record = folder.read_record()
        except ResultsError as error:
            logging.getLogger(__name__).warning("left out: %s", error)
            continue
        if record is not None:
            found.append((folder, record))
    return found


def _runs_of_suite(suite: Path) -> Iterator[RunFolder]:
    return (RunFolder(path.parent) for path in suite.glob(f"*/*/seed-*/{_RECORD}"))


def _holders(files: Iterable[Path]) -> list[RunFolder]:
    return sorted(RunFolder(file.parent) for file in files)
