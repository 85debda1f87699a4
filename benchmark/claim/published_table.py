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

from collections.abc import Mapping
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
    """Where each fact of a model stands. `accuracy` and `test_error` are fractions of 1."""

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
    try:
        source = pd.read_csv(table)
    except (OSError, ValueError) as error:
        raise ClaimError(f"{table}: cannot be read as CSV: {error}") from None
    if source.empty:
        raise ClaimError(f"{table}: has no rows")
    reader = _Reader(source, table)
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
            frame[f"{TABLE_METRIC}_{map_name}"] = reader.numbers(fact, minimum=0)
    frame["accuracy_none"] = _accuracies(reader, facts)
    frame["n"] = reader.numbers(facts.test_rows, minimum=1)
    return _with_status(frame, reader, mapping)


def _accuracies(reader: _Reader, facts: TableColumns) -> np.ndarray:
    values = (
        reader.numbers(facts.accuracy, minimum=0)
        if facts.test_error is None
        else 1 - reader.numbers(facts.test_error, minimum=0)
    )
    if np.nanmax(values, initial=0.0) > 1 or np.nanmin(values, initial=1.0) < 0:
        raise ClaimError(
            f"{reader.path}: accuracy and test_error are fractions of 1, not percentages;"
            " divide the column by 100"
        )
    return values


def _with_status(frame: pd.DataFrame, reader: _Reader, mapping: ColumnMap) -> pd.DataFrame:
    frame["suite"], frame["split"], frame["shifted"] = "table", "test", False
    frame["status"], frame["reason"] = "completed", ""
    repeats = frame.groupby(["model", "dataset"]).cumcount()
    # Rows of one model on one dataset are its seeds.
    frame["seed"] = repeats
    outcomes = [name for name in frame.columns if str(name).startswith(TABLE_METRIC)]
    missing = frame[outcomes].isna().all(axis=1)
    frame.loc[missing, ["status", "reason"]] = ["skipped", "no calibration error in the table"]
    for rule in mapping.drop:
        frame.loc[reader.matches(rule), ["status", "reason"]] = ["skipped", rule.reason]
    return frame


class _Reader:
    """Reads facts from a table and says what is wrong with a value, and where."""

    def __init__(self, source: pd.DataFrame, path: Path) -> None:
        self.source, self.path = source, path

    def column(self, name: str) -> pd.Series[Any]:
        if name not in self.source.columns:
            hint = did_you_mean(name, self.source.columns)
            raise ClaimError(f"{self.path}: has no column '{name}'{hint}")
        return self.source[name]

    def values(self, fact: str | ByRule | Constant | None) -> list[Any]:
        if fact is None:
            return [None] * len(self.source)
        if isinstance(fact, Constant):
            return [fact.value] * len(self.source)
        if isinstance(fact, str):
            column = self.column(fact).astype(object)
            return [None if value != value else value for value in column]
        return [_first_match(str(text), fact.rules) for text in self.column(fact.source)]

    def texts(self, fact: str | ByRule | Constant) -> list[str]:
        values = self.values(fact)
        for row, value in enumerate(values):
            if value is None:
                raise ClaimError(f"{self.path}, line {row + 2}: {_name(fact)} is missing")
        return [str(value) for value in values]

    def mixers(self, fact: str | ByRule | Constant) -> list[str]:
        values = self.texts(fact)
        known = get_args(Mixer)
        for row, value in enumerate(values):
            if value not in known:
                hint = did_you_mean(value, known)
                raise ClaimError(f"{self.path}, line {row + 2}: unknown mixer '{value}'{hint}")
        return values

    def numbers(self, fact: str | ByRule | Constant | None, minimum: float) -> np.ndarray:
        numbers = np.full(len(self.source), np.nan)
        for row, value in enumerate(self.values(fact)):
            if value is None:
                continue
            try:
                numbers[row] = float(value)
            except (TypeError, ValueError):
                raise ClaimError(
                    f"{self.path}, line {row + 2}: {_name(fact)} is '{value}', not a number"
                ) from None
            if numbers[row] < minimum:
                raise ClaimError(
                    f"{self.path}, line {row + 2}: {_name(fact)} is {value}, below {minimum:g}"
                )
        return numbers

    def flags(self, fact: str | ByRule | Constant | None) -> list[bool | None]:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        flags: list[bool | None] = []
        for row, value in enumerate(self.values(fact)):
            word = str(value).lower().removesuffix(".0")
            if value is not None and word not in words:
                raise ClaimError(
                    f"{self.path}, line {row + 2}: {_name(fact)} is '{value}', not true or false"
                )
            flags.append(None if value is None else words[word])
        return flags

    def matches(self, rule: DropRule) -> np.ndarray:
        column = self.column(rule.column)
        matched = np.zeros(len(column), dtype=bool)
        if "equals" in rule.model_fields_set:
            matched |= (column == rule.equals).to_numpy(dtype=bool)
        if rule.above is not None:
            matched |= (column > rule.above).to_numpy(dtype=bool)
        if rule.below is not None:
            matched |= (column < rule.below).to_numpy(dtype=bool)
        return matched


def _first_match(text: str, rules: Mapping[str, Value]) -> Value:
    return next((value for rule, value in rules.items() if fnmatchcase(text, rule)), None)


def _name(fact: str | ByRule | Constant | None) -> str:
    if isinstance(fact, ByRule):
        return f"the rule on '{fact.source}'"
    return f"'{fact}'" if isinstance(fact, str) else "a constant"
