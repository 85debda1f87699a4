"""csv, tsv, json and jsonl files -> columns of plain values. A wrong line is named.

Cells of csv files are words as they stand: which of them are numbers or no label is for the
reader of the column to say, since "NA" is a gap in one column and a country in another.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.failures import UnavailableError

Columns = dict[str, list[Any]]

COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zip"})
_DELIMITERS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, with whose mark it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 4096


def read_text(path: Path, encoding: str | None) -> str:
    """Return the text of a file, decompressed as its suffix says.

    A byte order mark tells the encoding; without one it is `encoding`, or else UTF-8.

    Raises:
        UnavailableError: it cannot be decompressed, or is in another encoding.
    """
    content = _decompressed(path)
    marked = (name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark))
    name = next(marked, encoding or "utf-8")
    if b"\0" in content[:_LOOKED_AT] and name == "utf-8":
        raise UnavailableError(
            f"{path.name} holds zero bytes: it is no text, or UTF-16 (then: encoding: utf-16-le)"
        )
    try:
        return content.decode(name)
    except LookupError:
        raise UnavailableError(f"no encoding is called '{name}' (encoding: ...)") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        advice = f"the text is not {encoding}" if encoding else "say which, e.g. encoding: cp1252"
        raise UnavailableError(
            f"{path.name}, line {line}: byte 0x{content[error.start]:02x} is not {name}: {advice}"
        ) from None


def _decompressed(path: Path) -> bytes:
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
    }
    suffix = path.suffix.lower()
    try:
        if suffix == ".zip":
            return _only_member(path)
        with openers.get(suffix, open)(path, "rb") as stream:
            return bytes(stream.read())
    except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UnavailableError(f"{path.name} cannot be decompressed or read: {error}") from error


def _only_member(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and "__MACOSX" not in n]
        if len(names) != 1:
            raise UnavailableError(
                f"{path.name} holds {len(names)} files: unpack it and name one, or their folder"
            )
        return archive.read(names[0])


# --- csv and tsv ----------------------------------------------------------------------------------


def parse_csv(text: str, name: str, wanted: Sequence[str], *, tabs: bool) -> Columns:
    """Return the columns of a delimited text with a header line.

    The delimiter is the first of comma, semicolon, tab and bar (tabs first in a tsv file) that
    finds the columns wanted in the header.

    Raises:
        UnavailableError: a line has more or fewer cells than the header, or a quote is not closed.
    """
    csv.field_size_limit(sys.maxsize)
    text, stated = _without_separator_line(text)
    delimiter = stated or _delimiter(text, wanted, tabs=tabs)
    if delimiter == "\t" and _is_whole_without_quotes(text):
        try:
            rows = list(_rows(text, name, delimiter))
        except UnavailableError:
            rows = []
        if len(rows) < sum(bool(line.strip()) for line in text.split("\n")):
            rows = list(_rows(text, name, delimiter, quoting=csv.QUOTE_NONE))
    else:
        rows = list(_rows(text, name, delimiter))
    if not rows:
        raise UnavailableError(f"{name} is empty")
    header = [cell.strip() for cell in rows[0]]
    twice = next((column for column in wanted if header.count(column) > 1), None)
    if twice is not None:
        raise UnavailableError(f"{name}: two columns are called '{twice}'")
    cells: list[Any] = [list(column) for column in zip(*rows[1:], strict=True)]
    return dict(zip(header, cells or [[] for _ in header], strict=True))


def _without_separator_line(text: str) -> tuple[str, str | None]:
    """Return the text without the line `sep=;` that spreadsheets write, and what it says."""
    first, _, rest = text.partition("\n")
    first = first.rstrip("\r")
    return (
        (rest, first[4:]) if first.lower().startswith("sep=") and len(first) == 5 else (text, None)
    )


def _delimiter(text: str, wanted: Sequence[str], *, tabs: bool) -> str:
    candidates = sorted(_DELIMITERS, key=lambda d: d != "\t") if tabs else list(_DELIMITERS)
    headers = {}
    for delimiter in candidates:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        except csv.Error:
            continue
        headers[delimiter] = [cell.strip() for cell in header]
        if set(wanted) <= set(headers[delimiter]):
            return delimiter
    return max(headers, key=lambda d: len(headers[d]), default=candidates[0])


def _is_whole_without_quotes(text: str) -> bool:
    """Say whether every line has all its cells by itself, so that no quote need join two."""
    counts = {line.count("\t") for line in text.split("\n") if line.strip()}
    return len(counts) == 1


def _rows(
    text: str, name: str, delimiter: str, quoting: int = csv.QUOTE_MINIMAL
) -> Iterator[list[str]]:
    """Yield the rows that are not blank, the header first, each with as many cells as it."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,  # type: ignore[arg-type]
        strict=True,  # or an open quote would swallow the rest of the file without a word
    )
    width = 0
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            width = width or len(row)
            if len(row) < width or any(cell.strip() for cell in row[width:]):
                raise UnavailableError(
                    f"{name}, line {reader.line_num}: {len(row)} cells, but the header has {width} "
                    f"(cells are taken to be separated by {_delimiter_name(delimiter)}; a text "
                    "that holds one stands in double quotes)"
                )
            yield row[:width]
    except csv.Error as error:
        raise UnavailableError(
            f"{name}, line {reader.line_num}: {error} (a quote inside a quoted text is doubled)"
        ) from None


