"""Source splits -> one corpus: classes matched by name, gaps refused or counted, parts held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from benchmark.arrays import IntArray
from benchmark.data.columns import image_files
from benchmark.data.files import SplitReader, Wanted, find_splits, from_datasets
from benchmark.data.rows import Rows
from benchmark.data.sources import Sources
from benchmark.data.table import listed
from benchmark.failures import RunError, UnavailableError
from benchmark.hub import load_hub_dataset
from benchmark.registry import DatasetEntry, did_you_mean

CLEAN_SPLITS = ("train", "calibration", "test")
DEFAULT_TEST = 0.2
"""Share of the rows held out as the test split of a source that has a training split only."""


@dataclass(frozen=True)
class Corpus:
    """The clean splits of one dataset, and what a reader of figures must know of them."""

    train: Rows
    calibration: Rows
    test: Rows
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Rows]:
        """Return the clean splits by name."""
        return {name: getattr(self, name) for name in CLEAN_SPLITS}

    def limited(self, limit: int | None, *, by_digest: bool = False) -> Corpus:
        """Return at most `limit` rows of each split (None: all).

        Args:
            limit: rows of each split.
            by_digest: take rows by a digest of their ids, a fair sample of rows that may be
                sorted; or else the first ones, where the pinned order is scrambled already.
        """
        if limit is None:
            return self
        parts = {
            name: sample(rows, limit, by_digest=by_digest) for name, rows in self.splits().items()
        }
        return Corpus(**parts, label_names=self.label_names, notes=self.notes)


def sample(rows: Rows, size: int, *, by_digest: bool) -> Rows:
    """Return at most `size` rows: by a digest of their ids, or the first ones.

    Rows of files and of the hub may be sorted by class, so that only a digest is fair. The order
    of embedded data is scrambled and pinned.
    """
    order = np.arange(len(rows))
    if by_digest:
        digests = [hashlib.sha256(f"limit:{row_id}".encode()).digest() for row_id in rows.ids]
        order = np.array(sorted(range(len(rows)), key=digests.__getitem__), dtype=np.int64)
    return rows.take(order[:size])


def assemble(entry: DatasetEntry, revision: str | None, checked: Path | None) -> Corpus:
    """Read a hub or local dataset into its clean splits.

    Args:
        entry: the dataset.
        revision: the commit to load, of hub entries.
        checked: a file that says that these images have been decoded once; it is written when
            they have. None: decode them.

    Raises:
        RunError: a column, split or label is not as the entry says.
        UnavailableError: the data cannot be read or fetched.
    """
    with _named(entry):
        readers = _source_splits(entry, revision)
        entry, notes = _with_default_test(entry, readers)
        # In the source's order, on which row ids rest.
        wanted = _wanted(entry).splits
        _require_splits(entry, readers)
        tables = {name: read() for name, read in readers.items() if name in wanted}
        notes += [note for table in chain(*tables.values()) for note in table.notes]
        sources = Sources(entry, tables, notes)
        rows = sources.rows()
        corpus = _cut(entry, rows, sources.label_names)
        if entry.modality == "image" and not (checked is not None and checked.exists()):
            sources.check_images()
            _mark(checked)
        _refuse_one_class(corpus)
        return replace(corpus, notes=tuple(notes))


@contextmanager
def _named(entry: DatasetEntry) -> Iterator[None]:
    """Say in every error which dataset it is about."""
    try:
        yield
    except UnavailableError as error:
        what = "" if entry.hub is not None else "cannot be loaded: "
        raise UnavailableError(f"dataset {entry.name}: {what}{error}") from error
    except RunError as error:
        raise RunError(f"dataset {entry.name}: {error}") from error
    except OSError as error:
        raise UnavailableError(f"dataset {entry.name}: cannot be loaded: {error}") from error


def _mark(checked: Path | None) -> None:
    if checked is not None:
        checked.parent.mkdir(parents=True, exist_ok=True)
        checked.touch()


# --- source splits --------------------------------------------------------------------------------


def _wanted(entry: DatasetEntry) -> Wanted:
    splits = (entry.splits.train, entry.splits.calibration, entry.splits.test)
    columns = entry.columns
    return Wanted(
        splits=[split for split in splits if isinstance(split, str)],
        columns=[
            column
            for column in (columns.text, columns.text_pair, columns.image, columns.label)
            if column is not None
        ],
        images=entry.modality == "image",
        encoding=entry.encoding,
    )


def _source_splits(entry: DatasetEntry, revision: str | None) -> dict[str, SplitReader]:
    if entry.hub is not None:
        loaded = load_hub_dataset(entry.hub, str(revision), entry.config, entry.files)
        return from_datasets(loaded)
    return find_splits(Path(str(entry.path)), _wanted(entry))


def _with_default_test(
    entry: DatasetEntry, known: Mapping[str, object]
) -> tuple[DatasetEntry, list[str]]:
    """Hold test rows out of train where the source has nothing else; return it with a note."""
    others = set(known) - {entry.splits.train, entry.splits.calibration}
    if entry.splits.train not in known or others or entry.splits.test != "test":
        return entry, []
    splits = entry.splits.model_copy(update={"test": DEFAULT_TEST})
    note = (
        f"the source has no test split: {DEFAULT_TEST:.0%} of '{entry.splits.train}' is held out "
        f"as one (splits: {{test: {DEFAULT_TEST}}})"
    )
    return entry.model_copy(update={"splits": splits}), [note]


def default_test_note(entry: DatasetEntry) -> list[str]:
    """Say whether a local dataset is given a test split by default, without reading its rows."""
    try:
        return _with_default_test(entry, find_splits(Path(str(entry.path)), _wanted(entry)))[1]
    except (RunError, OSError):
        return []  # reading it says what is wrong


def _require_splits(entry: DatasetEntry, known: Mapping[str, object]) -> None:
    for name in _wanted(entry).splits:
        if name not in known:
            advice = ""
            if name == entry.splits.test and entry.splits.train in known:
                advice = f". Rows of train can be held out: splits: {{test: {DEFAULT_TEST}}}."
            raise RunError(f"no split '{name}'{did_you_mean(name, known)}{advice}")


def outside_images(entry: DatasetEntry) -> list[Path]:
    """Return the image files that the tables of a local dataset name and its path does not hold.

    What cannot be read names none: reading it says why.
    """
    root = Path(str(entry.path))
    try:
        readers = find_splits(root, _wanted(entry))
        tables = [
            table
            for name, read in readers.items()
            if name in _wanted(entry).splits
            for table in read()
        ]
    except (RunError, OSError):
        return []
    files = (file for table in tables for file in image_files(table, str(entry.columns.image)))
    return sorted({file for file in files if root.absolute() not in file.absolute().parents})


# --- train, calibration and test ------------------------------------------------------------------


def _cut(entry: DatasetEntry, whole: Mapping[str, Rows], names: tuple[str, ...]) -> Corpus:
    # Without a training split, what is not a split of its own is held out of the test rows.
    rest = whole[entry.splits.train or str(entry.splits.test)]
    if entry.splits.train is None:
        test, calibration = _take_part(entry, whole, rest, entry.splits.calibration, "calibration")
        return Corpus(rest.take(np.empty(0, dtype=np.int64)), calibration, test, names)
    rest, test = _take_part(entry, whole, rest, entry.splits.test, "test")
    train, calibration = _take_part(entry, whole, rest, entry.splits.calibration, "calibration")
    return Corpus(train, calibration, test, names)


def _take_part(
    entry: DatasetEntry, whole: Mapping[str, Rows], rest: Rows, part: str | float, split: str
) -> tuple[Rows, Rows]:
    """Return (what is left of the rest, the part): a split of its own, or a fraction."""
    if isinstance(part, str):
        if part in (entry.splits.train, entry.splits.test if split == "calibration" else None):
            raise RunError(f"{split} and another are the same split '{part}'")
        return rest, whole[part]
    if not 0 < part < 1:
        raise RunError(f"splits.{split} is a name or lies between 0 and 1")
    order = np.random.default_rng([entry.split_seed, len(split)]).permutation(len(rest))
    held_out = max(1, round(part * len(rest)))
    return rest.take(np.sort(order[held_out:])), rest.take(np.sort(order[:held_out]))


def _refuse_one_class(corpus: Corpus) -> None:
    if len(corpus.train) and len(np.unique(corpus.train.labels)) == 1:
        name = corpus.label_names[int(corpus.train.labels[0])]
        raise RunError(f"all rows to train on are of one class ('{name}'): nothing can be learnt")


def class_notes(corpus: Corpus) -> tuple[str, ...]:
    """Name the classes that a split has no row of."""
    notes = []
    for split, rows in corpus.splits().items():
        absent = _absent(rows.labels, corpus.label_names)
        if len(rows) and absent:
            notes.append(
                f"{split}: no row of {len(absent):,} of {len(corpus.label_names):,} classes: "
                f"{listed(absent)}"
            )
    return tuple(notes)


def _absent(labels: IntArray, names: Sequence[str]) -> list[str]:
    counts = np.bincount(labels, minlength=len(names))
    return [name for name, count in zip(names, counts, strict=True) if count == 0]
