"""The YAML map that says where each fact of a published table stands.

Under `columns`, a fact is a column's name, or

    accuracy: {column: top1, percent: true}                               a percentage
    mixer: {from: model, rules: {"vit*": attention, "*": convolution}}    the first match counts
    dataset: {value: ImageNet}                                            the same everywhere

`from` names a column, or `model` or `family` as the map itself gives them. `drop` lists rules for
rows to leave out, which are counted and listed:

    drop:
      - {column: temperature, above: 100, reason: the fit ran away}
      - {column: temperature, equals: 1.5, reason: the optimiser never left its start}

With `bins` and the fact `test_rows` the errors are taken to be known only as well as that many rows
and bins allow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from benchmark.claim.data import ClaimError
from benchmark.registry import did_you_mean

Value = str | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FromColumn(_Strict):
    """A column; `percent` where it holds percentages, which are divided by 100."""

    column: str
    percent: bool = False


class ByRule(_Strict):
    """A fact decided by the first pattern that another column's value matches."""

    source: str = Field(alias="from")
    rules: dict[str, Value]


class Constant(_Strict):
    """A fact that is the same for all rows."""

    value: Value


Fact = Annotated[str | FromColumn | ByRule | Constant, Field(union_mode="left_to_right")]


class TableColumns(_Strict):
    """Where each fact of a model stands. Errors and accuracies are fractions of 1, or percent."""

    model: Fact
    family: Fact
    mixer: Fact
    error_before: Fact | None = None
    error_after: Fact | None = None
    dataset: Fact | None = None
    accuracy: Fact | None = None
    test_error: Fact | None = None
    temperature: Fact | None = None
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
    """The whole map: what is where, and what to leave out.

    Attributes:
        title: what the table is, for headings.
        name: of the report's folder; the table's file name where it is empty.
        source: who published the table and where, for the report's head.
        error: the published calibration error in words, such as "ECE, 15 equal-width bins".
        bins: how many bins that error has; None: not known, or it has none.
        columns: where the facts stand.
        drop: rules for rows to leave out.
    """

    title: str = ""
    name: str = ""
    source: str = ""
    error: str = ""
    bins: int | None = Field(default=None, ge=1)
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
