"""What a command ends with in a terminal: as wide as it is, plain in a pipe."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from synthetic import MODELS, TEXT_MODELS, FakeModel, write_tree

from benchmark.report import Summary, json_document, print_summary, write_report
from benchmark.report.choice_table import COLUMNS, LEAST_NEEDED, choosing_table
from benchmark.report.terminal import MAX_MODELS, fitted

NASTY = "évil\x1b[31m[bold]x"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    root = tmp_path_factory.mktemp("terminal")
    long = FakeModel("a-model-of-a-very-long-name-in-the-hub-of-somebody", "mlp", "X", 10**9, 2.0)
    nasty = FakeModel("nasty", "attention", NASTY, 1000, 0.01)
    results = write_tree(root / "results", (*MODELS, long, nasty), rows=300, shifts=())
    write_tree(results, TEXT_MODELS, ("bbc",), rows=300, shifts=(), classes=5)
    return write_report(results, root / "reports")


def printed(
    summary: Summary,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    print_summary(summary)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_lines_fit_and_nothing_but_paths_is_longer(
    summary: Summary,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    text = printed(summary, capsys, monkeypatch, width)
    lines = [line for line in text.splitlines() if not re.match(r"(report|html|table): ", line)]
    assert max(cell_len(line) for line in lines) <= width
    for needed in ("model", "accuracy", "NLL", "error pp", "p50 ms", "front"):
        assert needed in text
    for group in summary.choice.groups:
        for one in group.candidates:
            assert one.model[:8] in text


def test_it_is_plain_in_a_pipe_and_ends_with_what_matters(
    summary: Summary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(summary, capsys, monkeypatch, 100)
    assert "\x1b" not in text
    joined = " ".join(text.split())
    for group in summary.choice.groups:
        assert f"Take {group.advice}" in joined
    assert summary.verdict[0] in joined
    assert "! chance level: nasty on mnist-5k: accuracy" in joined
    assert "! disturbed timing: swin-tiny on mnist-5k" in joined
    assert text.rstrip().endswith("tables/runs.csv")


def test_a_terminal_gets_bold_but_with_no_color_no_colours(
    summary: Summary, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(summary, capsys, monkeypatch, 100)
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", text))
    assert codes
    assert codes <= {"0", "1", "2"}  # bold and dim are no colours


def test_narrow_tables_lose_what_is_least_needed_first(summary: Summary) -> None:
    table = choosing_table(summary.choice.groups[0])
    seen = [[column.key for column in fitted(table, width).columns] for width in range(40, 160)]
    for narrow, wide in itertools.pairwise(seen):
        assert set(narrow) <= set(wide)
    assert seen[-1] == [column.key for column in COLUMNS]
    assert seen[0] == [column.key for column in COLUMNS if column.key not in LEAST_NEEDED]


def test_very_many_models_are_cut_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [FakeModel(f"m{i}", "attention", f"F{i}", 1000) for i in range(MAX_MODELS + 2)]
    results = write_tree(tmp_path / "results", models, rows=100, shifts=(), seeds=(0,))
    summary = write_report(results, tmp_path / "reports")
    assert "and 2 more models in the report" in printed(summary, capsys, monkeypatch, 100)


def test_the_json_document_is_ascii(summary: Summary) -> None:
    assert json_document([summary], exit_code=0).isascii()