def _delimiter_name(delimiter: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}.get(delimiter, delimiter)


# --- json and jsonl -------------------------------------------------------------------------------


def parse_json(text: str, name: str) -> Columns:
    """Return the columns of a list of objects, an object a line, or an object of columns.

    Raises:
        UnavailableError: a line or the whole is no JSON, or another shape.
    """
    if not text.strip():
        raise UnavailableError(f"{name} is empty")
    if text.lstrip().startswith("["):
        return _from_objects(_parse(text, name, first_line=1), name)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and not _is_json(lines[0][1]):  # one object over several lines
        return _from_object(_parse(text, name, first_line=1), name)
    objects = [_parse(line, name, first_line=number) for number, line in lines]
    if len(objects) == 1 and isinstance(objects[0], dict) and _holds_columns(objects[0]):
        return _from_object(objects[0], name)
    return _from_objects(objects, name)


def _parse(text: str, name: str, *, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UnavailableError(f"{name}, line {line}: no JSON ({error.msg})") from None
    except RecursionError:
        raise UnavailableError(f"{name}, line {first_line}: nested too deeply") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _holds_columns(tree: dict[str, Any]) -> bool:
    """Say whether an object is a whole table, not a row of one."""
    return bool(_lists_of_objects(tree)) or all(isinstance(v, list | dict) for v in tree.values())


def _lists_of_objects(tree: dict[str, Any]) -> list[list[Any]]:
    return [v for v in tree.values() if isinstance(v, list) and v and isinstance(v[0], dict)]


def _from_objects(objects: Any, name: str) -> Columns:
    for number, row in enumerate(objects, 1):
        if not isinstance(row, dict):
            raise UnavailableError(
                f"{name}, row {number} is no object of column: value, but {str(row)[:40]!r}"
            )
    keys = dict.fromkeys(key for row in objects for key in row)
    return {key: [row.get(key) for row in objects] for key in keys}


def _from_object(tree: Any, name: str) -> Columns:
    """Return columns given as lists, as pandas writes them, or as the one list of objects."""
    if not isinstance(tree, dict):
        raise UnavailableError(f"{name} holds neither objects nor columns")
    tables = _lists_of_objects(tree)
    if len(tables) == 1:
        return _from_objects(tables[0], name)
    indexed = all(isinstance(value, dict) for value in tree.values())
    columns = {k: list(v.values()) for k, v in tree.items()} if indexed else tree
    lengths = {len(value) if isinstance(value, list) else -1 for value in columns.values()}
    if len(lengths) != 1 or lengths == {-1} or len(tables) > 1:
        raise UnavailableError(
            f"{name} is an object of {', '.join(map(str, list(tree)[:5]))}: write a list of "
            "objects, one for each row, and a file for each split"
        )
    return columns
