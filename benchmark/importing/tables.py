"""Tables with one row per example: csv and parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.arrays import AnyArray
from benchmark.importing.errors import SourceError
from benchmark.registry import did_you_mean

_CSV_BLOCK = 16 << 20
"""Bytes parsed at a time; a row must fit."""

_DECIMAL_COMMA = r"^\s*[+-]?[0-9]+(,[0-9]+)?([eE][+-]?[0-9]+)?\s*$"
_THOUSANDS = r"^\s*[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+\s*$"


@dataclass(frozen=True)
class TableFile:
    """A table with one row per example. Cells of a csv file are texts until they are asked for."""

    path: Path
    columns: Mapping[str, Any]
    n_rows: int
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in the file's order."""
        return tuple(self.columns)

    def require(self, name: str) -> str:
        """Return `name` if there is such a column.

        Raises:
            SourceError: there is none.
        """
        if name not in self.columns:
            raise SourceError(f"{self.path}: no column '{name}'{did_you_mean(name, self.names)}")
        return name

    def matrix(self, name: str) -> AnyArray | None:
        """Return a column of lists as float64 [n, K], or None where it holds single values.

        Raises:
            SourceError: the lists differ in length or have empty entries.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.columns[name]
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)
                or pa.types.is_fixed_size_list(kind)):  # fmt: skip
            return None
        lengths = np.asarray(pc.list_value_length(column).fill_null(0).to_numpy())
        wrong = np.flatnonzero(lengths != lengths[:1].repeat(len(lengths)))
        if len(wrong):
            row = int(wrong[0])
            raise SourceError(
                f"{self.path}: row {row}, column '{name}': {lengths[row]} values, but row 0 has "
                f"{lengths[0]}; give every row one logit per class"
            )
        flat = pc.list_flatten(column).cast(pa.float64()).fill_null(np.nan).to_numpy()
        return np.asarray(flat).reshape(len(lengths), -1)

    def numbers(self, name: str) -> AnyArray:
        """Return a column as numbers [n], float64 where the file holds texts.

        Raises:
            SourceError: a cell is empty or not a number; the message names the first one.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _plain_texts(self.columns[name])
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise self._bad_cell(row, name, "", "the cell is empty")
        try:
            if pa.types.is_string(column.type):
                return np.asarray(pc.utf8_trim_whitespace(column).cast(pa.float64()).to_numpy())
            if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
                return np.asarray(column.to_numpy())
            return np.asarray(column.cast(pa.float64()).to_numpy())
        except pa.ArrowException:
            row, text = self._first_text(column)
            raise self._bad_cell(row, name, f"'{text}'", _no_number(text)) from None

    def values(self, name: str) -> AnyArray:
        """Return a column of labels, splits or ids [n]: integers, or texts where they are not.

        Raises:
            SourceError: a cell is empty or neither a whole number nor a text.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _plain_texts(self.columns[name])
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise SourceError(
                f"{self.path}: row {row}, column '{name}': the cell is empty; leave out rows "
                "without one"
            )
        if not pa.types.is_string(column.type):
            return self.numbers(name)
        texts = pc.utf8_trim_whitespace(column)
        # A frame that once had gaps is saved with labels such as 3.0.
        whole = pc.replace_substring_regex(texts, r"\.0+$", "")
        if pc.all(pc.match_substring_regex(whole, r"^-?(0|[1-9][0-9]{0,17})$")).as_py():
            return np.asarray(whole.cast(pa.int64()).to_numpy())
        return np.asarray(texts.to_pylist(), dtype=np.str_)

    def _bad_cell(self, row: int, name: str, shown: str, problem: str) -> SourceError:
        text = f"{self.path}: row {row}, column '{name}': {f'{shown} {problem}'.strip()}"
        return SourceError(
            f"{text}; if the column is no class, leave it out with --ignore-columns, or choose the "
            "columns of logits with --logit-columns"
        )

    @staticmethod
    def _first_text(column: Any) -> tuple[int, str]:
        for row, value in enumerate(column.to_pylist()):
            try:
                float(value)
            except (TypeError, ValueError):
                return row, str(value)[:40]
        return 0, str(column[0].as_py())[:40]


def read_csv(path: Path) -> TableFile:
    """Return a table whose cells are texts; commas, semicolons or tabs part them.

    Raises:
        SourceError: rows of different lengths, or several columns of one name.
    """
    import pyarrow as pa
    from pyarrow import csv

    delimiter, skipped = _delimiter(path)
    parse = csv.ParseOptions(delimiter=delimiter)
    # One thread, so that an error can name its row.
    read = csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK, skip_rows=skipped)
    try:
        with csv.open_csv(path, read, parse) as reader:
            names = reader.schema.names
        _refuse_repeated(path, [name.strip() for name in names])
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        )
        table = csv.read_csv(path, read, parse, convert)
    except pa.ArrowInvalid as error:
        if delimiter == "," and "columns, got" in str(error):
            raise SourceError(
                f"{path}: cannot be read: {error}. If its numbers have decimal commas, part the "
                "columns with semicolons or tabs, or write the numbers with points"
            ) from None
        raise
    table = table.rename_columns([name.strip() for name in names])
    return _table(path, *_with_decimal_points(path, table))


def _delimiter(path: Path) -> tuple[str, int]:
    """Return what parts the columns, and how many lines come before the header.

    Spreadsheets may say what parts the columns in a first line `sep=;`.
    """
    with path.open("rb") as stream:
        header = stream.readline(1 << 20).decode("utf-8-sig", "replace")
    if header.startswith("sep=") and len(header.strip()) == len("sep=;"):
        return header[4], 1
    return max(",;\t", key=header.count), 0


def _no_number(text: str) -> str:
    """Return what is wrong with a text that is no number, and what may help."""
    if text.replace(",", "", 1).lstrip("+-").isdigit():
        return "is not a number (decimal commas are read where no number of the file has a point)"
    if text.endswith("%"):
        return "is not a number (take the signs off and say --values percentages)"
    if text.startswith("["):
        return "is a list written as text (save one column for each class, or parquet)"
    return "is not a number"


def read_parquet(path: Path) -> TableFile:
    """Return a table.

    Raises:
        SourceError: several columns have one name.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        _refuse_repeated(path, file.schema_arrow.names)
        table = file.read(use_threads=False)
    table.validate(full=True)  # texts that are no UTF-8 would only show up when they are used
    return _table(path, table)


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise SourceError(f"{path}: several columns are named '{min(repeated)}'; rename them")


