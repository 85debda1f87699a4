"""The report of a published table, end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from benchmark.report import ReportError, write_table_report
from benchmark.report.command import main

ROOT = Path(__file__).parents[1]
TABLES = ROOT.parent / "shared" / "data" / "tables"
IMAGENET = TABLES / "imagenet_timm_1116.csv"
IMAGENET_MAP = ROOT / "docs" / "examples" / "imagenet_timm_columns.yaml"
MINDERER = TABLES / "minderer2021_fig2_vector.csv"
MINDERER_MAP = ROOT / "docs" / "examples" / "minderer2021_columns.yaml"

HOSTILE = [
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "a|b\\c`*_[x](http://evil.example)",
    "../../up",
    "$x^2$ {{ page }} {% raw %}",
    "long" * 60,
    "\u202etxt\u0007",
    "100% & \u00e9",
]
MAP = """
title: Made-up <b>table</b> | 2024
name: made-up
source: "nobody, https://evil.example/<script>"
error: ECE, 15 bins
bins: 15
columns:
  model: name
  family: family
  mixer: {from: family, rules: {"v*": attention, "m*": mlp, "*": convolution}}
  error_before: ece
  error_after: ece_after
  accuracy: {column: top1, percent: true}
  parameters: size
  temperature: T
  test_rows: {value: 10000}
drop:
  - {column: T, above: 10, reason: the fit ran away}
"""


def made_up(mixers: str = "vcm", families: int = 5) -> pd.DataFrame:
    """A table of some families a mixer, with three models each and hostile names."""
    generator = np.random.default_rng(0)
    rows = []
    for mixer in mixers:
        for family in range(families):
            level = np.log(0.05) + generator.normal(0, 0.3)
            for model in range(3):
                name = f"{HOSTILE[len(rows) % len(HOSTILE)]} {len(rows)}"
                error = float(np.exp(level + generator.normal(0, 0.2)))
                size = int(np.exp(generator.normal(16, 1)))
                facts = {"name": name, "family": f"{mixer}{family} {HOSTILE[family]}"}
                row = {"ece": error, "ece_after": error / 2, "top1": 75.0 + model, "size": size}
                rows.append(facts | row | {"T": 1.2 if rows else 900.0})
    return pd.DataFrame(rows)


def written(
    folder: Path, frame: pd.DataFrame, columns: str = MAP
) -> tuple[Path, dict[str, object]]:
    """Write the report of a table and return its folder and the claim's JSON."""
    table, mapping = folder / "table.csv", folder / "map.yaml"
    frame.to_csv(table, index=False)
    mapping.write_text(columns, encoding="utf-8")
    summary = write_table_report(table, mapping, folder / "reports")
    claim = summary.folder / "tables" / "claim.json"
    return summary.folder, json.loads(claim.read_text()) if claim.exists() else {}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("table"), made_up())[0]


def test_it_says_what_a_report_of_runs_says_of_the_claim(report: Path) -> None:
    page = (report / "README.md").read_text()
    assert "**Is the claim true?**\n\n**Undecided:** on this table, before temperature" in page
    for title in (
        "The contrast",
        "All mixers",
        "Exchange of labels",
        "Do size and pretraining account for it?",
        "Other ways to analyse it",
        "Not in the test",
    ):
        assert f"### {title}" in page
    figures = {path.stem for path in (report / "figures").iterdir()}
    wanted = {"error-by-mixer", "contrast", "error-by-accuracy", "error-by-parameters"}
    assert wanted | {"temperature-by-family", "specification-curve"} <= figures


def test_its_head_says_that_it_is_published_from_where_and_what_was_left_out(report: Path) -> None:
    page = (report / "README.md").read_text()
    head = page.split("## The claim in detail")[0]
    assert "A published table, not runs of this benchmark: 44 models of" in head
    assert "Source: nobody," in head
    assert "45 rows in the table, 44 used, left out 1 (the fit ran away)" in head
    assert "follows from 10,000 test rows, 15 bins and the accuracy" in head
    assert "| v0" in head


def test_what_needs_rows_or_records_is_absent(report: Path) -> None:
    text = (report / "README.md").read_text() + (report / "index.html").read_text()
    for word in (
        "Reliability",
        "p50",
        "Seeds",
        "seed per",
        "logits.safetensors",
        "runs.csv",
        "Missing and failed",
        "Which model should I take",
        "models/",
        "None.",
    ):
        assert word not in text, word
    assert {path.name for path in report.iterdir()} == {
        *("README.md", "index.html", "figures", "tables", "report.json"),
        *("methods.md", "references.bib"),
    }
    assert not [path for path in report.rglob("*") if path.is_file() and not path.stat().st_size]


def test_no_link_is_dead_and_no_cell_empty(report: Path) -> None:
    page = (report / "README.md").read_text()
    targets = list(_targets(page))
    assert targets
    assert not [t for t in targets if not t.startswith("#") and not (report / t).exists()]
    html = (report / "index.html").read_text()
    links = re.findall(r'<a [^>]*href="([^"]+)"', html)
    ids = set(re.findall(r'\bid="([^"]+)"', html))
    assert links
    assert not [t for t in links if t.startswith("#") and t[1:] not in ids]
    assert not [t for t in links if not t.startswith("#") and not (report / t).exists()]
    assert not re.search(
        r"<ul[^>]*></ul>|<p( class=.note.)?></p>|<tbody>\s*</tbody>|<figure></figure>", html
    )


def _targets(page: str) -> Iterator[str]:
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(page):
        for child in token.children or []:
            target = child.attrs.get("href") or child.attrs.get("src")
            if target:
                yield str(target)


