"""What a paper takes from a report: methods, references, one LaTeX table, PDF figures, all rows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from synthetic import MODELS, PROVENANCE, write_tree

from benchmark import Registry, plan
from benchmark.markup import Cell, Column, Table
from benchmark.records import (
    Record,
    RunFolder,
    column_facts,
    find_records,
    load_results,
    read_split,
)
from benchmark.registry import DEFAULT_REGISTRY
from benchmark.report import main, write_report, write_table_report
from benchmark.report.bibliography import Bibliography, known_works, parse_bibtex
from benchmark.report.data import ReportError
from benchmark.report.latex import MAX_FLOAT_ROWS, escape_latex, latex_table
from benchmark.report.methods import PROGRAM
from benchmark.report.samples import COLUMNS, schema, write_samples
from benchmark.statistics import MAPS, METRICS

ROOT = Path(__file__).parents[1]
SHOWN = (MODELS[0], MODELS[3])
CITED = re.compile(r"\[@([\w-]+(?:; @[\w-]+)*)\]")
SHIFTS = ("noise-1", "noise-2", "noise-3")


def changed(folder: RunFolder, **parts: object) -> None:
    record = folder.read_record()
    assert record is not None
    folder.write_record(record.model_copy(update=parts))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of the default suite with their specifications, and one that failed."""
    root = tmp_path_factory.mktemp("results")
    write_tree(root, (*SHOWN, MODELS[1]), rows=200, shifts=SHIFTS, failed=["deit-tiny"])
    names = [model.name for model in (*SHOWN, MODELS[1])]
    registry = Registry.load(ROOT / DEFAULT_REGISTRY)
    for spec in plan(registry, models=names, datasets=["mnist-5k"], seeds=2):
        folder = spec.folder(root)
        folder.write_spec(spec.model_dump_json())
        record = folder.read_record()
        assert record is not None
        reference = {"reference": spec.model.reference}
        changed(
            folder,
            facts=record.facts.model_copy(update=reference),
            keys={"scores": spec.key("scores") if spec.seed == 0 else "of another version"},
            provenance=PROVENANCE | {"data_revision": "0123456789abcdef"},
        )
    return root


