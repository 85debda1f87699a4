"""Table, escaping and number formats: one description, written as markdown or CSV.

Text from the registry or the data never reaches a page unescaped: a `Table` holds plain
strings, and every writer escapes them for its own format.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeGuard

if TYPE_CHECKING:
    from jinja2 import Environment

MISSING = "\N{EN DASH}"
"""What a cell shows where there is no number. Nothing is ever imputed."""

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column: its key in the CSV, its header on a page, and how it is read.

    Attributes:
        key: name in the CSV file, with the unit as suffix where there is one.
        header: what a page shows.
        align: text left, numbers right.
        help: one sentence for the tooltip of the HTML table.
        by: which of several numbers in a cell rows are sorted by.
    """

    key: str
    header: str
    align: Align = "right"
    help: str = ""
    by: str = ""


@dataclass(frozen=True)
class Cell:
    """What one cell shows, the number it sorts by, and whether it stands out as the best."""

    text: str
    value: float | str | None = None
    bold: bool = False
    link: str | None = None


@dataclass(frozen=True)
class Table:
    """A titled table; `rows` holds one tuple of cells per row, in column order."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in {len(self.columns)} columns")

    def text(self, row: int, key: str) -> str:
        """Return what a row says in the column of that key; empty where there is none."""
        keys = [column.key for column in self.columns]
        return self.rows[row][keys.index(key)].text if key in keys else ""

    def to_markdown(self, limit: int | None = None) -> str:
        """Return a pipe table padded so that it also reads well as plain text.

        Args:
            limit: rows shown; a last line says how many were left out.
        """
        rows = self.rows if limit is None else self.rows[:limit]
        texts = [[escape_inline(column.header) for column in self.columns]]
        texts += [
            [_markdown_cell(cell, column) for cell, column in zip(row, self.columns, strict=True)]
            for row in rows
        ]
        widths = [max(3, *(_width(line[i]) for line in texts)) for i in range(len(self.columns))]
        rule = [
            "-" * (width - 1) + ":" if column.align == "right" else "-" * width
            for column, width in zip(self.columns, widths, strict=True)
        ]
        lines = [self._pad(texts[0], widths), f"| {' | '.join(rule)} |"]
        lines += [self._pad(line, widths) for line in texts[1:]]
        return "\n".join(lines) + "\n"

    def _pad(self, line: Sequence[str], widths: Sequence[int]) -> str:
        padded = []
        for text, width, column in zip(line, widths, self.columns, strict=True):
            fill = " " * (width - _width(text))
            padded.append(fill + text if column.align == "right" else text + fill)
        return f"| {' | '.join(padded)} |"


def to_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return CSV text with full precision; text that a spreadsheet would run is defused."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([escape_csv(name) for name in header])
    writer.writerows([[escape_csv(value) for value in row] for row in rows])
    return buffer.getvalue()


class Markdown(str):
    """Text that is markdown already; everything else is escaped when a template is filled in."""

    __slots__ = ()


def markdown_environment(package: str, most_rows: int | None = None) -> Environment:
    """Return templates of a package that make markdown: every value is escaped.

    Args:
        package: that has the folder `templates`.
        most_rows: of a table; None: all.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def to_markdown(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, Table):
            return value.to_markdown(most_rows)
        return value if isinstance(value, Markdown) else escape_markdown(str(value))

    environment = Environment(  # nosec B701 # finalize escapes markdown, by its own rules
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=to_markdown,
    )
    environment.globals.update(plural=plural, decimals=decimals)
    return environment


def tidy_markdown(text: str) -> str:
    """Collapse runs of blank lines that empty template blocks leave."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _markdown_cell(cell: Cell, column: Column) -> str:
    text = escape_inline(cell.text)
    if column.align == "right":  # a number and its interval stay on one line
        text = text.replace(" ", "\N{NO-BREAK SPACE}")
    if cell.link:
        text = f"[{text}]({cell.link})"
    return f"**{text}**" if cell.bold else text


def _width(text: str) -> int:
    """Return the columns a terminal uses for `text`."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.combining(character) > 0 for character in text)
    return len(text) + wide - marks


_MARKDOWN_ALWAYS = re.compile(r"[\\`*\[\]|~$@]")
# An underscore within a word marks nothing up; leaving it alone keeps names readable.
_MARKDOWN_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_MARKDOWN_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_MARKDOWN_LINE_START = re.compile(r"^(?:([#+\-=])|(\d{1,9})([.)])(?=\s|$))")


def escape_markdown(text: str) -> str:
    """Return `text` so that markdown shows it as it is, on one line, also at a line's start.

    Covers GitHub's flavour: emphasis, code, links and bare addresses, mathematics, mentions,
    tables, HTML, and the markers that open a heading or a list at the start of a line.
    """
    return _MARKDOWN_LINE_START.sub(_escape_line_start, escape_inline(text))


def escape_inline(text: str) -> str:
    """Return `text` escaped for the middle of a line, such as a table's cell."""
    text = visible(text).strip()
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKDOWN_ALWAYS.sub(lambda match: "\\" + match[0], text)
    text = _MARKDOWN_UNDERSCORE.sub(r"\\_", text)
    return _MARKDOWN_LINK.sub(lambda match: "\\" + match[0], text)


