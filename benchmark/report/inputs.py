"""All that a report is made of, as one key: while it is the same, nothing need be drawn again."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import xxhash

from benchmark.records import (
    ResultsError,
    RunFolder,
    read_stamp,
    reading,
    runs_of_suite,
    runs_outside,
    suite_members,
    verify_logits,
)
from benchmark.registry import Claim, Published
from benchmark.report.data import MAX_LOGITS_FILES
from benchmark.report.row_sources import RowSources, row_source
from benchmark.shell import special_kind

PACKAGES = (
    *("contourpy", "fonttools", "jinja2", "kiwisolver", "markupsafe", "matplotlib", "numpy"),
    *("pandas", "pillow", "pyarrow", "pydantic", "pydantic_core", "safetensors", "scipy"),
    *("seaborn", "threadpoolctl"),
    "calibration-benchmark",  # methods.md names it
)
"""Whose versions decide what numbers, figures and pages say and look like."""


def inputs_key(
    results: Path,
    suite: str,
    claim: Claim,
    published: Sequence[Published],
    sources: RowSources,
) -> str | None:
    """Return the hash of everything that the report of a suite shows.

    That is the content of the records, specs and logits of its runs, the list of the runs, the
    claim and its stamp, published figures, the rows that may be shown, and this program with the
    libraries it draws with. Where there are so many runs that a report does not read the logits of
    each (more than `MAX_LOGITS_FILES`), logits are known by the checksum in their header.

    Returns:
        None where something cannot be read: such a report has to be made to say so.
    """
    try:
        return _key(results, suite, claim, published, sources)
    except (OSError, ResultsError):
        return None


def _key(
    results: Path,
    suite: str,
    claim: Claim,
    published: Sequence[Published],
    sources: RowSources,
) -> str:
    members, stamp = suite_members(results, suite), read_stamp(results, suite)
    folders = runs_of_suite(results, suite)
    verifies = len(folders) <= MAX_LOGITS_FILES
    specs: dict[str, None] = {}
    digest = xxhash.xxh3_128()
    for part in (
        program_version(),
        suite,
        "" if members is None else members.model_dump_json(),
        "" if stamp is None else stamp.model_dump_json(),
        claim.model_dump_json(),
        *(entry.model_dump_json() for entry in published),
        *(run.name for run in runs_outside(results, suite)),
    ):
        _add(digest, part.encode())
    for folder in folders:
        spec = _content(folder.spec)
        specs[_dataset_of(spec)] = None
        _add(digest, folder.name.encode())
        _add(digest, xxhash.xxh3_128_digest(_content(folder.record)))
        _add(digest, spec)
        _add(digest, _logits(folder, verifies=verifies))
    for description in specs:
        _add(digest, description.encode())
        _add(digest, _rows(description, sources).encode())
    return digest.hexdigest()


def _add(digest: xxhash.xxh3_128, part: bytes) -> None:
    """Add a part with its length, so that no two lists of parts are one text."""
    digest.update(f"{len(part)}:".encode())
    digest.update(part)


def _content(path: Path) -> bytes:
    if special_kind(path) is not None:
        raise ResultsError(f"{path}: cannot be read to its end")
    try:
        with reading(path):
            return path.read_bytes()
    except FileNotFoundError:
        return b"none"


def _logits(folder: RunFolder, *, verifies: bool) -> bytes:
    """Return what stands for a run's logits: the header, which has their checksum."""
    path = folder.logits
    try:
        if special_kind(path) is not None:
            raise ResultsError(f"{path}: cannot be read to its end")
        if verifies:
            verify_logits(folder)
        with reading(path), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, 2**24))
            return header + str(path.stat().st_size).encode()
    except FileNotFoundError:
        return b"none"


def _dataset_of(spec: bytes) -> str:
    """Return what a run's `spec.json` says of its rows, as canonical JSON."""
    try:
        content = json.loads(spec)
    except ValueError:
        return ""
    if not isinstance(content, dict):
        return ""
    known = {name: content.get(name) for name in ("dataset", "imported", "data_revision")}
    return json.dumps(known, sort_keys=True)


def _rows(description: str, sources: RowSources) -> str:
    """Return the identity of the rows that a report may show of a dataset, or why none."""
    from benchmark.data import resolve_data_revision
    from benchmark.failures import RunError
    from benchmark.records import RevisionUnavailableError

    spec: dict[str, Any] = json.loads(description) if description else {}
    try:
        entry = row_source(spec, sources)
        if entry.hub is not None:
            return "rows of the commit in spec.json"
        return resolve_data_revision(entry)
    except (ResultsError, RevisionUnavailableError, RunError) as error:
        return f"none: {error}"


@functools.cache
def program_version() -> str:
    """Return a hash of this program's own files and of the versions of what it draws with."""
    root = Path(__file__).parents[1]
    digest = xxhash.xxh3_128()
    for path in sorted(_sources(root)):
        _add(digest, path.relative_to(root).as_posix().encode())
        _add(digest, path.read_bytes())
    for package in PACKAGES:
        _add(digest, f"{package} {_version(package)}".encode())
    _add(digest, platform.python_version().encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _sources(root: Path) -> Iterable[Path]:
    return (path for path in root.rglob("*") if path.suffix in {".py", ".jinja", ".bib"})
