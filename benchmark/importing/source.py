"""Files of logits, told apart by their content -> named arrays or a table. Never unpickled."""

from __future__ import annotations

import codecs
import hashlib
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from benchmark.arrays import AnyArray
from benchmark.failures import first_line
from benchmark.registry import did_you_mean

Format = Literal["npz", "npy", "safetensors", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

_HEAD = 512
_CSV_BLOCK = 16 << 20
"""Bytes parsed at a time; a row must fit."""

_PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"}
_OTHER_FORMATS = {
    b"\x1f\x8b": "gzip-compressed; decompress it first",
    b"BZh": "bzip2-compressed; decompress it first",
    b"\xfd7zXZ": "xz-compressed; decompress it first",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed; decompress it first",
    b"\x89HDF": "an HDF5 file; save its arrays with numpy.savez",
    b"ARROW1": "an Arrow file; save the table as parquet",
    b"MATLAB": "a MATLAB file; save its arrays with numpy.savez",
}


class SourceError(ValueError):
    """A file of logits cannot be used; the message names file, row and column, and the fix."""


@dataclass(frozen=True)
class ArrayFile:
    """A file of named arrays, read one by one."""

    path: Path
    format: Format
    names: tuple[str, ...]

    def read(self, name: str) -> AnyArray:
        """Return one array.

        Raises:
            SourceError: it is pickled, damaged, or of a type that numpy does not have.
        """
        where = f"{self.path}: array '{name}'"
        with _reading(where):
            if self.format == "safetensors":
                return _read_tensor(self.path, name)
            if self.format == "npy":
                with self.path.open("rb") as stream:
                    return _read_npy(stream, where)
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as member:
                return _read_npy(member, where)


@dataclass(frozen=True)
class TableFile:
    """A table with one row per example. Cells of a csv file are texts until they are asked for."""

    path: Path
    columns: Mapping[str, Any]
    n_rows: int

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
            raise self._bad_cell(row, name, f"'{text}'", "is not a number") from None

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
            raise self._bad_cell(row, name, "", "the cell is empty")
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
        return SourceError(f"{text}; choose the columns of logits with --logit-columns")

    @staticmethod
    def _first_text(column: Any) -> tuple[int, str]:
        for row, value in enumerate(column.to_pylist()):
            try:
                float(value)
            except (TypeError, ValueError):
                return row, str(value)[:40]
        return 0, str(column[0].as_py())[:40]


def open_source(path: Path) -> ArrayFile | TableFile:
    """Open a file of logits in whatever format its content shows.

    Raises:
        SourceError: it is missing, pickled, damaged or of an unknown format.
    """
    with _reading(str(path)):
        kind = detect_format(path)
        if kind == "csv":
            return _read_csv(path)
        if kind == "parquet":
            return _read_parquet(path)
        return ArrayFile(path, kind, _array_names(path, kind))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        SourceError: the file cannot be read.
    """
    with _reading(str(path)), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Name the file in whatever a library raises on it: damaged files bring up anything."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{where}: no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise SourceError(f"{where}: {error.strerror}") from None
    except Exception as error:
        raise SourceError(
            f"{where}: cannot be read, the file seems damaged ({first_line(error)[:200]}); "
            "save it again"
        ) from None


# --- which format ------------------------------------------------------------------------------


def detect_format(path: Path) -> Format:
    """Return the format that a file's content shows, whatever its name.

    Raises:
        SourceError: the content is a pickle, or none of the formats that are read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        raise SourceError(f"{path}: the file is empty")
    if head.startswith(b"PK"):
        return _zip_format(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    if _is_safetensors(head, path.stat().st_size):
        return "safetensors"
    _refuse_other_formats(path, head)
    return "csv"


def _refuse_other_formats(path: Path, head: bytes) -> None:
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise SourceError(f"{path}: the content is {what}")
    if _is_pickle(path, head):
        raise _pickled(str(path))
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise SourceError(
            f"{path}: the suffix is that of a pickle, which is never read; if the content is a "
            "table, name it .csv"
        )
    if not _is_text(head):
        raise SourceError(
            f"{path}: unknown content; logits are read from {', '.join(FORMATS)} (csv in UTF-8)"
        )


def _zip_format(path: Path) -> Format:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        raise _pickled(str(path))
    if not names or not all(name.endswith(".npy") for name in names):
        raise SourceError(f"{path}: a zip archive, but not of numpy arrays (.npz)")
    return "npz"


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= size - 8


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\r\n" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _is_pickle(path: Path, head: bytes) -> bool:
    if head[0] == 0x80 and head[1:2] and head[1] <= 5:
        return True
    # Old protocols are text: only a walk over the opcodes, which runs none, tells them from csv.
    try:
        with path.open("rb") as stream:
            for _ in pickletools.genops(stream):
                pass
    except Exception:
        return False
    return True


def _pickled(where: str) -> SourceError:
    return SourceError(
        f"{where}: pickled, and reading a pickle can run any code it holds, so it is refused. "
        "Where you trust its origin, load it there and save plain arrays: numpy.savez('logits.npz',"
        " calibration_logits=..., calibration_labels=..., test_logits=..., test_labels=...)"
    )


# --- named arrays ------------------------------------------------------------------------------


def _array_names(path: Path, kind: Format) -> tuple[str, ...]:
    if kind == "npy":
        return (path.stem,)
    if kind == "npz":
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return tuple(file.keys())


def _read_npy(stream: BinaryIO | Any, where: str) -> AnyArray:
    try:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except ValueError as error:
        if "Object arrays" in str(error):
            raise _pickled(where) from None
        raise


def _read_tensor(path: Path, name: str) -> AnyArray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        try:
            return np.asarray(file.get_tensor(name))
        except TypeError:
            kind = file.get_slice(name).get_dtype()
            raise SourceError(
                f"{path}: array '{name}': numpy has no {kind}; save it as float32"
            ) from None


# --- tables ------------------------------------------------------------------------------------


def _read_csv(path: Path) -> TableFile:
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as stream:
        header = stream.readline(1 << 20).decode("utf-8", "replace")
    delimiter = max(",;\t", key=header.count)
    parse = csv.ParseOptions(delimiter=delimiter)
    # One thread, so that an error can name its row.
    read = csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK)
    with csv.open_csv(path, read, parse) as reader:
        names = reader.schema.names
    _refuse_repeated(path, names)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return _table(path, csv.read_csv(path, read, parse, convert))


def _read_parquet(path: Path) -> TableFile:
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


def _table(path: Path, table: Any) -> TableFile:
    # What pandas adds when a frame is saved with its index is no logit.
    kept = [n for n in table.column_names if n not in ("", "Unnamed: 0", "__index_level_0__")]
    return TableFile(path, {name: table.column(name) for name in kept}, table.num_rows)


def _plain_texts(column: Any) -> Any:
    """Return a column with dictionaries decoded and one type of text."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return column
