"""Escaping, number formats, tables, and what may stand out as best."""

from __future__ import annotations

import csv
import html
import io
import math
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from benchmark.markup import (
    Cell,
    Column,
    Table,
    compact,
    decimals,
    escape_csv,
    escape_inline,
    escape_markdown,
    file_name,
    interval,
    to_csv,
    visible,
)
from benchmark.report.tabulation import supported_best

NASTY = [
    "<script>alert(1)</script>",
    "a | b | c",
    "`code` and ``more``",
    "[link](javascript:alert(1))",
    "![image](http://example.org/x.png)",
    "**bold** __bold__ _it_ ~~struck~~",
    "# heading",
    "- list",
    "1. list",
    "> quote",
    "www.example.org https://example.org a@example.org",
    "$x^2$ and $$y$$",
    "&lt;b&gt; &amp; &#60;",
    "line\nbreak\r\n\n# heading",
    "\x1b[31mred\x1b[0m \u202ereversed\u202c",
    "back\\slash \\[ \\| \\<b>",
    "<!-- comment --> --!>",
    "=====",
    "| --- |",
    "    code",
    "[ref]: http://example.org",
]


def rendered_text(markdown: str) -> str:
    """What a reader of the rendered markdown sees, in a renderer that allows HTML."""
    page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table").render(markdown)
    assert set(re.findall(r"<(/?\w+)", page)) <= {"p", "/p"}, page
    return html.unescape(re.sub(r"</?p>", "", page)).strip()


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_is_shown_as_it_is(text: str) -> None:
    assert rendered_text(escape_markdown(text)) == visible(text).strip()


@given(st.text())
def test_any_text_is_shown_as_it_is(text: str) -> None:
    assert rendered_text(escape_markdown(text)) == visible(text).strip()


@given(st.text(alphabet="<>[]()!*_`~|\\#-+=&;:/.$@1w \n\tah"))
def test_text_of_markup_characters_is_shown_as_it_is(text: str) -> None:
    assert rendered_text(escape_markdown(text)) == visible(text).strip()


@given(st.lists(st.text(alphabet="<>[]()!*_`~|\\#-&; \nab"), min_size=2, max_size=2))
def test_table_cells_stay_in_their_cells(texts: list[str]) -> None:
    columns = (Column("a", "a", "left"), Column("b", "b"))
    table = Table(columns, [tuple(Cell(text) for text in texts)])
    page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(table.to_markdown())
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    first, second = (html.unescape(cell) for cell in cells)
    assert first == visible(texts[0]).strip()
    assert second == visible(texts[1]).strip().replace(" ", "\N{NO-BREAK SPACE}")


def test_an_interval_stays_on_one_line() -> None:
    table = Table(
        (Column("a", "a", "left"), Column("b", "b")), [(Cell("two words"), Cell("1 (0, 2)"))]
    )
    assert "| two words | 1\N{NO-BREAK SPACE}(0,\N{NO-BREAK SPACE}2) |" in table.to_markdown()


def test_bare_addresses_do_not_become_links() -> None:
    escaped = escape_markdown("see https://example.org and www.example.org")
    assert "<a" not in MarkdownIt("gfm-like", {"linkify": False}).render(escaped)
    assert "https://" not in escaped
    assert "www.example" not in escaped


def test_ordinary_names_need_no_escapes() -> None:
    for name in ("resnet-tiny", "bert_base.v2", "16.58 (16.13, 17.03)", "12.1 → 3.4", "-0.5"):
        assert escape_inline(name) == name


@given(st.text())
def test_visible_text_has_no_control_characters(text: str) -> None:
    shown = visible(text)
    assert "\n" not in shown
    assert "\x1b" not in shown
    shown.encode("utf-8")  # would raise on a lone surrogate


def test_csv_is_defused_and_keeps_precision() -> None:
    text = to_csv(["name", "value"], [["=cmd()", 0.1 + 0.2], ["a,b\n", None], ["x", math.nan]])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[1] == ["'=cmd()", "0.30000000000000004"]
    assert rows[2] == ["a,b\n", ""]
    assert rows[3] == ["x", ""]
    assert escape_csv(-1.5) == -1.5


@given(st.text(), st.text())
def test_file_names_are_safe_and_distinct(one: str, other: str) -> None:
    name = file_name(one)
    assert re.fullmatch(r"[A-Za-z0-9._+-]*", name)
    assert not name.startswith(".")
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(86_567_656, "86.6M"), (1_000, "1.00k"), (999.6, "1.00k"), (0, "0"), (0.5, "0.500")],
)
def test_compact_numbers(value: float, shown: str) -> None:
    assert compact(value) == shown


def test_missing_and_infinite_numbers() -> None:
    assert decimals(math.nan, 2) == decimals(None, 2) == "\N{EN DASH}"
    assert decimals(math.inf, 2) == "∞"
    assert decimals(-0.0001, 2) == "0.00"
    assert interval(None, 1.0, 2) == ""
    assert interval(1.0, 2.0, 1) == "(1.0, 2.0)"


def test_table_refuses_ragged_rows() -> None:
    with pytest.raises(ValueError, match="2 cells in 1 columns"):
        Table((Column("a", "a"),), [(Cell("1"), Cell("2"))])


def test_long_table_is_cut() -> None:
    table = Table((Column("a", "a"),), [(Cell(str(i)),) for i in range(10)])
    assert len(table.to_markdown(limit=4).splitlines()) == 6


def frame_of(intervals: dict[str, tuple[float, float]], column: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "model": model,
                column: (low + high) / 2,
                f"{column}_least": low,
                f"{column}_most": high,
            }
            for model, (low, high) in intervals.items()
        ]
    )


def test_best_needs_a_clear_interval() -> None:
    lower = "nll_none"
    assert supported_best(frame_of({"a": (1, 2), "b": (2.1, 3)}, lower)) == {(lower, "a")}
    assert supported_best(frame_of({"a": (1, 2), "b": (1.9, 3)}, lower)) == frozenset()
    higher = "accuracy_none"
    assert supported_best(frame_of({"a": (0.1, 0.2), "b": (0.3, 0.4)}, higher)) == {(higher, "b")}


def test_best_is_never_decided_against_an_unknown_interval() -> None:
    frame = frame_of({"a": (1, 2), "b": (3, 4), "c": (5, 6)}, "nll_none")
    frame.loc[2, ["nll_none_least", "nll_none_most"]] = float("nan")
    assert supported_best(frame) == frozenset()
    assert supported_best(frame_of({"a": (1, 2)}, "nll_none")) == frozenset()
