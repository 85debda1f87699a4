"""A titled piece of the claim's result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmark.markup import Cell, Column, Table


class Passage(NamedTuple):
    """A titled piece of the result: sentences, then perhaps a table."""

    title: str
    sentences: tuple[str, ...]
    table: Table | None = None


def table_of(
    texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]
) -> Table | None:
    """Return a table with columns of text, then columns of numbers; None without rows."""
    columns = [Column(name, name, "left") for name in texts]
    columns += [Column(name, name) for name in numbers]
    cells = [tuple(Cell(text) for text in row) for row in rows]
    return Table(tuple(columns), cells) if cells else None