def _with_decimal_points(path: Path, table: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the texts with decimal commas turned into points, where a comma means that.

    It does where a column holds nothing but numbers with at most one comma, and no column of
    numbers has a point. Digits in threes (1,234) may be thousands, so not all may be like that.

    Raises:
        SourceError: every comma could as well part thousands.
    """
    import pyarrow.compute as pc

    def every(column: Any, pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())

    texts = {name: table.column(name) for name in table.column_names}
    points = r"^\s*[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?\s*$"
    commas = {
        name: column
        for name, column in texts.items()
        if pc.any(pc.match_substring(column, ",")).as_py() and every(column, _DECIMAL_COMMA)
    }
    if not commas or any(every(column, points) for column in texts.values()):
        return table, ()
    if all(every(column, _THOUSANDS) for column in commas.values()):
        raise SourceError(
            f"{path}: numbers such as '{next(iter(commas.values()))[0]}' in column "
            f"'{next(iter(commas))}' may have a decimal comma or parted thousands; write them with "
            "a decimal point, or without the commas"
        )
    for name, column in commas.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pc.replace_substring(column, ",", "."))
    return table, (f"{path.name}: commas in numbers were read as decimal commas",)


def _table(path: Path, table: Any, notes: tuple[str, ...] = ()) -> TableFile:
    # What pandas adds when a frame is saved with its index is no logit.
    kept = [n for n in table.column_names if n not in ("", "Unnamed: 0", "__index_level_0__")]
    return TableFile(path, {name: table.column(name) for name in kept}, table.num_rows, notes)


def _plain_texts(column: Any) -> Any:
    """Return a column with dictionaries decoded and one type of text."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return column
