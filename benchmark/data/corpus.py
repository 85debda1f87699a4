"""Dataset entry -> pinned train / calibration / test splits with row ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.arrays import IntArray
from benchmark.data.embedded import embedded_fingerprint, load_embedded
from benchmark.data.rows import Image, Rows
from benchmark.data.shifts import SHIFTS, apply_shift
from benchmark.failures import RunError, UnavailableError
from benchmark.hub import load_hub_dataset, resolve_hub_revision
from benchmark.records import fingerprint_path
from benchmark.registry import DatasetEntry, did_you_mean

if TYPE_CHECKING:
    import datasets

CLEAN_SPLITS = ("train", "calibration", "test")
SEVERITIES = (1, 2, 3)
_FILE_READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
_FILE_READERS |= {".parquet": "parquet"}


@dataclass(frozen=True)
class Corpus:
    """The clean splits of one dataset."""

    train: Rows
    calibration: Rows
    test: Rows
    label_names: tuple[str, ...]

    def limited(self, limit: int | None) -> Corpus:
        """Return the first `limit` rows of each split's pinned order (None: all)."""
        if limit is None:
            return self
        parts = {
            name: getattr(self, name).take(np.arange(min(limit, len(getattr(self, name)))))
            for name in CLEAN_SPLITS
        }
        return Corpus(**parts, label_names=self.label_names)


def resolve_data_revision(entry: DatasetEntry) -> str:
    """Return the identity of the entry's data without loading it: hub commit or content hash.

    Raises:
        RevisionUnavailableError: the hub or the path does not have it.
        RunError: no embedded dataset has that name.
    """
    if entry.hub is not None:
        return resolve_hub_revision(entry.hub, entry.revision, "dataset")
    if entry.path is not None:
        return fingerprint_path(entry.path)
    try:
        return embedded_fingerprint(str(entry.embedded))
    except ValueError as error:
        raise RunError(f"dataset {entry.name}: {error}") from None


@functools.lru_cache(maxsize=2)
def _load(description: str, revision: str | None) -> Corpus:
    """Load the splits of an entry, given as JSON: what an entry holds need not be hashable."""
    entry = DatasetEntry.model_validate_json(description)
    if entry.embedded is not None:
        data = load_embedded(entry.embedded)
        return Corpus(data.train, data.calibration, data.test, data.label_names)
    return _from_datasets(entry, revision)


def load_corpus(
    entry: DatasetEntry, *, revision: str | None = None, limit: int | None = None
) -> Corpus:
    """Load the pinned splits of a dataset; the two last used stay in memory.

    Args:
        entry: the dataset.
        revision: the data's resolved identity; for hub entries the commit to load.
        limit: keep at most this many rows of each split.

    Raises:
        RunError: a column, split or label is not as the entry says.
        UnavailableError: the data cannot be read or fetched.
    """
    return _load(entry.model_dump_json(), revision).limited(limit)


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
    rows = (
        test if entry.shift_rows is None else test.take(np.arange(min(entry.shift_rows, len(test))))
    )
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


# --- hub and local sources, read with the `datasets` library ------------------------------


def _from_datasets(entry: DatasetEntry, revision: str | None) -> Corpus:
    sources = _read_source_splits(entry, revision)
    # Without a training split, what is not a split of its own is held out of the test rows.
    base = entry.splits.train or str(entry.splits.test)
    names = _label_names(entry, sources[base])
    offset = 0
    whole: dict[str, Rows] = {}
    for name, table in sources.items():
        rows = _to_rows(entry, table, names, first_id=offset)
        whole[name] = _labelled(entry, rows, name)
        offset += len(table)  # ids are unique over all of the source's splits
    rest = whole[base]
    if entry.splits.train is None:
        test, calibration = _take_part(entry, whole, rest, entry.splits.calibration, "calibration")
        return Corpus(rest.take(np.empty(0, dtype=np.int64)), calibration, test, names)
    rest, test = _take_part(entry, whole, rest, entry.splits.test, "test")
    train, calibration = _take_part(entry, whole, rest, entry.splits.calibration, "calibration")
    return Corpus(train, calibration, test, names)


def _labelled(entry: DatasetEntry, rows: Rows, split: str) -> Rows:
    """Return the rows that have a label; refuse a split whose labels are hidden."""
    missing = rows.labels < 0
    if missing.all():
        raise RunError(
            f"dataset {entry.name}: the split '{split}' has no labels (hidden test labels are "
            "-1); take another, e.g. splits: {test: validation}"
        )
    if missing.any() and not entry.drop_unlabelled:
        raise RunError(
            f"dataset {entry.name}: {int(missing.sum()):,} of {len(rows):,} rows of the split "
            f"'{split}' have no label (-1); leave them out with drop_unlabelled: true"
        )
    return rows.take(np.flatnonzero(~missing)) if missing.any() else rows


