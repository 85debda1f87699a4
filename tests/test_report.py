"""The report as a whole: what it says, what it survives, and that the same data give the same."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from synthetic import MODELS, TEXT_MODELS, FakeModel, make_record, write_tree

from benchmark.claim import evaluate_claim
from benchmark.claim.text import render_markdown
from benchmark.markup import escape_markdown
from benchmark.records import Failure, RunFolder, SuiteMembers, find_records
from benchmark.report import command, main, write_report
from benchmark.report import contents as report_contents
from benchmark.report.choice import choose
from benchmark.report.command import write_comparison
from benchmark.report.comparison import compare_results
from benchmark.report.contents import _about_timing
from benchmark.report.data import ReportError, over_seeds
from benchmark.report.evaluations import MISTAKES, thumbnail
from benchmark.report.reading import read_suite, suite_names

NASTY = "<img src=x onerror=alert(1)> | `a` [x](http://e.org) $y$ \x1b[31m </script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_tree(root, rows=300, failed=["deit-tiny"])
    write_tree(root, TEXT_MODELS, ["bbc-sentences"], rows=300, classes=5)
    runs = [
        *(run.name.partition("/")[2] for run, _ in find_records(root)),
        "never-run/mnist-5k/seed-0",
    ]
    SuiteMembers(
        suite="embedded",
        base="embedded",
        registry="registry.yaml",
        declared=True,
        runs=dict.fromkeys([*runs, "never-run/mnist-5k/seed-0"], "embedded"),
    ).write(root)
    return root


@pytest.fixture(scope="module")
def written(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    reports = tmp_path_factory.mktemp("reports")
    return write_report(results, reports).folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_first_screen_answers_which_model_and_whether_the_claim_is_true(
    results: Path, written: Path
) -> None:
    first = (written / "README.md").read_text().split("## ")[0]
    assert "14 models, 14 families, 2 datasets, 2 seeds: 26 of 29 runs completed" in first
    assert "**Which model should I take?**" in first
    data = read_suite(results, "embedded")
    groups = choose(data).groups
    assert [group.best for group in groups] == ["textcnn-tiny", "resnet-tiny"]
    for group in groups:
        assert f": **{group.best}**{group.advice.removeprefix(group.best)}\n" in first
    told = evaluate_claim(data.frame).verdict.sentences
    opening, _, rest = told[0].partition(" ")
    assert f"**Is the claim true?**\n\n**{opening}** {escape_markdown(rest)}" in first
    assert "(figures/front.svg)" in first
    assert first.count("| [vit-tiny](models/vit-tiny.md)") == 1


def test_page_and_command_tell_the_claim_in_the_same_words(results: Path, written: Path) -> None:
    (suite,) = suite_names(results)
    frame = read_suite(results, suite).frame
    told = render_markdown(evaluate_claim(frame)).split("\n## ", 1)[1]
    page = (written / "README.md").read_text().split("## The claim in detail\n")[1]
    lines = [line.strip("#- ") for line in told.splitlines() if line]
    assert len(lines) > 40
    assert not [line for line in lines if line not in page]


def test_every_link_leads_somewhere(written: Path) -> None:
    for page in [written / "README.md", *written.glob("models/*.md")]:
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page.read_text())
        children = [child for token in tokens for child in token.children or []]
        targets = [str(c.attrs.get("href") or c.attrs.get("src") or "") for c in children]
        targets = [target for target in targets if target and not target.startswith("#")]
        assert targets
        for target in targets:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_failed_and_missing_runs_are_listed_and_not_imputed(written: Path) -> None:
    page = (written / "README.md").read_text()
    missing = page.split("## Missing and failed runs")[1]
    assert re.search(r"deit-tiny/mnist-5k/seed-0 +\| failed +\| training", missing)
    assert re.search(r"never-run/mnist-5k/seed-0 +\| missing", missing)
    section = page.split("## mnist-5k")[1].split("## ")[0]
    assert "deit-tiny" not in section
    with (written / "tables" / "problems.csv").open() as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"failed", "missing"}


def test_numbers_in_the_table_are_those_of_the_records(results: Path, written: Path) -> None:
    section = (written / "README.md").read_text().split("## mnist-5k")[1]
    row = next(line for line in section.splitlines() if line.startswith("| [vit-tiny]"))
    row = row.replace("\N{NO-BREAK SPACE}", " ")
    cells = [cell.strip(" *") for cell in row.strip("|").split("|")]
    records = [
        json.loads((results / f"embedded/vit-tiny/mnist-5k/seed-{seed}/record.json").read_text())
        for seed in (0, 1)
    ]

    def values(map_name: str, metric: str, part: str = "value") -> list[float]:
        return [record["scores"]["test"]["maps"][map_name][metric][part] for record in records]

    accuracy = values("none", "accuracy")
    assert cells[2] == f"{100 * np.mean(accuracy):.1f}% ± {100 * np.std(accuracy, ddof=1):.1f}"
    before, after = np.mean(values("none", "ece_15")), np.mean(values("temperature", "ece_15"))
    assert cells[3] == f"{100 * before:.2f} → {100 * after:.2f}"
    debiased = [  # unbiased on the squared scale, so averaged there
        100 * np.sqrt(np.mean(np.square(values("none", "debiased_calibration_error", part))))
        for part in ("value", "low", "high")
    ]
    assert cells[5] == "{:.2f} ({:.2f}, {:.2f})".format(*debiased)


def test_csv_rows_lead_to_records_and_logits(results: Path, written: Path) -> None:
    with (written / "tables" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 + 26 * 4  # two failed runs; test and three shifted splits elsewhere
    for row in rows:
        folder = results / "embedded" / row["folder"]
        assert (folder / "record.json").exists()
        assert (folder / "logits.safetensors").exists() == (row["status"] == "completed")
    record = json.loads((results / "embedded" / rows[-1]["folder"] / "record.json").read_text())
    stored = record["scores"][rows[-1]["split"]]["maps"]["temperature"]["nll"]["value"]
    assert float(rows[-1]["nll_temperature"]) == stored


def test_unstable_timing_is_flagged_with_its_reason(written: Path) -> None:
    page = (written / "README.md").read_text()
    assert re.search(r"swin-tiny.*⚠ \|", page)
    assert "⚠ swin-tiny: single-stream forward, 1 thread: another process used 0.9 cores" in page


def test_latencies_of_several_machines_are_told_apart(tmp_path: Path) -> None:
    write_tree(tmp_path, MODELS[:3], ["digits", "mnist-5k"], rows=60)
    one = read_suite(tmp_path, "embedded")
    assert one.timed_on
    assert _about_timing(one, "digits", over_seeds(one.in_distribution).head(0)) == ()
    for folder, record in find_records(tmp_path / "embedded" / MODELS[0].name / "digits"):
        assert record.timing is not None
        setting = record.timing.setting.model_copy(update={"device_name": "H100 \x1b[31m"})
        timing = record.timing.model_copy(update={"setting": setting})
        folder.write_record(record.model_copy(update={"timing": timing}))
    two = read_suite(tmp_path, "embedded")
    (told,) = _about_timing(two, "digits", over_seeds(two.in_distribution).head(0))
    assert told.startswith("latencies come from 2 machines, and only those of one compare: ")
    assert f"({MODELS[1].name}, {MODELS[2].name}); H100" in told
    assert told.endswith(f"({MODELS[0].name})")
    assert "\x1b" not in told
    assert _about_timing(two, "mnist-5k", over_seeds(two.in_distribution).head(0)) == ()


def test_same_data_same_report(results: Path, written: Path, tmp_path: Path) -> None:
    again = write_report(results, tmp_path).folder
    assert files(again) == files(written)


def test_a_crash_leaves_the_old_report(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "embedded"
    folder.mkdir()
    (folder / command.MARKER).write_text("{}")
    (folder / "README.md").write_text("old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report_contents, "gather", crash)
    with pytest.raises(KeyboardInterrupt):
        write_report(results, tmp_path)
    assert (folder / "README.md").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["embedded"]


def test_a_folder_that_is_no_report_is_not_replaced(results: Path, tmp_path: Path) -> None:
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "thesis.tex").write_text("years of work")
    with pytest.raises(ReportError, match="not a report and will not be replaced"):
        write_report(results, tmp_path)
    assert (tmp_path / "embedded" / "thesis.tex").read_text() == "years of work"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose registry text, labels and errors all try to break it."""
    results, reports = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("out")
    models = [
        FakeModel(model.name, model.mixer, f"{model.family} {NASTY}", model.parameters)
        for model in MODELS
    ]
    write_tree(results, models, rows=120, seeds=[0])
    failure = Failure(stage=NASTY, kind="Error", message=NASTY)
    folder = results / "embedded" / "bad" / "mnist-5k" / "seed-0"
    folder.mkdir(parents=True)
    model = FakeModel("bad", "mlp", NASTY, 1)
    RunFolder(folder).write_record(make_record(model, "mnist-5k", 0, {}, failure=failure))
    return write_report(results, reports).folder


