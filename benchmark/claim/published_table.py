"""A published table of models, without logits, as a frame that the claim can be tested on.

A YAML map says where each fact stands. Under `columns`, a fact is a column's name, or

    mixer: {from: model, rules: {"vit*": attention, "*": convolution}}   the first match counts
    dataset: {value: ImageNet}                                            the same everywhere

and `drop` lists rules for rows to leave out, which are counted and listed:

    drop:
      - {column: temperature, above: 100, reason: the fit ran away}
      - {column: temperature, equals: 1.5, reason: the optimiser never left its start}
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from benchmark.claim.data import ClaimError
from benchmark.registry import Mixer, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

TABLE_METRIC = "calibration_error"

MISSING = frozenset(("", "-", "\u2013", "\u2014", "na", "n/a", "nan", "none", "null", "?"))
"""What stands in a cell without a value, in small letters."""

Value = str | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ByRule(_Strict):
    """A fact decided by the first pattern that another column's value matches."""

    source: str = Field(alias="from")
    rules: dict[str, Value]


class Constant(_Strict):
    """A fact that is the same for all rows."""

    value: Value


Fact = Annotated[str | ByRule | Constant, Field(union_mode="left_to_right")]


class TableColumns(_Strict):
    """Where each fact of a model stands. Errors and accuracies are fractions of 1."""

    model: Fact
    family: Fact
    mixer: Fact
    error_before: Fact | None = None
    error_after: Fact | None = None
    dataset: Fact | None = None
    accuracy: Fact | None = None
    test_error: Fact | None = None
    parameters: Fact | None = None
    pretraining_examples: Fact | None = None
    label_smoothing: Fact | None = None
    mixup: Fact | None = None
    distillation: Fact | None = None
    test_rows: Fact | None = None

    @model_validator(mode="after")
    def _has_an_outcome(self) -> Self:
        if self.error_before is None and self.error_after is None:
            raise ValueError("name the calibration error: error_before, error_after or both")
        if self.accuracy is not None and self.test_error is not None:
            raise ValueError("give accuracy or test_error, not both")
        return self


class DropRule(_Strict):
    """Rows to leave out: where a column equals a value, or is above or below one."""

    column: str
    equals: Value = None
    above: float | None = None
    below: float | None = None
    reason: str

    @model_validator(mode="after")
    def _has_one_condition(self) -> Self:
        if not {"equals", "above", "below"} & self.model_fields_set:
            raise ValueError("a drop rule needs 'equals', 'above' or 'below'")
        return self


class ColumnMap(_Strict):
    """The whole map: what is where, and what to leave out."""

    title: str = ""
    columns: TableColumns
    drop: tuple[DropRule, ...] = ()


def read_column_map(path: Path) -> ColumnMap:
    """Read a map.

    Raises:
        ClaimError: the file is missing or is not a valid map; the message says where.
    """
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        return ColumnMap.model_validate(tree)
    except (OSError, UnicodeDecodeError) as error:
        raise ClaimError(f"{path}: cannot be read: {error}") from None
    except YAMLError as error:
        raise ClaimError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(_describe(detail) for detail in error.errors())
        raise ClaimError(f"{path}: {problems}") from None


