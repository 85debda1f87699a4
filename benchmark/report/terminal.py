"""A report's summary in a terminal: tables as wide as it is, and plain text where it is none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from benchmark.markup import Table, plural, visible
from benchmark.report.choice_flags import Flag, by_kind
from benchmark.report.choice_table import FLAGGED, LEAST_NEEDED, choosing_table
from benchmark.shell import unguarded_output

if TYPE_CHECKING:
    from benchmark.report.choice import Group
    from benchmark.report.summary import Summary

MAX_MODELS = 20
"""Rows of a group that are printed; the report has all."""

MAX_FLAGS = 3
"""Flags of a kind that are printed."""

LONGEST_NAME = 36
GAP = 2


def print_summary(summary: Summary) -> None:
    """Print the choosing tables, the advice, the verdict, what is flagged, and the paths.

    Bold and colours are those of `rich`: none in a pipe, no colours with NO_COLOR. Lines are at
    most as wide as the terminal; in a pipe, 80 characters or COLUMNS.
    """
    # What is printed is made visible here; escapes are those of the console.
    console = Console(file=unguarded_output(), highlight=False, emoji=False)
    for group in summary.choice.groups:
        _print_group(console, group, summary.choice.maps_by)
    _print_flags(console, summary.choice.flags)
    console.print()
    _say(console, "Verdict: ", [*summary.verdict[:1], summary.incomplete])
    console.print()
    if not summary.is_new:
        _say(console, "", ["The report is unchanged, so it was not drawn again."])
    for what, place in (("report", "report"), ("html", "html"), ("table", "runs")):
        if place in summary.paths:
            # A path stays whole, so that it can be copied.
            console.print(Text(f"{what}: {_shown(summary.paths[place])}"), soft_wrap=True)


def _say(console: Console, lead: str, sentences: Iterable[str]) -> None:
    text = visible(" ".join(sentence for sentence in sentences if sentence))
    if text:
        console.print(Text.assemble((lead, "bold"), text))


def _print_group(console: Console, group: Group, maps_by: str) -> None:
    console.print()
    console.print(Text(visible(group.title), style="bold"), no_wrap=True, overflow="ellipsis")
    table = fitted(choosing_table(group), console.width)
    grid = Grid(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for column in table.columns:
        grid.add_column(Text(column.header), justify=column.align, no_wrap=True)
    for row in table.rows[:MAX_MODELS]:
        style = "bold" if row[0].bold else ""
        grid.add_row(*(Text(visible(cell.text), style=style) for cell in row))
    console.print(grid)
    notes = []
    if len(table.rows) > MAX_MODELS:
        notes.append(f"and {plural(len(table.rows) - MAX_MODELS, 'more model')} in the report")
    if any(one.missing for one in group.candidates):
        notes.append("*: not scored on every dataset")
    if maps_by.startswith("temperature scaling everywhere"):
        notes.append(maps_by)
    for note in notes:
        console.print(Text(note, style="dim"))
    _say(console, "Take ", [group.advice] if group.best else [])
    if not group.best:
        console.print(Text(visible(group.advice)))


def fitted(table: Table, width: int) -> Table:
    """Return a table that is at most so wide: without its least needed columns, names cut.

    Args:
        table: of `choosing_table`.
        width: characters of the terminal.
    """
    kept = list(range(len(table.columns)))
    keys = [column.key for column in table.columns]
    for key in (None, *LEAST_NEEDED):
        kept = [i for i in kept if keys[i] != key]
        widths = [_widths(table, i) for i in kept]
        name = min(widths[0], LONGEST_NAME)
        if name + sum(widths[1:]) + GAP * (len(kept) - 1) <= width:
            break
    rest = width - sum(widths[1:]) - GAP * (len(kept) - 1)
    return _cut(table, kept, max(8, min(widths[0], rest)))


def _widths(table: Table, column: int) -> int:
    texts = [visible(row[column].text) for row in table.rows[:MAX_MODELS]]
    return max(cell_len(text) for text in (table.columns[column].header, *texts))


def _cut(table: Table, kept: list[int], longest: int) -> Table:
    rows = []
    for row in table.rows:
        name = visible(row[0].text)
        if cell_len(name) > longest:
            flag = FLAGGED if name.endswith(FLAGGED) else ""
            name = name[: longest - 1 - len(flag)] + "\N{HORIZONTAL ELLIPSIS}" + flag
        rows.append((replace(row[0], text=name), *(row[i] for i in kept[1:])))
    return Table(tuple(table.columns[i] for i in kept), rows)


def _print_flags(console: Console, flags: tuple[Flag, ...]) -> None:
    if flags:
        console.print()
    for kind, some in by_kind(flags):
        for flag in some[:MAX_FLAGS]:
            _say(console, f"! {kind}: ", [f"{flag.model} on {flag.dataset}: {flag.text}"])
        if len(some) > MAX_FLAGS:
            _say(console, f"! {kind}: ", [f"{len(some) - MAX_FLAGS:,} more in the report"])


def _shown(place: str) -> str:
    """Return a path as the user would type it."""
    path = Path(place).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(os.getcwd()) else place