def test_hostile_text_stays_text_in_markdown(hostile: Path) -> None:
    for page in hostile.rglob("*.md"):
        rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(page.read_text())
        assert "onerror=alert(1)&gt;" in rendered or "onerror" not in rendered
        assert "<img src=x" not in rendered.replace('"', "")
        assert 'http://e.org"' not in rendered
        assert "\x1b" not in page.read_text()
        # A cell that broke its row would give rows of different lengths.
        for table in re.findall(r"<table>.*?</table>", rendered, re.DOTALL):
            rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
            assert len({len(re.findall(r"<t[hd]", row)) for row in rows}) == 1


def test_hostile_text_stays_text_in_html(hostile: Path) -> None:
    page = (hostile / "index.html").read_text()
    assert "onerror=alert(1)&gt;" in page
    assert "<img src=x" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert "default-src 'none'" in page


def test_html_needs_no_network(written: Path) -> None:
    page = (written / "index.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "@import" not in page
    names = re.findall(r'\bid="([^"]+)"', page)
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(names)


def test_surest_mistakes_are_wrong_and_ordered(results: Path) -> None:
    data = read_suite(results, "embedded")
    table = over_seeds(data.in_distribution)
    evaluations, _ = report_contents.evaluate_models(data, table)
    assert len(evaluations) == 13
    for evaluation in evaluations:
        sure = [mistake.before for mistake in evaluation.mistakes]
        assert len(sure) == MISTAKES
        assert sure == sorted(sure, reverse=True)
        assert all(mistake.label != mistake.predicted for mistake in evaluation.mistakes)
        assert "could not be read again" in evaluation.note  # the synthetic runs have no data


def test_thumbnails_keep_the_picture() -> None:
    from io import BytesIO

    from PIL import Image

    small = np.zeros((28, 28, 3), np.uint8)
    small[:14] = 255
    picture = Image.open(BytesIO(thumbnail(small)))
    assert picture.size == (84, 84)
    assert picture.getpixel((0, 41)) == (255, 255, 255)
    assert picture.getpixel((0, 42)) == (0, 0, 0)
    assert Image.open(BytesIO(thumbnail(np.zeros((300, 150, 3), np.uint8)))).size == (42, 84)


def test_unreadable_record_and_missing_logits_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "results", MODELS[:4], rows=120, shifts=())
    broken = tmp_path / "results/embedded/vit-tiny/mnist-5k/seed-0"
    (broken / "record.json").write_text("{}")
    (tmp_path / "results/embedded/resnet-tiny/mnist-5k/seed-0/logits.safetensors").unlink()
    folder = write_report(tmp_path / "results", tmp_path / "reports").folder
    page = (folder / "README.md").read_text()
    assert "7 of 8 runs completed (1 unreadable)" in page
    assert re.search(r"vit-tiny/mnist-5k/seed-0 +\| unreadable", page)
    assert re.search(r"resnet-tiny/mnist-5k/seed-0/logits.safetensors.*no logits", page)


