"""Values of a label column -> names of classes, matched by name between splits.

A row without a label is told from a class here and nowhere else. Words such as "None" are
classes where the other labels are words, and missing labels where the others are numbers.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np

from benchmark.arrays import IntArray
from benchmark.data.table import Table, listed, shown
from benchmark.failures import RunError

_MISSING = frozenset({"", "-", "-1", "-100", "nan"})
_MISSING_AMONG_NUMBERS = frozenset({"none", "na", "n/a", "#n/a", "<na>", "null", "nil", "?"})
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ROWS_THAT_TELL = 10
"""As many classes as rows are no classes; with fewer rows than this they may be."""


@dataclass(frozen=True)
class Labels:
    """The labels of one table.

    Attributes:
        table: where they were read.
        column: its label column.
        names: one class name per row; None: the row has no label.
        declared: the list of classes that the column's type holds, in its order.
        are_numbers: whether classes are put in the order of their numbers.
    """

    table: Table
    column: str
    names: Sequence[str | None]
    declared: tuple[str, ...] | None = None
    are_numbers: bool = False

    @property
    def present(self) -> set[str]:
        """The names of the classes that have a row."""
        return {name for name in self.names if name is not None}

    def first(self, name: str | None) -> str:
        """Return where the first row of a class stands."""
        return self.table.at(list(self.names).index(name), self.column)


def read_labels(table: Table, column: str, classes: Collection[str] = ()) -> Labels:
    """Return the class name of each row of a table.

    Args:
        table: the rows.
        column: its label column.
        classes: names that are classes whatever they look like.

    Raises:
        RunError: there is no such column, or it holds what is no class: lists, fractions, dates.
    """
    values = list(table.column(column))
    declared = table.class_names.get(column)
    if declared is not None:
        declared_names = [
            _declared_name(value, declared, partial(table.at, row, column))
            for row, value in enumerate(values)
        ]
        return Labels(table, column, declared_names, declared)
    if not table.typed:
        values = _typed(values, classes)
    by_value: dict[tuple[type, Any], str | None] = {}
    names: list[str | None] = []
    for row, value in enumerate(values):
        key = (type(value), value if isinstance(value, str | int | float | bytes) else repr(value))
        if key not in by_value:
            by_value[key] = _class_name(value, classes, partial(table.at, row, column))
        names.append(by_value[key])
    kinds = {kind for (kind, _), name in by_value.items() if name is not None}
    are_numbers = bool(kinds) and kinds <= {int, float, bool, Decimal}
    if _among_numbers(by_value.values()):
        names = [_unless_missing_among_numbers(name, classes) for name in names]
    return Labels(table, column, names, None, are_numbers)


def _declared_name(
    value: int | None, declared: Sequence[str], where: Callable[[], str]
) -> str | None:
    if value is None or value < 0:
        return None
    if value >= len(declared):
        raise RunError(
            f"{where()}: class {value}, but the column names {len(declared)} classes "
            f"(0 to {len(declared) - 1}): {listed(declared)}"
        )
    return declared[value]


def _typed(values: Sequence[str], classes: Collection[str]) -> list[Any]:
    """Return the words of a csv column as numbers if all that are labels are numbers."""
    words = {value.strip() for value in values}
    labels = {
        word
        for word in words
        if word in classes or word.casefold() not in _MISSING | _MISSING_AMONG_NUMBERS
    }
    if not labels or not all(_NUMBER.fullmatch(word) for word in labels):
        return list(values)
    return [_number(value.strip()) for value in values]


def _number(word: str) -> int | float | str:
    if _WHOLE.fullmatch(word):
        return int(word.partition(".")[0])
    return float(word) if _NUMBER.fullmatch(word) else word


def _class_name(value: Any, classes: Collection[str], where: Callable[[], str]) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        value = _decoded(value, where)
    if isinstance(value, float | Decimal):
        value = _whole(value, where)
    if not isinstance(value, str | int):
        raise RunError(
            f"{where()} holds {_kind(value)} ({shown(value)}): a label is one name or one whole "
            "number (rows of several labels cannot be used)"
        )
    name = str(value)
    missing = name not in classes and name.strip().casefold() in _MISSING
    return None if missing else name


def _decoded(value: bytes, where: Callable[[], str]) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise RunError(f"{where()} holds bytes that are no text ({value[:12]!r})") from None


def _whole(value: float | Decimal, where: Callable[[], str]) -> int:
    if not math.isfinite(value) or value != int(value):
        raise RunError(
            f"{where()} holds {value}: numbers with fractions are no classes; name another label "
            "column, or cut the numbers into classes first"
        )
    return int(value)


def _kind(value: object) -> str:
    kinds = {list: "a list", tuple: "a list", np.ndarray: "a list", dict: "a structure"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _among_numbers(names: Iterable[str | None]) -> bool:
    labels = [n for n in names if n is not None and n.casefold() not in _MISSING_AMONG_NUMBERS]
    return bool(labels) and all(_WHOLE.fullmatch(name) for name in labels)


def _unless_missing_among_numbers(name: str | None, classes: Collection[str]) -> str | None:
    missing = name is not None and name.strip().casefold() in _MISSING_AMONG_NUMBERS
    return None if missing and name not in classes else name


# --- classes of a dataset -----------------------------------------------------------------------


def class_list(
    base: Sequence[Labels], others: Sequence[Labels], classes: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the classes of a dataset in the order in which models number them.

    Args:
        base: the labels of the split that says what the classes are (the training split).
        others: the labels of the other splits, which must not know others.
        classes: all names in order, if the base is not to say so.

    Raises:
        RunError: there are fewer than two, they are as many as rows, two of them are written
            almost alike, or another split has a class that the base has not.
    """
    if classes:
        for labels in (*base, *others):
            unknown = sorted(labels.present - set(classes))
            if unknown:
                raise RunError(
                    f"{labels.first(unknown[0])}: labels that 'classes' does not list: "
                    f"{listed(unknown)}"
                )
        return tuple(classes)
    names = _names_in_order(base)
    _refuse_nothing_to_tell_apart(base, names)
    _refuse_lookalikes([*base, *others])
    for labels in others:
        unknown = sorted(labels.present - set(names))
        if unknown:
            raise RunError(_unknown_classes(labels, unknown, names))
    return names


