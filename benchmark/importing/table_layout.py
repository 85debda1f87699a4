"""Which columns hold what: by the user's names, else by convention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmark.arrays import AnyArray, IntArray
from benchmark.importing.errors import SourceError
from benchmark.importing.layout import (
    PART_NAMES,
    SPLIT_NAMES,
    SPLITS,
    Layout,
    RawSplit,
    SplitName,
    normal,
    some,
)
from benchmark.importing.tables import TableFile
from benchmark.registry import did_you_mean

_NUMBERED = re.compile(r"^(?:(?:logits?|prob|probs|probability|score|class|p)[ _.]?)?(\d{1,9})$")
_PREFIXES = ("logit_", "logits_", "prob_", "probability_", "score_")
_NO_CLASS = {
    *("prediction", "predictions", "predicted", "pred", "preds", "y_pred", "argmax", "top1"),
    *("predicted_label", "predicted_class", "pred_label", "pred_class", "confidence", "conf"),
    *("max_prob", "max_probability", "correct", "is_correct", "fold", "index", "idx", "row"),
    *("loss", "nll", "entropy", "margin", "uncertainty", "weight", "sample_weight", "epoch"),
    *("split", *PART_NAMES["labels"], *PART_NAMES["ids"]),
}
"""What evaluation scripts write beside the logits."""


def table_splits(
    table: TableFile,
    role: SplitName | None,
    layout: Layout,
    label_names: tuple[str, ...] | None,
) -> tuple[list[tuple[SplitName, RawSplit]], list[str]]:
    """Return a table's splits and notes on the rows and columns that are left out.

    Raises:
        SourceError: a column is missing, or it cannot be told which columns are classes.
    """
    label = _label_column(table, layout)
    labels = table.values(label)
    split = _column(table, layout.split, ("split",))
    row_id = _column(table, layout.row_id, PART_NAMES["ids"])
    ignored = {table.require(name) for name in layout.ignored or ()}
    others = [n for n in table.names if n not in {label, split, row_id} | ignored]
    found = _logits(table, others, labels, layout, label_names)
    named = found.class_names is not None and (layout.logits, label_names) == (None, None)
    whole = RawSplit(
        path=table.path,
        logits=found.values,
        labels=labels,
        ids=None if row_id is None else table.values(row_id),
        rows=np.arange(table.n_rows),
        columns=found.columns,
        label_place=f"column '{label}'",
        id_place=f"column '{row_id}'",
        class_names=found.class_names,
        named_columns=named,
    )
    left_out = [name for name in others if name not in found.columns and name != found.whole]
    notes = []
    if left_out:
        notes.append(
            f"{table.path.name}: columns that are no classes were left out: {some(left_out)}"
            + ("" if layout.logits else " (--logit-columns or --ignore-columns chooses others)")
        )
    if split is None:
        return [(role or "test", whole)], notes
    parts, rows = _by_split_column(whole, table.values(split).astype(np.str_), role, layout, split)
    return parts, notes + rows


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
            f"split; it has {some(np.unique(values).tolist())}. Say what they are called with "
            "--calibration-value and --test-value"
        )
    return found, notes


def _split_called(value: str, layout: Layout) -> SplitName | None:
    for split in SPLITS:
        given = layout.split_values.get(split)
        if value == given or (given is None and normal(value) in SPLIT_NAMES[split]):
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
    by_normal = {normal(name): name for name in reversed(table.names)}
    return next((by_normal[name] for name in conventional if name in by_normal), None)


def _label_column(table: TableFile, layout: Layout) -> str:
    """Return the column of true labels.

    Raises:
        SourceError: there is none, or there are two that do not say the same.
    """
    label = _column(table, layout.label, PART_NAMES["labels"])
    if label is None:
        raise SourceError(
            f"{table.path}: no column 'label' (it has {some(table.names)}); name it with "
            "--label-column"
        )
    if layout.label is not None:
        return label
    first = table.values(label)
    # A class may be called y.
    no_label = {
        label,
        *(layout.ignored or ()),
        *(first.tolist() if first.dtype.kind == "U" else ()),
    }
    for name in table.names:
        also = normal(name) in PART_NAMES["labels"] and name not in no_label
        if also and not _same_partition(first, table.values(name)):
            raise SourceError(
                f"{table.path}: columns '{label}' and '{name}' could both be the labels, and do "
                f"not say the same; which are true? --label-column {label} or "
                f"--label-column {name}"
            )
    return label


def _same_partition(first: AnyArray, second: AnyArray) -> bool:
    """Say whether two columns tell the same rows apart, as names and their positions do."""
    one, two = (np.unique(column, return_inverse=True)[1] for column in (first, second))
    pairs = np.unique(np.stack([one, two]), axis=1).shape[1]
    return bool(pairs == len(np.unique(one)) == len(np.unique(two)))


# --- columns of logits --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """Logits [n, K], their columns, and the classes' names if the columns carry them.

    `whole` is the column of lists that holds them all, if there is one.
    """

    values: AnyArray
    columns: tuple[str, ...]
    class_names: tuple[str, ...] | None
    whole: str | None = None


def _logits(
    table: TableFile,
    others: Sequence[str],
    labels: AnyArray,
    layout: Layout,
    label_names: tuple[str, ...] | None,
) -> _Found:
    lists = layout.logits if layout.logits is not None else ("logits",)
    if len(lists) == 1 and lists[0] in table.names:
        matrix = table.matrix(table.require(lists[0]))
        if matrix is not None:
            columns = tuple(f"{lists[0]}[{k}]" for k in range(matrix.shape[1]))
            return _Found(matrix, columns, None, lists[0])
    names, class_names = _logit_columns(table, others, labels, layout, label_names)
    if not names:
        raise SourceError(f"{table.path}: no columns of logits beside the labels")
    values = np.column_stack([table.numbers(name) for name in names])
    return _Found(values, tuple(names), class_names)


def _logit_columns(
    table: TableFile,
    others: Sequence[str],
    labels: AnyArray,
    layout: Layout,
    label_names: tuple[str, ...] | None,
) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the columns of logits in class order, and the names of their classes if known."""
    if layout.logits is not None:
        names = [table.require(name) for name in layout.logits]
        return names, None if _numbered(names) else tuple(_without_prefix(n) for n in names)
    prefixed = [name for name in others if name.lower().startswith(_PREFIXES)]
    by_class = _by_class(table, prefixed or others)
    if label_names is not None and set(label_names) <= set(by_class):
        return [by_class[name] for name in label_names], label_names
    numbered = _numbered(others)
    if numbered:
        return _in_order(table, numbered), None
    if label_names is not None and len(by_class) > 1:
        absent = next(name for name in label_names if name not in by_class)
        hint = did_you_mean(absent, by_class)
        raise SourceError(f"{table.path}: no column of logits for class '{absent}'{hint}")
    if layout.ignored is None and len(by_class) > 1:
        by_class = _classes_among(table, by_class, labels)
    return list(by_class.values()), tuple(by_class)


