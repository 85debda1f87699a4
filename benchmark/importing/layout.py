"""Which arrays or columns of a source hold what: by the user's names, else by convention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from benchmark.arrays import AnyArray, IntArray
from benchmark.importing.source import ArrayFile, SourceError, TableFile
from benchmark.registry import did_you_mean

SplitName = Literal["calibration", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Part = Literal["logits", "labels", "ids"]

SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "calibration": ("calibration", "calib", "cal", "validation", "valid", "val", "dev"),
    "test": ("test", "eval", "evaluation"),
}
PART_NAMES: dict[Part, tuple[str, ...]] = {
    "logits": ("logits", "logit", "probabilities", "probs", "softmax"),
    "labels": ("labels", "label", "targets", "target", "y", "y_true"),
    "ids": ("ids", "id", "row_ids", "row_id"),
}
_CLASS_NAME_KEYS = ("label_names", "class_names", "classes")
_NUMBERED = re.compile(r"^(?:(?:logits?|prob|probs|probability|score|class|p)[ _.]?)?(\d{1,9})$")
_PREFIXES = ("logit_", "logits_", "prob_", "probability_", "score_")


@dataclass(frozen=True)
class Layout:
    """What the user says of the source's names; None or absent: found by convention.

    Attributes:
        keys: array names by (split, part).
        label: column of labels.
        split: column that says which split a row belongs to.
        row_id: column of row ids.
        logits: columns of logits, in class order.
        split_values: what the split column calls each split.
    """

    keys: Mapping[tuple[SplitName, Part], str] = field(default_factory=dict)
    label: str | None = None
    split: str | None = None
    row_id: str | None = None
    logits: tuple[str, ...] | None = None
    split_values: Mapping[SplitName, str] = field(default_factory=dict)

    def asks_for_columns(self) -> bool:
        """Say whether anything here applies to tables only."""
        named = (self.label, self.split, self.row_id, self.logits)
        return any(name is not None for name in named) or bool(self.split_values)


@dataclass(frozen=True)
class RawSplit:
    """One split as the source has it, with the words to say where a value stands.

    Attributes:
        path: the file.
        logits: [n, K] of any type, unchecked.
        labels: [n] class positions or names, unchecked.
        ids: [n] the source's row ids, or None.
        rows: [n] positions in the file, for messages.
        columns: K names, for messages.
        label_place: what holds the labels, for messages.
        id_place: what holds the ids, for messages.
        class_names: K names where the source has them.
        named_columns: the class names are those of the columns, whose order the user left open.
    """

    path: Path
    logits: AnyArray
    labels: AnyArray
    ids: AnyArray | None
    rows: IntArray
    columns: tuple[str, ...]
    label_place: str
    id_place: str = ""
    class_names: tuple[str, ...] | None = None
    named_columns: bool = False


Source = ArrayFile | TableFile


def find_splits(
    sources: Sequence[tuple[SplitName | None, Source]],
    layout: Layout,
    label_names: tuple[str, ...] | None,
) -> tuple[dict[SplitName, RawSplit], tuple[str, ...]]:
    """Return the splits that the sources hold, unchecked, and notes on what was left out.

    Args:
        sources: files, each with the one split that it is said to hold, or None.
        layout: what the user calls things.
        label_names: the classes' names in class order, if the user gave them.

    Raises:
        SourceError: something named is not there, or a split is in two places.
    """
    arrays = [(role, source) for role, source in sources if isinstance(source, ArrayFile)]
    tables = [(role, source) for role, source in sources if isinstance(source, TableFile)]
    if layout.keys and not arrays:
        raise SourceError("--calibration-logits and its like name arrays, but no file has arrays")
    if layout.asks_for_columns() and not tables:
        raise SourceError("--label-column and its like name columns, but no file is csv or parquet")
    found: list[tuple[SplitName, RawSplit]] = []
    notes: list[str] = []
    if arrays:
        found += _Arrays(arrays, layout, label_names).splits()
        if not found:
            names = _some(name for _, file in arrays for name in file.names)
            files = ", ".join(str(file.path) for _, file in arrays)
            raise SourceError(
                f"{files}: no logits found among {names}; name them with --test-logits, "
                "--test-labels, --calibration-logits and --calibration-labels"
            )
    for role, table in tables:
        parts, left_out = _table_splits(table, role, layout, label_names)
        found += parts
        notes += left_out
    splits: dict[SplitName, RawSplit] = {}
    for name, split in found:
        if name in splits:
            raise SourceError(
                f"{split.path} and {splits[name].path} both hold {name} rows; say which file is "
                "what with --calibration FILE and --test FILE"
            )
        splits[name] = split
    return splits, tuple(notes)


# --- arrays ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arrays:
    """The arrays of all array files together, by name."""

    files: Sequence[tuple[SplitName | None, ArrayFile]]
    layout: Layout
    label_names: tuple[str, ...] | None

    def splits(self) -> Iterator[tuple[SplitName, RawSplit]]:
        """Yield the splits whose logits are found."""
        for (_, part), name in self.layout.keys.items():
            if not any(name in file.names for _, file in self.files):
                names = [name for _, file in self.files for name in file.names]
                raise SourceError(
                    f"{self._all_files()}: no array '{name}' ({part}){did_you_mean(name, names)}"
                )
        for split in SPLITS:
            logits = self._find(split, "logits")
            if logits is not None:
                yield split, self._split(split, *logits)

    def _split(self, split: SplitName, file: ArrayFile, key: str) -> RawSplit:
        labels = self._find(split, "labels")
        if labels is None:
            raise SourceError(
                f"{file.path}: '{key}' has no labels beside it; name them with --{split}-labels "
                f"(the file has {', '.join(file.names)})"
            )
        ids = self._find(split, "ids")
        logits = file.read(key)
        if logits.ndim != 2:
            raise SourceError(
                f"{file.path}: array '{key}' has shape {_shape(logits)}; logits are [rows, classes]"
            )
        return RawSplit(
            path=file.path,
            logits=logits,
            labels=labels[0].read(labels[1]),
            ids=None if ids is None else ids[0].read(ids[1]),
            rows=np.arange(len(logits)),
            columns=tuple(f"{key}[:, {k}]" for k in range(logits.shape[1])),
            label_place=labels[1],
            id_place="" if ids is None else ids[1],
            class_names=self._class_names(),
        )

    def _find(self, split: SplitName, part: Part) -> tuple[ArrayFile, str] | None:
        """Return the file and key of a part: the user's, a conventional one, or a bare one."""
        files = [file for role, file in self.files if role in (None, split)]
        wanted = self.layout.keys.get((split, part))
        if wanted is not None:
            matches = [(file, wanted) for file in files if wanted in file.names]
            return self._only(matches, split, part)
        for alias in PART_NAMES[part]:
            matches = [(f, key) for f in files for key in f.names if _names(key, split, alias)]
            if matches:
                return self._only(matches, split, part)
        for alias in PART_NAMES[part]:
            matches = [
                (file, key)
                for role, file in self.files
                for key in file.names
                if role in ((split,) if split == "calibration" else (split, None))
                and _normal(key) == alias
            ]
            if matches:
                return self._only(matches, split, part)
        return None

    def _only(
        self, matches: Sequence[tuple[ArrayFile, str]], split: SplitName, part: Part
    ) -> tuple[ArrayFile, str] | None:
        if len(matches) > 1:
            shown = " and ".join(f"'{key}' in {file.path}" for file, key in matches[:2])
            raise SourceError(
                f"{shown} could both be the {part} of the {split} split; say which with "
                f"--{split}-{part} KEY, or give files with --calibration FILE and --test FILE"
            )
        return matches[0] if matches else None

    def _class_names(self) -> tuple[str, ...] | None:
        if self.label_names is not None:
            return self.label_names
        for _, file in self.files:
            for key in file.names:
                if _normal(key) in _CLASS_NAME_KEYS:
                    return tuple(str(name) for name in file.read(key).reshape(-1).tolist())
        return None

    def _all_files(self) -> str:
        return ", ".join(str(file.path) for _, file in self.files)


