"""Text and image columns are checked for what they are: the first wrong value is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.arrays import BoolArray
from benchmark.data.images import BrokenImageError, ImageReading, read_pixels
from benchmark.data.rows import Image
from benchmark.data.table import Table, shown
from benchmark.failures import RunError

if TYPE_CHECKING:
    import datasets

_KINDS = {list: "a list", tuple: "a list", dict: "a structure", bool: "a truth value"}
_BATCH = 1000
_LINK = ("http://", "https://", "data:", "s3://", "gs://", "hf://")


@dataclass(frozen=True)
class ArrowColumn(Sequence[Any]):
    """A column of a `datasets` table, read on access, so that images need not fit in memory."""

    table: datasets.Dataset
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        return self.table[index][self.name]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.table.iter(_BATCH):
            yield from batch[self.name]

    def missing(self) -> BoolArray:
        """Say which rows are null, or hold neither the bytes of a file nor its path, bool [n]."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.table.data.column(self.name)
        null = np.asarray(pc.is_null(values))
        if not pa.types.is_struct(values.type):
            return null
        parts = [
            np.asarray(pc.is_null(pc.struct_field(values, name)))
            for name in ("bytes", "path")
            if values.type.get_field_index(name) >= 0
        ]
        return null | np.logical_and.reduce(parts) if parts else null


def read_texts(table: Table, column: str) -> list[str | None]:
    """Return a column as texts; None: there is none.

    A blank cell of a csv file is no text. Bytes are read as UTF-8.

    Raises:
        RunError: there is no such column, or a value is no text.
    """
    values = table.column(column)
    return [_text(table, column, row, value) for row, value in enumerate(values)]


def _text(table: Table, column: str, row: int, value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise RunError(f"{table.at(row, column)} holds bytes that are no UTF-8 text") from None
    if not isinstance(value, str):
        raise RunError(f"{table.at(row, column)} {_no_text(value)}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise RunError(
            f"{table.at(row, column)} holds half a character (a lone surrogate, "
            f"{ascii(value)[:40]}): it was cut or written wrongly"
        )
    return None if not table.typed and not value.strip() else value


def _no_text(value: object) -> str:
    kind = _KINDS.get(type(value), f"a value of type {type(value).__name__}")
    holds = f"holds {kind} ({shown(value)}), not a text"
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return f"{holds}: join its words, or name the column of the whole text"
    return f"{holds}: name another column, or write it as a text"


@dataclass(frozen=True)
class TableImages:
    """The image column of a table, decoded to RGB on access.

    A value is the bytes of an image file, its path (relative to the table's file), a structure of
    both as `datasets` writes it, or a table of pixels.
    """

    table: Table
    column: str
    reading: ImageReading

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Image:
        value = self.table.columns[self.column][index]
        try:
            content = _file_content(self.table, value)
            if isinstance(content, bytes | Path):
                return self.reading.read(content)
            return read_pixels(content, self.reading)
        except BrokenImageError as error:
            raise RunError(f"{self._name(index, value)}: {error}") from error

    def _name(self, index: int, value: Any) -> str:
        """Return the file of an image, or else its row."""
        path = value.get("path") if isinstance(value, dict) else value
        if not isinstance(path, str) or not path:
            return self.table.at(index, self.column)
        if Path(path).is_absolute():
            return shown_path(path)
        return f"{shown_path(path)} ({self.table.at(index, self.column)})"

    def missing(self) -> BoolArray:
        """Say which rows have no image, bool [n]."""
        values = self.table.column(self.column)
        if isinstance(values, ArrowColumn):
            return values.missing()
        return np.array([_is_missing(value) for value in values], dtype=bool)


def shown_path(path: str) -> str:
    """Return a path with its end, which says most, if it is too long."""
    return path if len(path) <= 120 else f"...{path[-117:]}"


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, dict):
        return value.get("bytes") is None and value.get("path") is None
    return isinstance(value, str) and not value.strip()


def _file_content(table: Table, value: Any) -> Any:
    """Return the bytes or the path of an image file, or what may be its pixels."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, str):
        return _image_path(table, value)
    if isinstance(value, bytes | list | np.ndarray):
        return value
    raise BrokenImageError(
        f"it holds {shown(value)}: an image is the bytes of a file, its path, or a table of pixels"
    )


def _image_path(table: Table, value: str) -> Path:
    if value.startswith(_LINK):
        raise BrokenImageError("it is a link: fetch the images, and name their files")
    path = Path(value.strip())
    if not path.is_absolute() and table.folder is None:
        raise BrokenImageError("it names a file that the data set does not bring along")
    path = path if table.folder is None else table.folder / path
    if path.is_dir():
        raise BrokenImageError("it names a folder, not an image")
    return path


def image_files(table: Table, column: str) -> list[Path]:
    """Return the files that an image column names, in order; none where it holds the images."""
    values = table.columns.get(column, ())
    if isinstance(values, ArrowColumn) or not all(
        isinstance(value, str) or _is_missing(value) for value in values
    ):
        return []
    paths = (Path(value.strip()) for value in values if isinstance(value, str) and value.strip())
    return [path if table.folder is None else table.folder / path for path in paths]


def check_images(images: TableImages, rows: Sequence[int]) -> None:
    """Decode the images of `rows`, so that a broken one shows before anything is trained.

    Raises:
        RunError: an image cannot be read; it is named, with the number of others.
    """

    def problem(row: int) -> RunError | None:
        try:
            images[row]
        except RunError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        problems = [error for error in pool.map(problem, rows) if error is not None]
    if problems:
        others = f" (and {len(problems) - 1:,} other images)" if len(problems) > 1 else ""
        raise RunError(f"{problems[0]}{others}")