def test_what_is_drawn_is_not_said_to_be_missing(tmp_path: Path) -> None:
    folder, claim = written(tmp_path, made_up())
    shares = claim["variance_shares"]["shares"]  # type: ignore[index, call-overload]
    clear = any(share["low"] > share["by_chance"] for share in shares)
    said = "Shares of variance are not drawn" in (folder / "README.md").read_text()
    assert (folder / "figures" / "variance-shares.svg").exists() == clear
    assert said == (not clear)


def test_hostile_names_stay_text(report: Path) -> None:
    html, page = (report / "index.html").read_text(), (report / "README.md").read_text()
    assert "<script>alert" not in html
    assert "<b>table</b>" not in html
    assert html.count("<script>") == 1
    assert "<script>" not in MarkdownIt("gfm-like", {"linkify": False}).render(page)
    for path in report.rglob("*"):
        if path.suffix in (".md", ".html", ".csv", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert "\u202e" not in text
            assert "\u0007" not in text
    models = pd.read_csv(report / "tables" / "models.csv")
    assert not models["model"].str.startswith("=").any()
    assert len(models) == 45


def test_the_tables_own_figures_are_not_repeated(report: Path) -> None:
    columns = pd.read_csv(report / "tables" / "models.csv").columns
    assert set(columns) == {"model", "family", "mixer", "dataset", "status", "reason"}


def test_family_means_are_geometric_and_count_models_once(report: Path) -> None:
    frame = made_up().iloc[1:]
    expected = np.exp(np.log(frame["ece"]).groupby(frame["family"]).mean())
    families = pd.read_csv(report / "tables" / "families.csv")
    assert families["models"].tolist() == [3] * 5 + [2] + [3] * 9 or families["models"].sum() == 44
    assert sorted(families["error_none"]) == pytest.approx(sorted(expected))
    assert (families["error_temperature"] * 2).to_numpy() == pytest.approx(families["error_none"])


def test_the_same_table_gives_the_same_report(report: Path, tmp_path: Path) -> None:
    again, _ = written(tmp_path, made_up())
    for path in sorted(report.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(report)).read_bytes(), path


def test_errors_after_scaling_alone_are_tested_and_it_is_said(tmp_path: Path) -> None:
    columns = MAP.replace("  error_before: ece\n", "")
    folder, claim = written(tmp_path, made_up("vc"), columns)
    assert claim["primary_map"] == "temperature"
    page = (folder / "README.md").read_text()
    assert "on this table, after temperature scaling" in page
    assert "It has errors after temperature scaling only: these are tested." in page
    assert "error before" not in page
    assert "Before temperature scaling" not in (folder / "index.html").read_text()


def test_one_mixer_is_refused_an_answer(tmp_path: Path) -> None:
    folder, claim = written(tmp_path, made_up("v"))
    assert claim["primary"] is None
    page = (folder / "README.md").read_text()
    assert "**Undecided:** whether attention or convolution models are better calibrated" in page
    assert "no checkpoint is known to mix by convolution" in page
    assert not (folder / "figures" / "contrast.svg").exists()
    assert (folder / "figures" / "error-by-mixer.svg").exists()
    assert not [t for t in _targets(page) if not t.startswith("#") and not (folder / t).exists()]


def test_a_table_with_nothing_but_errors_is_reported(tmp_path: Path) -> None:
    columns = """
columns:
  model: name
  family: family
  mixer: {from: family, rules: {"v*": attention, "*": convolution}}
  error_before: ece
"""
    folder, claim = written(tmp_path, made_up("vc"), columns)
    page = (folder / "README.md").read_text()
    assert folder.name == "table"
    assert claim["primary"] is not None
    assert "errors are taken as exact" in page
    assert "map gives no number of bins" in page
    assert "accuracy" not in page.split("## The claim in detail")[0]


def test_no_row_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="leave no row"):
        written(tmp_path, made_up().assign(T=900))


def test_the_command_writes_it_and_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, mapping = tmp_path / "table.csv", tmp_path / "map.yaml"
    made_up("vc").to_csv(table, index=False)
    mapping.write_text(MAP)
    where = ["--reports", str(tmp_path / "reports"), "--registry", str(tmp_path / "none.yaml")]
    arguments = ["--table", str(table), "--columns", str(mapping), *where[:2]]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "Verdict: Undecided: on this table" in " ".join(told.split())
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    verdict = document["reports"][0]["verdict"]
    assert len(verdict["sentences"]) == 3
    assert verdict["numbers"]
    mapping.write_text(MAP.replace("column: top1", "column: top2"))
    assert main(arguments) == 2
    assert "has no column 'top2', did you mean 'top1'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--table", str(table)])
    with pytest.raises(SystemExit):
        main([*arguments, "--suite", "x"])


@pytest.mark.skipif(not IMAGENET.exists(), reason=f"needs {IMAGENET.name} in shared/data/tables")
def test_the_published_report_is_what_its_table_gives(tmp_path: Path) -> None:
    summary = write_table_report(IMAGENET, IMAGENET_MAP, tmp_path)
    kept = ROOT / "reports" / "imagenet-1116"
    assert summary.folder.name == kept.name
    assert summary.outcome == "undecided"
    told = ("README.md", "methods.md", "references.bib")
    for path in (*told, "tables/families.csv", "tables/models.csv"):
        assert (summary.folder / path).read_text() == (kept / path).read_text(), path


@pytest.mark.skipif(not MINDERER.exists(), reason=f"needs {MINDERER.name} in shared/data/tables")
def test_the_table_of_minderer_et_al_has_a_report(tmp_path: Path) -> None:
    summary = write_table_report(MINDERER, MINDERER_MAP, tmp_path)
    page = (summary.folder / "README.md").read_text()
    assert "with 2 attention and 5 convolution families" in page
    assert "26 models of 24.0M to 936M parameters, 7 families, on ImageNet" in page
    assert "none left out" in page