@pytest.fixture(scope="module")
def plain(results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a report without PDFs."""
    folder = write_report(results, tmp_path_factory.mktemp("plain")).folder
    return files(folder)


@pytest.fixture(scope="module")
def written(
    results: Path, plain: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same report, to which PDFs were added later."""
    reports = tmp_path_factory.mktemp("reports")
    for name, content in plain.items():
        path = reports / "embedded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    summary = write_report(results, reports, pdf=True)
    assert summary.is_new
    return summary.folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cited_in(page: str) -> set[str]:
    return {key for found in CITED.findall(page) for key in found.split("; @")}


def keys_of(bibtex: str) -> list[str]:
    return [work.key for work in parse_bibtex(bibtex)]


# --- citation -------------------------------------------------------------------------------------


def test_the_citation_file_says_what_the_project_says() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(told)  # what CFF 1.2 requires
    assert told["cff-version"] == "1.2.0"
    assert told["title"].startswith(f"{project['name']}: ")
    assert (told["version"], told["license"]) == (project["version"], project["license"])
    assert project["name"] == PROGRAM


def test_known_works_are_whole() -> None:
    text = (ROOT / "benchmark/report/works.bib").read_text(encoding="ascii")
    works = known_works()
    assert len(works) == len(re.findall(r"^@", text, re.MULTILINE))
    assert len({work.key for work in works}) == len(works)
    for work in works:
        assert all(work.get(name) for name in ("author", "title", "year")), work.key
        assert parse_bibtex(work.to_bibtex()) == [work]
        for _, value in work.fields:
            assert value.count("{") == value.count("}")
    identities = [work.get(name) for work in works for name in ("eprint", "doi", "url")]
    assert len(set(identities)) == len([one for one in identities if one]) + 1


@pytest.mark.parametrize("file", ["registry.yaml", "docs/pretrained.yaml", "docs/controlled.yaml"])
def test_every_reference_of_a_registry_is_known(file: str) -> None:
    registry = Registry.load(ROOT / file)
    works = Bibliography()
    for entry in (*registry.models.values(), *registry.datasets.values()):
        if entry.reference is not None:
            works.of_reference(entry.reference, entry.name)
    assert works.cited
    assert set(works.cited) <= {work.key for work in known_works()}


def test_every_source_of_a_metric_or_map_is_known() -> None:
    texts = [metric.source for metric in METRICS.values()]
    texts += [metric.interval.describe() for metric in METRICS.values()]
    texts += [made.source for made in MAPS.values()]
    for text in texts:
        told = Bibliography().in_text(text)
        assert not re.search(r"\b(1[89]|20)\d\d\b", CITED.sub("", told)), told


def test_what_is_not_known_is_cited_by_what_the_registry_says() -> None:
    works = Bibliography()
    marks = [
        works.of_reference("arXiv:2401.99999", "new_model"),
        works.of_reference("doi:10.1/a_{b}", "other"),
        works.of_reference("https://example.org/a_b", "site"),
        works.of_reference("Smith & Sons 2024 {sic}", "words"),
        works.of_hub_page("owner/a-b_c", "0123abc"),
        works.of_hub_page("owner/a_b-c", None, data=True),
    ]
    assert len(set(marks)) == 6
    text = works.to_bibtex()
    assert keys_of(text) == sorted(works.cited)
    text.encode("ascii")
    assert text.count("{") == text.count("}")
    assert "eprint = {2401.99999}" in text
    assert r"Smith \& Sons 2024 (sic)" in text
    assert "revision 0123abc" in text
    assert works.of_hub_page("owner/a-b_c", "0123abc") == marks[4]


# --- methods --------------------------------------------------------------------------------------


def test_what_is_cited_is_in_the_bibliography_and_nothing_else_is(written: Path) -> None:
    page = (written / "methods.md").read_text()
    keys = keys_of((written / "references.bib").read_text())
    assert len(keys) == len(set(keys))
    assert cited_in(page) == set(keys)
    assert {"dosovitskiy2021image", "he2016deep", "lecun1998gradient", "guo2017calibration"} <= set(
        keys
    )
    assert "liu2021swin" not in keys


def test_methods_are_those_of_the_records(written: Path) -> None:
    page = (written / "methods.md").read_text()
    assert "- 3 models of 3 families: 2 attention, 1 convolution." in page
    assert "- 6 runs of 2 seeds (0, 1), 4 completed, 2 failed." in page
    assert "shifted test sets of 200 rows: noise-1, noise-2, noise-3." in page
    assert "- 4 fits: 4 converged; 500 calibration rows." in page
    assert "0123456789ab " in page
    row = next(line for line in page.splitlines() if line.startswith("| vit-tiny "))
    for cell in ("ViT", "attention", "184,906", "random", "trained", "[@dosovitskiy2021image]"):
        assert f"| {cell} " in row
    recipe = next(line for line in page.splitlines() if line.startswith("| image-scratch "))
    assert [cell.strip() for cell in recipe.split("|")[4:9]] == [
        "6", "32", "0.002", "onecycle", "30% of steps",
    ]  # fmt: skip
    assert "torch 2.9.0 [@paszke2019pytorch]" in page
    # Only scores of this version are known to rest on so many resamples.
    assert "1,000 bootstrap resamples of the calibration rows" in page
    assert "(2 runs)" in page
    assert "2 runs with scores of another version" in page
    assert re.search(r"deit-tiny/mnist-5k/seed-0: failed \(out of memory", page)


def test_an_embedded_data_set_is_not_said_to_be_split_by_the_default_share(written: Path) -> None:
    assert "held out" not in (written / "methods.md").read_text()


def test_methods_without_specifications_say_less(tmp_path: Path) -> None:
    write_tree(tmp_path / "results", SHOWN, rows=100, shifts=(), seeds=[0])
    for folder, record in find_records(tmp_path / "results"):
        imported = record.provenance | {"imported": {"notes": ["one_note"]}}
        changed(folder, timing=None, provenance=imported)
    folder = write_report(tmp_path / "results", tmp_path / "reports").folder
    page = (folder / "methods.md").read_text()
    assert cited_in(page) == set(keys_of((folder / "references.bib").read_text()))
    assert "2 runs took in logits of another program" in page
    assert "AdamW" not in page
    assert "## Timing" not in page
    assert "resamples of the calibration rows" not in page
    assert "2 runs of which the version of the scoring code is not known" in page


def test_methods_of_a_published_table_say_whose_the_figures_are(tmp_path: Path) -> None:
    rows = [f"m{k},f{k % 6},{'cnn' if k % 6 < 3 else 'vit'},.8,.0{k % 7 + 1}" for k in range(24)]
    (tmp_path / "t.csv").write_text("model,family,mixer,accuracy,ece\n" + "\n".join(rows))
    (tmp_path / "map.yaml").write_text(
        "title: A table\nsource: Nobody et al. 2031\ncolumns:\n  model: model\n"
        "  family: family\n  accuracy: accuracy\n  error_before: ece\n"
        "  mixer: {from: mixer, rules: {cnn: convolution, vit: attention}}\n"
    )
    folder = write_table_report(
        tmp_path / "t.csv", tmp_path / "map.yaml", tmp_path / "reports"
    ).folder
    page = (folder / "methods.md").read_text()
    assert "The figures of this report are others'" in page
    assert "No model was trained, scored or timed" in page
    assert "Nobody et al. 2031 [@ref-nobody-et-al-2031]" in page
    assert cited_in(page) == set(keys_of((folder / "references.bib").read_text()))


# --- LaTeX ----------------------------------------------------------------------------------------

COMMANDS = re.compile(
    r"\\text[a-z]+\{\}|\\dots\{\}|-\{\}"
    r"|\{\\[^A-Za-z][A-Za-z]\}|\{\\[a-zA-Z] [A-Za-z]\}|\{\\[A-Za-z]+\}"
    r"|\\[&%$#_{}]|\$\\[A-Za-z]+\$|\$[-<>|]\$|\$\^(\\circ|[23])\$|\{[\[\]*]\}|~"
)


@given(st.text(max_size=30))
def test_latex_has_no_active_characters(text: str) -> None:
    escaped = escape_latex(text)
    assert escaped.isascii()
    assert not re.search(r"[\\&%$#_{}~^<>|`\[\]*]", COMMANDS.sub("", escaped.replace("``", "")))


def test_symbols_of_reports_are_commands() -> None:
    text = "∞ \N{MINUS SIGN} ± \N{MULTIPLICATION SIGN} → \N{GREEK SMALL LETTER ALPHA}"
    text += " Ω < _ % & # é ł 中 a--b"
    assert escape_latex(text) == (
        r"$\infty$ $-$ $\pm$ $\times$ $\rightarrow$ $\alpha$ $\Omega$ $<$ \_ \% \& \# "
        r"{\'e} {\l} \textbackslash{}u4e2d a-{}-b"
    )


def test_a_long_table_is_broken_over_pages() -> None:
    columns = (Column("a", "a_b", "left"), Column("n", "n"))
    for count, environment in ((3, "tabular"), (MAX_FLOAT_ROWS + 1, "longtable")):
        rows = [(Cell(f"row {k}"), Cell(str(k), bold=k == 1)) for k in range(count)]
        text = latex_table(Table(columns, rows), "100%", "tab:x", {0: "first_half", 2: "rest"})
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 1
        assert text.count(r"row ") == count
        assert r"\multicolumn{2}{l}{\textit{first\_half}} \\" in text
        assert r"row 1 & \textbf{1} \\" in text
        assert r"\caption{100\%}" in text


def test_one_table_has_every_model(written: Path) -> None:
    text = (written / "tables" / "overall.tex").read_text()
    text.encode("ascii")
    for model in SHOWN:
        assert len(re.findall(rf"^{model.name} &", text, re.MULTILINE)) == 1
    assert "mnist-5k (200 test rows)" in text
    assert text.count("begin{") == text.count("end{")


# --- figures --------------------------------------------------------------------------------------


def test_figures_as_pdf_have_text_and_stay_while_nothing_changes(
    results: Path, written: Path
) -> None:
    drawn = {path.stem for path in (written / "figures").glob("*.svg")}
    assert drawn == {path.stem for path in (written / "figures").glob("*.pdf")}
    first = (written / "figures" / "front.pdf").read_bytes()
    assert b"/Type3" not in first
    assert b"/FontFile2" in first  # an embedded TrueType font
    assert b"CreationDate" not in first
    kept = write_report(results, written.parent)
    assert not kept.is_new
    assert (written / "figures" / "front.pdf").read_bytes() == first


def test_pdfs_are_added_and_nothing_else_changes(plain: dict[str, bytes], written: Path) -> None:
    assert not [name for name in plain if name.endswith(".pdf")]
    now = files(written)
    added = {name for name in now if name not in plain}
    assert added == {f"{name[:-4]}.pdf" for name in plain if name.startswith("figures/")}
    assert {name for name in plain if now[name] != plain[name]} == {"report.json"}


# --- rows -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(results: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder, left_out = write_samples(results, tmp_path_factory.mktemp("samples"), "embedded")
    assert folder.name == "embedded+samples"
    assert [line.rsplit(" ", 1)[1] for line in left_out] == ["failed", "failed"]
    return pd.read_parquet(folder / "mnist-5k.parquet")


def scored(results: Path) -> Iterator[tuple[Record, RunFolder]]:
    for folder, record in find_records(results):
        if record.status == "completed":
            yield record, folder


def plain_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Written anew: fifteen bins closed on the right."""
    edges = np.linspace(0, 1, 16)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    gaps = [abs((confidence - correct)[bins == b].sum()) for b in range(15)]
    return float(sum(gaps) / len(confidence))


def test_metrics_of_the_rows_are_those_of_the_records(results: Path, samples: pd.DataFrame) -> None:
    keys = ["model", "seed", "split"]
    groups = dict(list(samples.groupby(keys)))
    compared = 0
    for record, _ in scored(results):
        for split, scores in record.scores.items():
            rows = groups[record.model, record.seed, split]
            for map_name, near in (("none", 1e-12), ("temperature", 1e-6)):
                # The synthetic records hold scores of logits that were rounded after division.
                values = {
                    "accuracy": rows["correct"].mean(),
                    "nll": -rows[f"log_likelihood_{map_name}"].mean(),
                    "brier": rows[f"brier_{map_name}"].mean(),
                }
                for name, value in values.items():
                    assert value == pytest.approx(scores.maps[map_name][name].value, abs=near)
                    compared += 1
            ece = plain_ece(rows["confidence_none"].to_numpy(), rows["correct"].to_numpy(float))
            assert ece == pytest.approx(scores.maps["none"]["ece_15"].value, abs=1e-12)
    assert compared == 4 * 4 * 2 * 3


def test_rows_stand_in_the_order_of_the_logits(results: Path, samples: pd.DataFrame) -> None:
    record, folder = next(scored(results))
    for split in ("calibration", "test", "noise-2"):
        stored = read_split(folder, split)
        rows = samples[
            (samples["model"] == record.model)
            & (samples["seed"] == record.seed)
            & (samples["split"] == split)
        ]
        assert rows["row_id"].tolist() == stored.ids.tolist()
        assert rows["label"].tolist() == stored.labels.tolist()
        assert rows["label_name"].tolist() == [f"class {label}" for label in stored.labels]
        assert rows["prediction"].tolist() == stored.logits.argmax(axis=1).tolist()
        top = np.stack(list(rows["top_classes"]))
        assert (top == np.argsort(-stored.logits, axis=1, kind="stable")[:, :5]).all()
        scores = np.stack(list(rows["top_log_probabilities"]))
        assert np.exp(scores[:, 0]) == pytest.approx(rows["confidence_none"].to_numpy(), abs=1e-6)
        assert set(rows["temperature"]) == {record.temperature.value}


def test_the_schema_is_that_of_the_page(samples: pd.DataFrame) -> None:
    assert list(samples.columns) == schema().names == [name for name, _, _ in COLUMNS]
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    for name, kind, meaning in COLUMNS:
        assert f"| `{name}` | {kind} | {meaning} |" in page


def test_rows_are_written_run_by_run_and_replaced_whole(results: Path, tmp_path: Path) -> None:
    for _ in range(2):
        folder, _ = write_samples(results, tmp_path, "embedded")
        with parquet.ParquetFile(folder / "mnist-5k.parquet") as file:
            assert file.metadata.num_row_groups == 4 * (2 + len(SHIFTS))
    (folder / "report.json").unlink()
    with pytest.raises(ReportError, match="will not be replaced"):
        write_samples(results, tmp_path, "embedded")


def test_two_classes_have_two_most_probable(tmp_path: Path) -> None:
    write_tree(tmp_path / "r", SHOWN[:1], ["pairs"], rows=30, classes=2, shifts=(), seeds=[0])
    folder, left_out = write_samples(tmp_path / "r", tmp_path, "embedded")
    assert left_out == []
    rows = pd.read_parquet(folder / "pairs.parquet")
    assert set(map(len, rows["top_classes"])) == {2}


def test_runs_without_logits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path / "r", SHOWN[:1], rows=30, shifts=(), seeds=[0], with_logits=False)
    options = ["--results", str(tmp_path / "r"), "--reports", str(tmp_path / "out"), "--samples"]
    assert main(options) == 2
    assert "no completed run has logits" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))
    write_tree(tmp_path / "r", SHOWN[1:], rows=30, shifts=(), seeds=[0])
    assert main(options) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "out" / "embedded+samples")
    assert "left out" in told.err
    assert SHOWN[0].name in told.err


def test_an_unknown_suite_is_told(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--results", str(results), "--reports", str(tmp_path), "--suite", "embeded"]
    assert main([*options, "--samples"]) == 2
    assert "no suite 'embeded'; there are: embedded" in capsys.readouterr().err


@pytest.mark.parametrize("other", [["--json"], ["--pdf"], ["--compare", "a", "b"]])
def test_options_that_do_not_go_with_rows_are_refused(other: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--samples", *other])


# --- columns --------------------------------------------------------------------------------------


def test_every_column_of_the_frame_is_described(results: Path) -> None:
    frame = load_results(results)
    for name in frame.columns:
        facts = column_facts(name)
        assert facts is not None, name
        values = frame[name].dropna()
        if facts.bounds is not None:
            numbers = values.astype(float)
            assert numbers.between(*facts.bounds).all(), name
        elif facts.kind == "text":
            assert all(isinstance(value, str) for value in values), name
        else:
            assert facts.kind == "truth value"
            assert all(isinstance(value, bool | np.bool_) for value in values), name
    for metric in METRICS:
        for map_name in MAPS:
            assert column_facts(f"{metric}_{map_name}") is not None
    assert column_facts("accuracy_none_floor") is None
    assert column_facts("accuracy_other") is None