def _take_part(
    entry: DatasetEntry, whole: Mapping[str, Rows], rest: Rows, part: str | float, split: str
) -> tuple[Rows, Rows]:
    """Return (what is left of the rest, the part): a split of its own, or a fraction."""
    if isinstance(part, str):
        if part in (entry.splits.train, entry.splits.test if split == "calibration" else None):
            raise RunError(f"dataset {entry.name}: {split} and another are the same split '{part}'")
        return rest, whole[part]
    if not 0 < part < 1:
        raise RunError(f"dataset {entry.name}: splits.{split} is a name or lies between 0 and 1")
    order = np.random.default_rng([entry.split_seed, len(split)]).permutation(len(rest))
    held_out = max(1, round(part * len(rest)))
    return rest.take(np.sort(order[held_out:])), rest.take(np.sort(order[:held_out]))


def _read_source_splits(entry: DatasetEntry, revision: str | None) -> dict[str, datasets.Dataset]:
    import datasets

    splits = (entry.splits.train, entry.splits.calibration, entry.splits.test)
    try:
        if entry.hub is not None:
            loaded = load_hub_dataset(entry.hub, str(revision), entry.config, entry.files)
        else:
            loaded = _read_local(Path(str(entry.path)))
    except UnavailableError as error:
        raise UnavailableError(f"dataset {entry.name}: {error}") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UnavailableError(f"dataset {entry.name}: cannot be loaded: {error}") from error
    names = dict.fromkeys(split for split in splits if isinstance(split, str))
    for name in names:
        if name not in loaded:
            raise RunError(f"dataset {entry.name}: no split '{name}'{did_you_mean(name, loaded)}")
    # In the source's order, on which row ids rest.
    return {str(name): table for name, table in loaded.items() if name in names}


def _read_local(path: Path) -> Any:
    """Read a file (all rows are `train`), or a folder of files named after their splits."""
    import datasets

    if path.is_file():
        reader = _FILE_READERS.get(path.suffix)
        if reader is None:
            raise ValueError(f"{path}: not one of {', '.join(_FILE_READERS)}")
        return datasets.load_dataset(reader, data_files={"train": str(path)})
    files = {
        file.stem: str(file) for file in sorted(path.iterdir()) if file.suffix in _FILE_READERS
    }
    if not files:
        return datasets.load_dataset("imagefolder", data_dir=str(path))
    readers = {_FILE_READERS[Path(file).suffix] for file in files.values()}
    if len(readers) > 1:
        raise ValueError(f"{path}: files of several kinds: {', '.join(sorted(readers))}")
    return datasets.load_dataset(readers.pop(), data_files=files)


def _label_names(entry: DatasetEntry, table: datasets.Dataset) -> tuple[str, ...]:
    _require_column(entry, table, entry.columns.label)
    names = getattr(table.features[entry.columns.label], "names", None)
    if names is None:
        names = sorted(set(table[entry.columns.label]))
    return tuple(str(name) for name in names)


def _require_column(entry: DatasetEntry, table: datasets.Dataset, column: str) -> None:
    if column not in table.column_names:
        hint = did_you_mean(column, table.column_names)
        raise RunError(f"dataset {entry.name}: no column '{column}'{hint}")


def _to_rows(
    entry: DatasetEntry, table: datasets.Dataset, names: Sequence[str], first_id: int
) -> Rows:
    columns = entry.columns
    for column in (columns.text, columns.text_pair, columns.image, columns.label):
        if column is not None:
            _require_column(entry, table, column)
    return Rows(
        ids=np.arange(first_id, first_id + len(table)),
        labels=_to_labels(entry, table, names),
        texts=None if columns.text is None else [str(text) for text in table[columns.text]],
        text_pairs=None
        if columns.text_pair is None
        else [str(text) for text in table[columns.text_pair]],
        images=None if columns.image is None else _DecodedImages(table, columns.image),
    )


def _to_labels(entry: DatasetEntry, table: datasets.Dataset, names: Sequence[str]) -> IntArray:
    """Return labels as class positions; ClassLabel columns hold them already."""
    values = table[entry.columns.label]
    if getattr(table.features[entry.columns.label], "names", None) is not None:
        return np.asarray(values, dtype=np.int64)
    position = {name: index for index, name in enumerate(names)}
    unknown = {str(value) for value in values} - position.keys() - {"-1"}
    if unknown:
        raise RunError(
            f"dataset {entry.name}: labels not seen in train: {', '.join(sorted(unknown)[:5])}"
        )
    return np.asarray([position.get(str(value), -1) for value in values], dtype=np.int64)


@dataclass(frozen=True)
class _DecodedImages:
    """An image column, decoded to RGB on access."""

    table: datasets.Dataset
    column: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Image:
        return np.asarray(self.table[index][self.column].convert("RGB"), dtype=np.uint8)