def _names(key: str, split: SplitName, alias: str) -> bool:
    """Say whether an array's name means a part of a split, as in val_logits or logits.val."""
    return any(_normal(key) in (f"{s}_{alias}", f"{alias}_{s}") for s in SPLIT_NAMES[split])


def _normal(name: str) -> str:
    return re.sub(r"[.\s/_-]+", "_", name.strip().lower())


def _shape(array: AnyArray) -> str:
    return f"[{', '.join(str(size) for size in array.shape)}]"


# --- tables ------------------------------------------------------------------------------------


def _table_splits(
    table: TableFile,
    role: SplitName | None,
    layout: Layout,
    label_names: tuple[str, ...] | None,
) -> tuple[list[tuple[SplitName, RawSplit]], list[str]]:
    """Return a table's splits and notes on the rows that belong to none."""
    label = _column(table, layout.label, PART_NAMES["labels"])
    if label is None:
        raise SourceError(
            f"{table.path}: no column 'label' (it has {_some(table.names)}); name it with "
            "--label-column"
        )
    split = _column(table, layout.split, ("split",))
    row_id = _column(table, layout.row_id, PART_NAMES["ids"])
    others = [name for name in table.names if name not in (label, split, row_id)]
    logits, columns, class_names = _logits(table, others, layout, label_names)
    whole = RawSplit(
        path=table.path,
        logits=logits,
        labels=table.values(label),
        ids=None if row_id is None else table.values(row_id),
        rows=np.arange(table.n_rows),
        columns=columns,
        label_place=f"column '{label}'",
        id_place=f"column '{row_id}'",
        class_names=class_names,
        named_columns=class_names is not None and (layout.logits, label_names) == (None, None),
    )
    if split is None:
        return [(role or "test", whole)], []
    return _by_split_column(whole, table.values(split).astype(np.str_), role, layout, split)