def test_nothing_completed_still_gives_a_report(tmp_path: Path) -> None:
    names = [model.name for model in MODELS[:2]]
    write_tree(tmp_path / "results", MODELS[:2], failed=names)
    folder = write_report(tmp_path / "results", tmp_path / "reports").folder
    page = (folder / "README.md").read_text()
    assert "0 of 4 runs completed (4 failed)" in page
    assert "could not be tested" in page
    assert (folder / "index.html").exists()


def test_command_line(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results), "--reports", str(tmp_path), "--suite", "nope"]) == 2
    assert "no suite 'nope'; there are: embedded" in capsys.readouterr().err
    assert main(["--results", str(tmp_path / "none"), "--reports", str(tmp_path)]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, benchmark.report as r\n"
        "try: r.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch','pandas','matplotlib','seaborn','scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_comparison_finds_what_changed(tmp_path: Path) -> None:
    sharper = FakeModel("vit-tiny", "attention", "ViT", 184_906, 2.6, 3.0, 1.1)
    for tree, models in (("a", MODELS[:3]), ("b", [sharper, MODELS[1]])):
        write_tree(tmp_path / tree, models, rows=400, seeds=[0], shifts=())
    changed = tmp_path / "{}/embedded/vit-tiny/mnist-5k/seed-0/spec.json"
    for tree, rate in (("a", 0.1), ("b", 0.2)):
        Path(str(changed).format(tree)).write_text(json.dumps({"recipe": {"learning_rate": rate}}))
    comparison = compare_results(tmp_path / "a", tmp_path / "b")
    by_name = {pair.name.split("/")[1]: pair for pair in comparison.pairs}
    assert by_name["deit-tiny"].identical
    vit = by_name["vit-tiny"]
    assert not vit.identical
    assert vit.settings == ("recipe.learning_rate: 0.1 → 0.2",)
    accuracy, _, before, after = vit.changes
    assert accuracy.difference == 0  # a sharper softmax predicts the same classes
    assert before.low > 0
    assert after.low <= 0 <= after.high
    assert comparison.only_first == ("embedded/swin-tiny/mnist-5k/seed-0",)
    page = (write_comparison(tmp_path / "a", tmp_path / "b", tmp_path) / "README.md").read_text()
    assert "2 runs in both: 1 with identical logits, 1 changed" in page
    assert "recipe.learning\\_rate" in page or "recipe.learning_rate" in page


def test_comparison_refuses_what_it_cannot_pair(tmp_path: Path) -> None:
    write_tree(tmp_path / "a", MODELS[:1], rows=100, seeds=[0], shifts=())
    write_tree(tmp_path / "b", MODELS[:1], rows=120, seeds=[0], shifts=())
    write_tree(tmp_path / "c", MODELS[1:2], rows=100, seeds=[0], shifts=())
    (pair,) = compare_results(tmp_path / "a", tmp_path / "b").pairs
    assert not pair.changes
    assert pair.problem
    with pytest.raises(ReportError, match=r"no run .* in common"):
        compare_results(tmp_path / "a", tmp_path / "c")