def _escape_line_start(match: re.Match[str]) -> str:
    marker, digits, dot = match.groups()
    return f"\\{marker}" if marker else f"{digits}\\{dot}"


def visible(text: str) -> str:
    r"""Return `text` on one line, with control and invisible characters spelled out.

    Line breaks and tabs become spaces; terminal escapes, direction overrides and the like
    would change how the rest of a page is shown, so they are written as `\x1b`, `\u202e`.
    Credentials in addresses are left out (see `without_credentials`).
    """
    return _spelled_out(re.sub(r"[\t\r\n\v\f\x85\u2028\u2029]+", " ", text))


def visible_lines(text: str) -> str:
    r"""Return `text` as `visible` does, but with its line feeds and tabs, for a terminal."""
    if text.isprintable():
        return _spelled_out(text)
    return re.sub(r"[^\t\n]+", lambda found: _spelled_out(found[0]), text)


def _spelled_out(text: str) -> str:
    text = without_credentials(text)
    if text.isprintable():  # most texts are, and there may be a million of them
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
        else character
        for character in text
    )


_CREDENTIALS = re.compile(r"""(?<=://)[^\s/?#"'<>\\]+@""")


def without_credentials(text: str) -> str:
    """Return `text` with user name and password of every address in it replaced by `***`.

    An address may hold them before its host (RFC 3986, section 3.2.1), as that of a mirror in
    HF_ENDPOINT, and libraries quote it in their errors. JSON stays JSON.

    >>> without_credentials("no answer from https://ann:secret@mirror.example/api")
    'no answer from https://***@mirror.example/api'
    """
    return _CREDENTIALS.sub("***@", text) if "://" in text else text


def ascii_json(document: str) -> str:
    r"""Return a JSON document with all but plain ASCII escaped (`\u202e`), of the same content."""
    return re.sub(r"[^\n -~]", lambda found: _json_escape(found[0]), document)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


_FORMULA_START = frozenset("=+-@" + "＝＋－＠")  # noqa: RUF001 (spreadsheets take the wide ones, too)


def escape_csv(value: object) -> object:
    """Return `value`; text is made visible, with an apostrophe before what is like a formula.

    Numbers stay numbers, also those that are texts already, such as "-0.51".
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        return value
    text = visible_lines(value)
    is_formula = value.lstrip()[:1] in _FORMULA_START and not _NUMBER.fullmatch(text)
    return "'" + text if is_formula else text


_NUMBER = re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)([eE][-+]?\d+)?%?", re.ASCII)


def is_number(value: float | None) -> TypeGuard[float]:
    """Return whether `value` is a number that can be shown (infinity included)."""
    return value is not None and not math.isnan(value)


def decimals(value: float | None, places: int) -> str:
    """Return `value` with fixed decimals, or a dash where there is none."""
    if not is_number(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:z.{places}f}"


def percent(value: float | None, places: int = 1) -> str:
    """Return a share as a percentage, e.g. 0.873 -> '87.3%'."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{places}f}%"


def interval(low: float | None, high: float | None, places: int) -> str:
    """Return '(low, high)', or nothing where there is no interval.

    Round brackets, because square ones would need escapes in markdown.
    """
    if not is_number(low) or not is_number(high):
        return ""
    return f"({decimals(low, places)}, {decimals(high, places)})"


def estimate(
    value: float | None,
    low: float | None,
    high: float | None,
    places: int,
    scale: float = 1,
    why: object = None,
) -> str:
    """Return '1.69 (0.52, 2.87)'; '1.69' where there is no interval, or '1.69 (too few errors)'.

    Where there is no value, why, if that is known.

    An unbiased estimate of an error can fall below 0, where its interval is cut. A value outside
    its own interval would mislead, so the words 'not told from 0' stand in its place.
    """
    if not is_number(value):
        return why if isinstance(why, str) else MISSING
    if not is_number(low) or not is_number(high):
        # Frames hold NaN where there is no text.
        reason = f" ({why})" if isinstance(why, str) else ""
        return f"{decimals(scale * value, places)}{reason}"
    bounds = interval(scale * low, scale * high, places)
    told = "not told from 0" if value < low else decimals(scale * value, places)
    return f"{told} {bounds}"


def compact(value: float | None, unit: str = "") -> str:
    """Return a number with three significant digits and a k/M/G suffix, e.g. '86.6M'."""
    if not is_number(value):
        return MISSING
    for threshold, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= threshold * 0.9995:
            return f"{_three_digits(value / threshold)}{suffix}{unit}"
    return f"{_three_digits(value)}{unit}"


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    value = float(f"{value:.3g}")  # 0.9996 has its first digit before the point
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 4)}f}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return e.g. '1 model', '2 models', '1,200 families'."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


_LONGEST_PART = 120  # two of them and an ending make a file name, of 255 bytes at most


def file_name(name: str) -> str:
    """Return a file name for `name`: registry names are kept, others lose what could harm.

    It has at most 120 characters, so that two of them and an ending are a file name, too.
    Two different names never share a file name.
    """
    safe = re.sub(r"[^A-Za-z0-9._+-]|^[.+-]", "_", name)
    if safe == name and len(name) <= _LONGEST_PART:
        return name
    return f"{safe[:60]}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