def _by_split_column(
    whole: RawSplit, values: AnyArray, role: SplitName | None, layout: Layout, column: str
) -> tuple[list[tuple[SplitName, RawSplit]], list[str]]:
    found: list[tuple[SplitName, RawSplit]] = []
    notes = []
    for value in np.unique(values):
        split = _split_called(str(value), layout)
        chosen = np.flatnonzero(values == value)
        if split is None or role not in (None, split):
            notes.append(f"{whole.path}: {len(chosen):,} rows of split '{value}' were left out")
        elif any(name == split for name, _ in found):
            raise SourceError(
                f"{whole.path}: column '{column}' has several names for the {split} split; say "
                f"which with --{split}-value"
            )
        else:
            found.append((split, _take(whole, chosen)))
    if not found:
        raise SourceError(
            f"{whole.path}: column '{column}' has no rows of the {role or 'calibration or test'} "
            f"split; it has {_some(np.unique(values).tolist())}. Say what they are called with "
            "--calibration-value and --test-value"
        )
    return found, notes


def _split_called(value: str, layout: Layout) -> SplitName | None:
    for split in SPLITS:
        given = layout.split_values.get(split)
        if value == given or (given is None and _normal(value) in SPLIT_NAMES[split]):
            return split
    return None


def _take(whole: RawSplit, chosen: IntArray) -> RawSplit:
    return replace(
        whole,
        logits=whole.logits[chosen],
        labels=whole.labels[chosen],
        ids=None if whole.ids is None else whole.ids[chosen],
        rows=whole.rows[chosen],
    )


def _column(table: TableFile, given: str | None, conventional: Iterable[str]) -> str | None:
    if given is not None:
        return table.require(given)
    by_normal = {_normal(name): name for name in reversed(table.names)}
    return next((by_normal[name] for name in conventional if name in by_normal), None)


def _logits(
    table: TableFile, others: Sequence[str], layout: Layout, label_names: tuple[str, ...] | None
) -> tuple[AnyArray, tuple[str, ...], tuple[str, ...] | None]:
    """Return logits [n, K], the columns' names, and the classes' names if columns carry them."""
    lists = layout.logits if layout.logits is not None else ("logits",)
    if len(lists) == 1 and lists[0] in table.names:
        matrix = table.matrix(table.require(lists[0]))
        if matrix is not None:
            return matrix, tuple(f"{lists[0]}[{k}]" for k in range(matrix.shape[1])), None
    names, class_names = _logit_columns(table, others, layout, label_names)
    if not names:
        raise SourceError(f"{table.path}: no columns of logits beside the labels")
    return np.column_stack([table.numbers(name) for name in names]), tuple(names), class_names


def _logit_columns(
    table: TableFile, others: Sequence[str], layout: Layout, label_names: tuple[str, ...] | None
) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the columns of logits in class order, and the names of their classes if known."""
    if layout.logits is not None:
        names = [table.require(name) for name in layout.logits]
        return names, None if _numbered(names) else tuple(_without_prefix(n) for n in names)
    prefixed = [name for name in others if name.lower().startswith(_PREFIXES)]
    by_class = {_without_prefix(name): name for name in prefixed or others}
    if label_names is not None and set(label_names) <= set(by_class):
        return [by_class[name] for name in label_names], label_names
    numbered = _numbered(others)
    if numbered:
        return _in_order(table, numbered), None
    if label_names is None:
        return list(by_class.values()), tuple(by_class)
    absent = next(name for name in label_names if name not in by_class)
    hint = did_you_mean(absent, by_class)
    raise SourceError(f"{table.path}: no column of logits for class '{absent}'{hint}")


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Return the columns named by class position: logit_0, logit_1, ... or 0, 1, ..."""
    matches = ((name, _NUMBERED.match(name.strip().lower())) for name in names)
    return {name: int(match[1]) for name, match in matches if match}


def _in_order(table: TableFile, numbered: Mapping[str, int]) -> list[str]:
    """Return the numbered columns by their number, which must be 0, 1, ..., K-1."""
    names = sorted(numbered, key=numbered.__getitem__)
    for position, name in enumerate(names):
        if numbered[name] != position:
            raise SourceError(
                f"{table.path}: the columns of logits should count 0, 1, ..., but where class "
                f"{position} should be there is '{name}'; name them all with --logit-columns"
            )
    return names


def _without_prefix(name: str) -> str:
    prefix = next((p for p in _PREFIXES if name.lower().startswith(p)), "")
    return name[len(prefix) :]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(listed[:8]) + more