def _describe(detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = TableColumns.model_fields if "columns" in location else ColumnMap.model_fields
        message = f"unknown key '{location[-1]}'{did_you_mean(location[-1], known)}"
    return f"{'.'.join(location) or 'map'}: {message}"


def read_table(table: Path, columns: Path) -> pd.DataFrame:
    """Return a published table in the shape of `results.load_results`.

    Rows that a drop rule matches, or that lack a calibration error, have a status other than
    completed, so that they are listed and never used.

    Raises:
        ClaimError: a file cannot be read, a column is missing or a value has the wrong type.
    """
    import pandas as pd

    mapping = read_column_map(columns)
    reader = _Table.read(table)
    facts = mapping.columns
    frame = pd.DataFrame(
        {
            "model": reader.texts(facts.model),
            "family": reader.texts(facts.family),
            "mixer": reader.mixers(facts.mixer),
            "dataset": reader.texts(facts.dataset or Constant(value="table")),
        }
    )
    for name in ("parameters", "pretraining_examples"):
        frame[name] = reader.numbers(getattr(facts, name), minimum=0)
    for name in ("label_smoothing", "mixup", "distillation"):
        frame[name] = reader.flags(getattr(facts, name))
    for map_name, fact in (("none", facts.error_before), ("temperature", facts.error_after)):
        if fact is not None:
            frame[f"{TABLE_METRIC}_{map_name}"] = reader.fractions(fact)
    frame["accuracy_none"] = (
        reader.fractions(facts.accuracy)
        if facts.test_error is None
        else 1 - reader.fractions(facts.test_error)
    )
    frame["n"] = reader.numbers(facts.test_rows, minimum=1)
    return _with_status(frame, reader, mapping)


def _with_status(frame: pd.DataFrame, table: _Table, mapping: ColumnMap) -> pd.DataFrame:
    frame["suite"], frame["split"], frame["shifted"] = "table", "test", False
    frame["status"], frame["reason"] = "completed", ""
    repeats = frame.groupby(["model", "dataset"]).cumcount()
    # Rows of one model on one dataset are its seeds.
    frame["seed"] = repeats
    outcomes = [name for name in frame.columns if str(name).startswith(TABLE_METRIC)]
    missing = frame[outcomes].isna().all(axis=1)
    frame.loc[missing, ["status", "reason"]] = ["skipped", "no calibration error in the table"]
    for rule in mapping.drop:
        frame.loc[table.matches(rule), ["status", "reason"]] = ["skipped", rule.reason]
    return frame


@dataclass(frozen=True)
class _Table:
    """Reads facts from a table and says what is wrong with a value, and where.

    Cells are texts, whatever stands in other rows; None where there is no value.

    Attributes:
        path: of the file.
        cells: column: its cells.
        lines: of the file, from 1, at which the rows begin.
    """

    path: Path
    cells: dict[str, list[str | None]]
    lines: list[int]

    @classmethod
    def read(cls, path: Path) -> _Table:
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
        if name not in self.cells:
            hint = did_you_mean(name, self.cells)
            raise ClaimError(f"{self.path}: has no column '{name}'{hint}")
        return self.cells[name]

    def fail(self, row: int | np.integer[Any], text: str) -> ClaimError:
        return ClaimError(f"{self.path}, line {self.lines[row]}: {text}")

    def values(self, fact: str | ByRule | Constant | None) -> list[Value]:
        if fact is None:
            return [None] * len(self.lines)
        if isinstance(fact, Constant):
            return [fact.value] * len(self.lines)
        if isinstance(fact, str):
            return [*self.column(fact)]
        return [_first_match(text, fact.rules) for text in self.column(fact.source)]

    def texts(self, fact: str | ByRule | Constant) -> list[str]:
        values = self.values(fact)
        for row, value in enumerate(values):
            if value is None:
                raise self.fail(row, f"{_name(fact)} is missing")
        return [str(value) for value in values]

    def mixers(self, fact: str | ByRule | Constant) -> list[str]:
        values = self.texts(fact)
        known = get_args(Mixer)
        for row, value in enumerate(values):
            if value not in known:
                raise self.fail(row, f"unknown mixer '{value}'{did_you_mean(value, known)}")
        return values

    def numbers(self, fact: str | ByRule | Constant | None, minimum: float) -> np.ndarray:
        numbers = self._numbers(self.values(fact), _name(fact))
        for row in np.flatnonzero(numbers < minimum):
            raise self.fail(row, f"{_name(fact)} is {numbers[row]:g}, below {minimum:g}")
        return numbers

    def fractions(self, fact: str | ByRule | Constant | None) -> np.ndarray:
        """Return numbers from 0 to 1; a percentage among them would pass for a huge error."""
        numbers = self.numbers(fact, minimum=0)
        above = np.flatnonzero(numbers > 1)
        if len(above):
            count = int((~np.isnan(numbers)).sum())
            raise self.fail(
                above[0],
                f"{_name(fact)} is {numbers[above[0]]:g}, and {len(above)} of {count} values are "
                "above 1; errors and accuracies are fractions of 1, not percentages: divide "
                + ("the column by 100" if len(above) == count else "those rows by 100"),
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

    def flags(self, fact: str | ByRule | Constant | None) -> list[bool | None]:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        flags: list[bool | None] = []
        for row, value in enumerate(self.values(fact)):
            word = str(value).lower().removesuffix(".0")
            if value is not None and word not in words:
                raise self.fail(row, f"{_name(fact)} is '{value}', not true or false")
            flags.append(None if value is None else words[word])
        return flags

    def matches(self, rule: DropRule) -> np.ndarray:
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


def _name(fact: str | ByRule | Constant | None) -> str:
    if isinstance(fact, ByRule):
        return f"the rule on '{fact.source}'"
    return f"'{fact}'" if isinstance(fact, str) else "a constant"