def _refuse_nothing_to_tell_apart(base: Sequence[Labels], names: Sequence[str]) -> None:
    rows = sum(len(labels.names) for labels in base)
    if len(names) == rows > _ROWS_THAT_TELL:
        raise RunError(
            f"{base[0].table.source}: every row has a label of its own ({listed(names, 3)}): "
            f"is '{base[0].column}' the label column?"
        )
    if len(names) < 2:
        raise RunError(
            f"all rows of {base[0].table.source} are of one class ({listed(names)}): there is "
            "nothing to tell apart"
        )


def _names_in_order(base: Sequence[Labels]) -> tuple[str, ...]:
    declared = [labels.declared for labels in base]
    if all(names is not None for names in declared):
        return tuple(dict.fromkeys(name for names in declared for name in names or ()))
    names = set().union(*(labels.present for labels in base))
    if all(labels.are_numbers for labels in base):
        return tuple(sorted(names, key=lambda name: (_rank(name), name)))
    return tuple(sorted(names))


def _rank(name: str) -> int:
    return int(name) if _WHOLE.fullmatch(name) else 0  # False and True are in order as words


def _unknown_classes(labels: Labels, unknown: Sequence[str], names: Sequence[str]) -> str:
    text = (
        f"{labels.first(unknown[0])}: labels not seen in train: {listed(unknown)}; "
        f"train has {listed(names)}"
    )
    numbered = all(map(_WHOLE.fullmatch, names)) != all(map(_WHOLE.fullmatch, unknown))
    if numbered:
        return f"{text}: one split numbers its classes and the other names them; write them alike"
    return f"{text}; list all with classes: [...] if the model shall know a class it is not shown"


def _refuse_lookalikes(splits: Sequence[Labels]) -> None:
    """Refuse names that differ in white space or case only, unless the source declares both."""
    free = {name: labels for labels in splits if not labels.declared for name in labels.present}
    fixed = {name for labels in splits for name in labels.declared or ()}
    alike: dict[str, set[str]] = defaultdict(set)
    for name in fixed | free.keys():
        alike[_essence(name)].add(name)
    for names in alike.values():
        if len(names) > 1 and names & free.keys():
            first, second = sorted(names)[:2]
            odd = next(name for name in sorted(names, reverse=True) if name in free)
            raise RunError(
                f"{free[odd].first(odd)}: the labels {first!r} and {second!r} are probably one "
                "class: write them alike, or list both with classes: [...] if they are two"
            )


def _essence(name: str) -> str:
    visible = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join("".join(visible).casefold().split())


def class_positions(names: Iterable[str | None], classes: Sequence[str]) -> IntArray:
    """Return the position of each name among the classes, int64 [n]; -1: no label."""
    position: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    return np.fromiter((position.get(name, -1) for name in names), dtype=np.int64)
