"""The cells of a published table, and the facts that a map reads from them.

What is wrong with a cell is said with its line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmark.claim.data import ClaimError
from benchmark.claim.table_map import ByRule, Constant, DropRule, FromColumn, Value
from benchmark.registry import Mixer, did_you_mean

MISSING = frozenset(("", "-", "\u2013", "\u2014", "na", "n/a", "nan", "none", "null", "?"))
"""What stands in a cell without a value, in small letters."""
MOST_LISTED = 8
"""Values that a message lists."""

AnyFact = str | FromColumn | ByRule | Constant


@dataclass(frozen=True)
class TableCells:
    """Reads facts from a table and says what is wrong with a value, and where.

    Cells are texts, whatever stands in other rows; None where there is no value.

    Attributes:
        path: of the file.
        cells: column: its cells.
        lines: of the file, from 1, at which the rows begin.
        facts: what the map has said so far, by name, for rules that go by it.
    """

    path: Path
    cells: dict[str, list[str | None]]
    lines: list[int]
    facts: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TableCells:
        """Read a file with a header; its separator is the one that the header has most of."""
        try:
            text = path.read_text(encoding="utf-8-sig")
            header, *rows = _rows(text) or [(1, [])]
        except (OSError, ValueError, csv.Error) as error:
            raise ClaimError(f"{path}: cannot be read as CSV: {error}") from None
        names = header[1]
        if not rows:
            raise ClaimError(f"{path}: has no rows")
        for line, row in rows:
            if len(row) < len(names) or any(row[len(names) :]):
                raise ClaimError(
                    f"{path}, line {line}: has {len(row)} cells, but the header has {len(names)}"
                )
        twice = {name for name in names if name and names.count(name) > 1}
        if twice:
            raise ClaimError(f"{path}: the column '{min(twice)}' stands twice; rename one")
        columns = zip(*(row[: len(names)] for _, row in rows), strict=True)
        cells = {
            name: [None if cell.lower() in MISSING else cell for cell in column]
            for name, column in zip(names, columns, strict=True)
        }
        return cls(path, cells, [line for line, _ in rows])

    def column(self, name: str) -> list[str | None]:
        """Return the cells of a column; None where there is no value."""
        if name not in self.cells:
            hint = did_you_mean(name, self.cells)
            raise ClaimError(f"{self.path}: has no column '{name}'{hint}")
        return self.cells[name]

    def fail(self, row: int | np.integer[Any], text: str) -> ClaimError:
        """Return an error that says at which line something is wrong."""
        return ClaimError(f"{self.path}, line {self.lines[row]}: {text}")

    def sources(self, name: str) -> Sequence[str | None]:
        """Return what rules go by: a column, else a fact of the map."""
        if name in self.cells or name not in self.facts:
            return self.column(name)
        return self.facts[name]

    def values(self, fact: AnyFact | None) -> list[Value]:
        """Return what a fact says of each row; None where it says nothing."""
        if fact is None:
            return [None] * len(self.lines)
        if isinstance(fact, Constant):
            return [fact.value] * len(self.lines)
        if isinstance(fact, ByRule):
            return [_first_match(text, fact.rules) for text in self.sources(fact.source)]
        return [*self.column(fact if isinstance(fact, str) else fact.column)]

    def texts(self, fact: AnyFact) -> list[str]:
        """Return a fact that every row must have."""
        values = self.values(fact)
        if isinstance(fact, ByRule):
            self._check_rules(fact, values)
        for row, value in enumerate(values):
            if value is None:
                raise self.fail(row, f"{_name(fact)} is missing")
        return [str(value) for value in values]

    def _check_rules(self, fact: ByRule, values: Sequence[Value]) -> None:
        """Refuse values that no rule matches: which rule they lack is for the map to say."""
        first: dict[str, int] = {}
        for row, (text, value) in enumerate(zip(self.sources(fact.source), values, strict=True)):
            if text is not None and value is None:
                first.setdefault(text, row)
        if not first:
            return
        listed = [f"'{text}' (line {self.lines[row]})" for text, row in first.items()]
        rest = len(listed) - MOST_LISTED
        more = f" and {rest} more" if rest > 0 else ""
        raise ClaimError(
            f"{self.path}: no rule on '{fact.source}' matches {', '.join(listed[:MOST_LISTED])}"
            f"{more}; add a rule for each, or '*' for all others"
        )

    def mixers(self, fact: AnyFact) -> list[str]:
        """Return the mixer of every row, of those that the benchmark knows."""
        values = self.texts(fact)
        known = get_args(Mixer)
        for row, value in enumerate(values):
            if value not in known:
                raise self.fail(row, f"unknown mixer '{value}'{did_you_mean(value, known)}")
        return values

    def numbers(self, fact: AnyFact | None, minimum: float) -> np.ndarray:
        """Return numbers from `minimum` up [rows]; NaN where there is none."""
        numbers = self._numbers(self.values(fact), _name(fact))
        for row in np.flatnonzero(numbers < minimum):
            raise self.fail(row, f"{_name(fact)} is {numbers[row]:g}, below {minimum:g}")
        return numbers

    def fractions(self, fact: AnyFact | None) -> np.ndarray:
        """Return numbers from 0 to 1; an undeclared percentage would pass for a huge error."""
        numbers = self.numbers(fact, minimum=0)
        if isinstance(fact, FromColumn) and fact.percent:
            for row in np.flatnonzero(numbers > 100):
                raise self.fail(row, f"{_name(fact)} is {numbers[row]:g}, above 100 percent")
            return numbers / 100
        above = np.flatnonzero(numbers > 1)
        if len(above):
            count = int((~np.isnan(numbers)).sum())
            raise self.fail(
                above[0],
                f"{_name(fact)} is {numbers[above[0]]:g}, and {len(above)} of {count} values are "
                "above 1; errors and accuracies are fractions of 1, not percentages: "
                + (
                    "say so with {column: ..., percent: true}"
                    if len(above) == count
                    else "divide those rows by 100"
                ),
            )
        return numbers

    def _numbers(self, values: list[Value], name: str) -> np.ndarray:
        numbers = np.full(len(values), np.nan)
        for row, value in enumerate(values):
            if value is None:
                continue
            number = _number(value)
            if number is None:
                hint = "such as 0.042; leave the cell empty where there is none"
                raise self.fail(row, f"{name} is '{value}', not a number {hint}")
            numbers[row] = number
        return numbers

    def flags(self, fact: AnyFact | None) -> list[bool | None]:
        """Return what is true, false or unknown of each row."""
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        flags: list[bool | None] = []
        for row, value in enumerate(self.values(fact)):
            word = str(value).lower().removesuffix(".0")
            if value is not None and word not in words:
                raise self.fail(row, f"{_name(fact)} is '{value}', not true or false")
            flags.append(None if value is None else words[word])
        return flags

    def matches(self, rule: DropRule) -> np.ndarray:
        """Say which rows a rule leaves out [rows]."""
        column = self.column(rule.column)
        matched = np.zeros(len(column), dtype=bool)
        if "equals" in rule.model_fields_set:
            matched |= [_equals(cell, rule.equals) for cell in column]
        if rule.above is not None or rule.below is not None:
            numbers = self._numbers([*column], f"'{rule.column}', which a drop rule compares,")
            matched |= numbers > (math.inf if rule.above is None else rule.above)
            matched |= numbers < (-math.inf if rule.below is None else rule.below)
        return matched


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the line that it begins at."""
    lines = io.StringIO(text)
    header = next((line for line in text.split("\n") if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(",;\t", key=header.count), strict=True)
    rows, line = [], 1
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append((line, [cell.strip() for cell in row]))
        line = reader.line_num + 1
    return rows


def _number(value: Value) -> float | None:
    """Return a finite number, or None where the value is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _equals(cell: str | None, value: Value) -> bool:
    """Say whether a cell holds what a rule says: a number however it is written, or a word."""
    if cell is None or value is None:
        return cell is value
    if isinstance(value, bool):
        return cell.lower() == str(value).lower()
    return _number(cell) == value if isinstance(value, float | int) else cell == value


def _first_match(text: str | None, rules: Mapping[str, Value]) -> Value:
    if text is None:
        return None
    return next((value for rule, value in rules.items() if fnmatchcase(text, rule)), None)


def _name(fact: AnyFact | None) -> str:
    if isinstance(fact, ByRule):
        return f"the rule on '{fact.source}'"
    if isinstance(fact, FromColumn):
        return f"'{fact.column}'"
    return f"'{fact}'" if isinstance(fact, str) else "a constant"
