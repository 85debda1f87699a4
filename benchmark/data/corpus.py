"""Dataset entry -> pinned train / calibration / test splits with row ids."""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from benchmark.data.assembly import (
    CLEAN_SPLITS,
    Corpus,
    assemble,
    class_notes,
    default_test_note,
    outside_images,
    sample,
)
from benchmark.data.embedded import embedded_fingerprint, load_embedded
from benchmark.data.rows import Rows
from benchmark.data.shifts import SEVERITIES, SHIFTS, apply_shift
from benchmark.failures import RunError
from benchmark.hub import resolve_hub_revision
from benchmark.records import RevisionUnavailableError, fingerprint_path
from benchmark.registry import DatasetEntry, did_you_mean


def resolve_data_revision(entry: DatasetEntry) -> str:
    """Return the identity of the entry's data without loading it: hub commit or content hash.

    Raises:
        RevisionUnavailableError: the hub or the path does not have it.
        RunError: no embedded dataset has that name.
    """
    if entry.hub is not None:
        return resolve_hub_revision(entry.hub, entry.revision, "dataset")
    if entry.path is not None:
        return _local_revision(entry)
    try:
        return embedded_fingerprint(str(entry.embedded))
    except ValueError as error:
        raise RunError(f"dataset {entry.name}: {error}") from None


def _local_revision(entry: DatasetEntry) -> str:
    """Return the hash of a local source and of the images that its tables name elsewhere."""
    content = fingerprint_path(Path(str(entry.path)))
    for note in default_test_note(entry):
        _say_once(f"dataset {entry.name}: {note}")
    if entry.modality != "image":
        return content
    elsewhere = _outside_images(entry.model_dump_json(), content)
    return _digest(content, *map(_fingerprint_or_gap, elsewhere)) if elsewhere else content


@functools.lru_cache(maxsize=8)
def _outside_images(description: str, content: str) -> list[Path]:
    """Read the tables once for each content."""
    return outside_images(DatasetEntry.model_validate_json(description))


def _fingerprint_or_gap(path: Path) -> str:
    try:
        return fingerprint_path(path)
    except (RevisionUnavailableError, OSError):
        return f"none at {path}"  # the file is named when it is read


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


@functools.lru_cache(maxsize=2)
def _load(description: str, revision: str | None) -> Corpus:
    """Load the splits of an entry, given as JSON: what an entry holds need not be hashable."""
    entry = DatasetEntry.model_validate_json(description)
    if entry.embedded is not None:
        data = load_embedded(entry.embedded)
        return Corpus(data.train, data.calibration, data.test, data.label_names)
    return assemble(entry, revision, _checked_images(description, revision))


def _checked_images(description: str, revision: str | None) -> Path | None:
    """Return the file that says that a dataset's images have been decoded once."""
    if revision is None:
        return None
    import datasets

    root = Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    return root / "decoded-images" / _digest(description, revision)


def load_corpus(
    entry: DatasetEntry, *, revision: str | None = None, limit: int | None = None
) -> Corpus:
    """Load the pinned splits of a dataset; the two last used stay in memory.

    What a reader of the figures must know is logged once and stays in `notes`.

    Args:
        entry: the dataset.
        revision: the data's resolved identity; for hub entries the commit to load.
        limit: keep at most this many rows of each split.

    Raises:
        RunError: a column, split or label is not as the entry says.
        UnavailableError: the data cannot be read or fetched.
    """
    whole = _load(entry.model_dump_json(), revision)
    corpus = whole.limited(limit, by_digest=entry.embedded is None)
    corpus = replace(corpus, notes=(*corpus.notes, *class_notes(corpus)))
    for note in corpus.notes:
        _say_once(f"dataset {entry.name}: {note}")
    return corpus


def shifted_split_names(entry: DatasetEntry) -> list[str]:
    """Return the names of the entry's shifted test sets, such as `noise-1`."""
    for kind in entry.shifts:
        if kind not in SHIFTS:
            raise RunError(
                f"dataset {entry.name}: unknown shift '{kind}'{did_you_mean(kind, SHIFTS)}"
            )
    return [f"{kind}-{severity}" for kind in entry.shifts for severity in SEVERITIES]


def shifted_rows(entry: DatasetEntry, test: Rows, split: str) -> Rows:
    """Return the shifted test set `split` (`<kind>-<severity>`), made from the clean test rows.

    The same rows are corrupted in the same way for every model and seed, so that models
    stay comparable row by row.
    """
    kind, _, severity = split.rpartition("-")
    rows = test
    if entry.shift_rows is not None:
        rows = sample(test, entry.shift_rows, by_digest=entry.embedded is None)
    return apply_shift(rows, kind, int(severity), seed=entry.split_seed)


def load_rows(
    entry: DatasetEntry, split: str, *, revision: str | None = None, limit: int | None = None
) -> Rows:
    """Return the raw rows of any split, clean or shifted, in the order they were scored."""
    corpus = load_corpus(entry, revision=revision, limit=limit)
    if split in CLEAN_SPLITS:
        rows: Rows = getattr(corpus, split)
        return rows
    return shifted_rows(entry, corpus.test, split)
