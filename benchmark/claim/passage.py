"""A titled piece of the claim's result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmark.markup import MISSING, Cell, Column, Table


class Passage(NamedTuple):
    """A titled piece of the result: sentences, then perhaps a table."""

    title: str
    sentences: tuple[str, ...]
    table: Table | None = None


def table_of(
    texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]
) -> Table | None:
    """Return a table with columns of text, then columns of numbers; None without rows.

    A column in which no row says anything is left out.
    """
    lines = list(rows)
    columns = [Column(name, name, "left") for name in texts]
    columns += [Column(name, name) for name in numbers]
    kept = [i for i in range(len(columns)) if any(line[i] not in ("", MISSING) for line in lines)]
    cells = [tuple(Cell(line[i]) for i in kept) for line in lines]
    return Table(tuple(columns[i] for i in kept), cells) if cells else None
