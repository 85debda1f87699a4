"""The words in which a source's content is named, by the user or by convention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from benchmark.arrays import AnyArray, IntArray

SplitName = Literal["calibration", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Part = Literal["logits", "labels", "ids"]

SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "calibration": ("calibration", "calib", "cal", "validation", "valid", "val", "dev"),
    "test": ("test", "eval", "evaluation"),
}
PART_NAMES: dict[Part, tuple[str, ...]] = {
    "logits": ("logits", "logit", "probabilities", "probs", "softmax", "predictions"),
    "labels": (
        *("labels", "label", "targets", "target", "y", "y_true"),
        *("label_ids", "true_label", "true_labels", "ground_truth", "gold"),
    ),
    "ids": ("ids", "id", "row_ids", "row_id"),
}
"""`predictions` and `label_ids` are the fields of a transformers `PredictionOutput`."""


@dataclass(frozen=True)
class Layout:
    """What the user says of the source's names; None or absent: found by convention.

    Attributes:
        keys: array names by (split, part).
        label: column of labels.
        split: column that says which split a row belongs to.
        row_id: column of row ids.
        logits: columns of logits, in class order.
        ignored: columns that are no class, all others being one; None: nobody said.
        split_values: what the split column calls each split.
    """

    keys: Mapping[tuple[SplitName, Part], str] = field(default_factory=dict)
    label: str | None = None
    split: str | None = None
    row_id: str | None = None
    logits: tuple[str, ...] | None = None
    ignored: tuple[str, ...] | None = None
    split_values: Mapping[SplitName, str] = field(default_factory=dict)

    def asks_for_columns(self) -> bool:
        """Say whether anything here applies to tables only."""
        named = (self.label, self.split, self.row_id, self.logits, self.ignored)
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
        array: the array of the logits, where they are one.
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
    array: str | None = None
    class_names: tuple[str, ...] | None = None
    named_columns: bool = False


def normal(name: str) -> str:
    """Return a name in lower case, with `_` for whatever stands between its words."""
    return re.sub(r"[.\s/_-]+", "_", name.strip().lower())


def some(names: Iterable[str]) -> str:
    """Return the first eight names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(listed[:8]) + more
