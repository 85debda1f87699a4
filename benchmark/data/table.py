"""One source split as it was read: its columns, and where each row stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.failures import RunError
from benchmark.registry import did_you_mean

_SHOWN_COLUMNS = 12
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Table:
    """The rows of one file, or of one split of a source that is no file.

    Attributes:
        source: how messages call it, such as `train.csv` or `split 'train'`.
        columns: name: one value per row. Values may be read on access.
        folder: what relative paths among the values are relative to.
        class_names: of columns that hold positions in a list of classes: that list.
        typed: whether the format tells numbers from words; csv does not.
        notes: what was left aside when it was read.
    """

    source: str
    columns: Mapping[str, Sequence[Any]]
    folder: Path | None = None
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    typed: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return min(map(len, self.columns.values()), default=0)

    def column(self, name: str) -> Sequence[Any]:
        """Return a column.

        Raises:
            RunError: the table has no such column.
        """
        if name not in self.columns:
            raise RunError(f"{self.source} has no column '{name}'{_hint(name, list(self.columns))}")
        return self.columns[name]

    def at(self, row: int, column: str) -> str:
        """Return where a value stands, rows counted from 1: "train.csv, row 3, column 'label'"."""
        return f"{self.source}, row {row + 1}, column '{column}'"


def _hint(name: str, known: Sequence[str]) -> str:
    if len(known) <= _SHOWN_COLUMNS:
        return did_you_mean(name, map(shown, known))
    hint = did_you_mean(name, known)
    if hint.startswith(","):
        return hint
    return f"; known: {', '.join(map(shown, known[:_SHOWN_COLUMNS]))}, ... ({len(known)} columns)"


def shown(value: object) -> str:
    """Return a value as messages show it: on one line, and not too long."""
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def listed(values: Sequence[object], most: int = 5) -> str:
    """Return the first values, each in quotes, and how many more there are."""
    text = ", ".join(f"'{shown(value)}'" for value in values[:most])
    return text if len(values) <= most else f"{text} and {len(values) - most:,} more"