def _by_class(table: TableFile, names: Iterable[str]) -> dict[str, str]:
    """Return the columns by the class that each is named by.

    Raises:
        SourceError: two columns are named by one class.
    """
    by_class: dict[str, str] = {}
    for name in names:
        twin = by_class.setdefault(_without_prefix(name), name)
        if twin != name:
            raise _twice(table, twin, name)
    return by_class


def _classes_among(
    table: TableFile, by_class: Mapping[str, str], labels: AnyArray
) -> dict[str, str]:
    """Return the columns that are classes: without predictions, confidences and the like.

    Raises:
        SourceError: no label names some column that is left, so it may be something else.
    """
    texts = labels.dtype.kind == "U"
    used = set(labels.tolist())
    kept = {
        name: column
        for name, column in by_class.items()
        if normal(name) not in _NO_CLASS or (texts and name in used)
    }
    unused = [
        column
        for position, (name, column) in enumerate(kept.items())
        if (name if texts else position) not in used
    ]
    # Labels that name no column are another error, told where labels are read.
    if unused and (not texts or used <= set(kept)):
        raise _class_or_not(table, by_class, kept, unused, "no row has a label for")
    counts = [] if unused else _counts_among(table, list(kept.values()))
    if counts:
        raise _class_or_not(table, by_class, kept, counts, "whole numbers alone are in")
    return kept


def _counts_among(table: TableFile, columns: Sequence[str]) -> list[str]:
    """Return columns that hold counts, lengths or positions where others hold real numbers."""
    values = {column: table.numbers(column) for column in columns}
    whole = [
        column
        for column, numbers in values.items()
        if np.array_equal(numbers, np.floor(numbers)) and len(numbers) and numbers.min() >= 0
    ]
    return whole if len(whole) < len(columns) else []


def _class_or_not(
    table: TableFile,
    by_class: Mapping[str, str],
    kept: Mapping[str, str],
    doubtful: Sequence[str],
    why: str,
) -> SourceError:
    """Return the question whether columns are classes, with both answers."""
    aside = _set_aside(by_class, kept)
    certain = [column for column in kept.values() if column not in doubtful]
    return SourceError(
        f"{table.path}: {why} {_columns(doubtful)}; classes, or something else? If something "
        f"else: --ignore-columns {','.join([*doubtful, *aside])}. If classes: --ignore-columns "
        f"{','.join(aside) or 'none'}. (Other classes: {some(certain) or 'none'}.)"
    )


def _set_aside(by_class: Mapping[str, str], kept: Mapping[str, str]) -> list[str]:
    """Return the columns that are not kept."""
    return [column for name, column in by_class.items() if name not in kept]


def _columns(names: Sequence[str]) -> str:
    return f"column{'s' if len(names) > 1 else ''} {some(repr(name) for name in names)}"


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Return the columns named by class position: logit_0, logit_1, ... or 0, 1, ..."""
    matches = ((name, _NUMBERED.match(name.strip().lower())) for name in names)
    return {name: int(match[1]) for name, match in matches if match}


def _in_order(table: TableFile, numbered: Mapping[str, int]) -> list[str]:
    """Return the numbered columns by their number, which must be 0, 1, ..., K-1."""
    names = sorted(numbered, key=numbered.__getitem__)
    for position, name in enumerate(names):
        if position and numbered[name] == numbered[names[position - 1]]:
            raise _twice(table, names[position - 1], name)
        if numbered[name] != position:
            raise SourceError(
                f"{table.path}: the columns of logits should count 0, 1, ..., but where class "
                f"{position} should be there is '{name}'; name them all with --logit-columns"
            )
    return names


def _twice(table: TableFile, first: str, second: str) -> SourceError:
    return SourceError(
        f"{table.path}: columns '{first}' and '{second}' are of one class; choose with "
        "--logit-columns A,B,..., or leave some out with --ignore-columns A,B,..."
    )


def _without_prefix(name: str) -> str:
    prefix = next((p for p in _PREFIXES if name.lower().startswith(p)), "")
    return name[len(prefix) :]
