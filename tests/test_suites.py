"""A suite holds what its registry declares; what a command chooses beyond it is kept apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import MODELS, write_tree

from benchmark import Registry, load_results
from benchmark.claim import main as claim_main
from benchmark.plan import Selection, select
from benchmark.records import (
    ResultsError,
    RunFolder,
    SuiteMembers,
    read_stamp,
    runs_of_suite,
    runs_outside,
    suite_members,
)
from benchmark.report import main as report_main
from benchmark.report import write_report
from benchmark.report.model_pages import model_pages
from benchmark.report.reading import read_suite

ROOT = Path(__file__).parents[1]

EXTENDING = """
extends: registry.yaml
models:
  mine:
    scratch: {model_type: vit, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
      intermediate_size: 16, patch_size: 4}
    modality: image
    mixer: attention
    family: Mine
    recipe: quick
"""


@pytest.fixture
def extending(registry_file: Path) -> Path:
    path = registry_file.with_name("mine.yaml")
    path.write_text(EXTENDING, encoding="utf-8")
    return path


def homes(selection: Selection) -> dict[str, str]:
    return {spec.name: spec.suite for spec in selection.specs}


# --- which runs a suite declares ------------------------------------------------------------------


def test_a_part_of_what_is_declared_is_of_the_suite(registry_file: Path) -> None:
    registry = Registry.load(registry_file)
    whole, part = select(registry), select(registry, models=["vit"])
    assert part.suite == whole.suite == "small"
    assert part.members == whole.members
    assert set(part.members[0].runs) == {"vit/digits/seed-0", "resnet/digits/seed-0"}
    assert part.members[0].declared
    assert part.note == ""


@pytest.mark.parametrize(
    ("chosen", "apart"),
    [
        ({"models": ["all", "bert"], "datasets": ["all", "bbc"]}, "bert/bbc/seed-0"),
        ({"seeds": 2}, "vit/digits/seed-1"),
    ],
)
def test_what_is_chosen_beyond_the_suite_is_kept_apart(
    registry_file: Path, chosen: dict[str, object], apart: str
) -> None:
    selection = select(Registry.load(registry_file), **chosen)  # type: ignore[arg-type]
    assert selection.suite == "small+selection"
    assert homes(selection)["vit/digits/seed-0"] == "small"  # trained once, wherever it is asked
    assert homes(selection)[apart] == "small+selection"
    assert "suite small does not declare all of these runs" in selection.note
    declared, picked = selection.members
    assert (declared.suite, declared.declared) == ("small", True)
    assert (picked.declared, picked.runs) == (False, homes(selection))


def test_limited_selections_are_kept_apart_from_limited_suites(registry_file: Path) -> None:
    registry = Registry.load(registry_file)
    assert select(registry, limit=9).suite == "small-limit-9"
    assert select(registry, limit=9, seeds=2).suite == "small+selection-limit-9"


def test_what_an_extending_registry_adds_is_named_after_its_file(extending: Path) -> None:
    registry = Registry.load(extending)
    assert select(registry).suite == "small"
    selection = select(registry, models=["vit", "mine"])
    assert selection.suite == "mine"
    assert homes(selection) == {"vit/digits/seed-0": "small", "mine/digits/seed-0": "mine"}


def test_a_changed_recipe_of_a_declared_model_is_not_mixed_in(extending: Path) -> None:
    before = select(Registry.load(extending.with_name("registry.yaml")))
    text = extending.with_name("registry.yaml").read_text()
    line = next(line for line in text.splitlines() if line.strip().startswith("quick:"))
    changed = line.replace("epochs: 2", "epochs: 3")
    assert changed != line
    extending.write_text(f"extends: registry.yaml\nrecipes:\n{changed}\n")
    after = select(Registry.load(extending))
    assert after.suite == "mine"
    assert set(homes(after).values()) == {"mine"}
    assert before.specs[0].key("training") != after.specs[0].key("training")


def test_a_suite_that_two_files_declare_is_that_of_the_file_extended(extending: Path) -> None:
    extending.write_text(
        "extends: registry.yaml\nsuites:\n  small: {models: [vit], datasets: [digits]}\n"
    )
    selection = select(Registry.load(extending))
    assert selection.suite == "mine"
    assert homes(selection) == {"vit/digits/seed-0": "small"}  # the same run, trained once


def test_a_suite_that_only_the_extending_file_declares_is_its_own(extending: Path) -> None:
    extending.write_text(EXTENDING + "suites:\n  own: {models: [mine], datasets: [digits]}\n")
    selection = select(Registry.load(extending), suite="own")
    assert (selection.suite, selection.members[0].registry) == ("own", "mine.yaml")


def test_a_file_named_as_a_suite_takes_no_suites_place(extending: Path) -> None:
    other = extending.rename(extending.with_name("small.yaml"))
    assert select(Registry.load(other), models=["mine"]).suite == "small+selection"


# --- what a tree says of it -----------------------------------------------------------------------


def declare(results: Path, runs: dict[str, str], suite: str = "embedded", **more: object) -> None:
    facts = {"base": "embedded", "registry": "registry.yaml", "declared": True} | more
    SuiteMembers(suite=suite, runs=runs, **facts).write(results)  # type: ignore[arg-type]


def names(models: tuple[str, ...], seeds: tuple[int, ...] = (0, 1)) -> list[str]:
    return [f"{model}/mnist-5k/seed-{seed}" for model in models for seed in seeds]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "results", MODELS[:4], rows=200, shifts=())


def test_undeclared_runs_in_the_folder_are_left_out_and_named(results: Path) -> None:
    declared = names(("vit-tiny", "resnet-tiny"))
    declare(results, dict.fromkeys(declared, "embedded"))
    data = read_suite(results, "embedded")
    assert set(data.frame["model"]) == {"vit-tiny", "resnet-tiny"}
    assert set(load_results(results / "embedded")["model"]) == {"vit-tiny", "resnet-tiny"}
    outside = {problem.run for problem in data.problems if problem.status == "left out"}
    assert outside == set(names(("deit-tiny", "swin-tiny")))
    assert len(runs_outside(results, "embedded")) == 4


def test_declared_runs_without_a_record_are_missing_and_the_verdict_says_so(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = names(("vit-tiny", "deit-tiny", "swin-tiny", "resnet-tiny", "never-run"))
    declare(results, dict.fromkeys(runs, "embedded"))
    summary = write_report(results, tmp_path / "reports")
    assert "Of the 10 runs that suite embedded declares, 2 have no result" in summary.incomplete
    assert summary.verdict[-1] == summary.incomplete
    assert {problem.status for problem in summary.problems} == {"missing"}
    assert claim_main([str(results / "embedded")]) == 0
    assert "note: Of the 10 runs" in capsys.readouterr().err


def test_a_selection_holds_runs_of_the_suite_too(results: Path) -> None:
    write_tree(results, MODELS[4:5], rows=200, shifts=(), suite="mine")
    runs = dict.fromkeys(names(("vit-tiny",)), "embedded") | dict.fromkeys(
        names(("regnet-tiny",)), "mine"
    )
    declare(results, runs, suite="mine", declared=False, registry="mine.yaml")
    for frame in (load_results(results, suite="mine"), load_results(results / "mine")):
        assert set(frame["model"]) == {"vit-tiny", "regnet-tiny"}
        assert set(frame["suite"]) == {"mine"}
    data = read_suite(results, "mine")
    assert set(data.in_distribution["model"]) == {"vit-tiny", "regnet-tiny"}
    folders = {data.relative(folder) for folder in data.frame["folder"]}
    assert "../embedded/vit-tiny/mnist-5k/seed-0" in folders
    for page in model_pages(data, []):
        assert page.command == (
            "accelerate launch benchmark/run.py --registry=mine.yaml --datasets mnist-5k --seeds 2 "
            f"--suite embedded --models {page.model} --force"
        )


def test_a_tree_without_a_list_of_runs_is_read_whole(results: Path) -> None:
    assert suite_members(results, "embedded") is None
    assert len(runs_of_suite(results, "embedded")) == 8


@pytest.mark.parametrize("name", ["../../etc/seed-0", "/etc/passwd/seed-0", "a/../seed-0", "a/b"])
def test_a_list_of_runs_leads_nowhere_else(results: Path, name: str) -> None:
    content = {
        "format": 1, "suite": "embedded", "base": "embedded", "registry": "",
        "declared": True, "runs": {name: "embedded"},
    }  # fmt: skip
    (results / "embedded" / "suite.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="no list of a suite's runs"):
        read_suite(results, "embedded")


def test_several_suites_are_never_taken_for_one(results: Path) -> None:
    write_tree(results, MODELS[:2], rows=200, shifts=(), suite="smoke")
    with pytest.raises(ResultsError, match=r"holds several suites: embedded, smoke\. Choose one"):
        load_results(results)
    with pytest.raises(ResultsError, match="holds several suites, choose one"):
        load_results(results.parent)
    with pytest.raises(ResultsError, match="no suite 'smok'; there are: embedded, smoke"):
        load_results(results, suite="smok")
    assert set(load_results(results, suite="smoke")["model"]) == {"vit-tiny", "deit-tiny"}
    both = load_results(results, suite=["smoke", "embedded"])
    assert both.groupby("suite")["model"].nunique().to_dict() == {"embedded": 4, "smoke": 2}


# --- as a user types it ---------------------------------------------------------------------------


def run(registry: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable, str(ROOT / "benchmark" / "run.py"), "--registry", str(registry),
        "--results", str(folder / "results"), "--reports", str(folder / "reports"),
        "--timing", "off", *arguments,
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_ad_hoc_runs_leave_the_suites_report_as_it_was(extending: Path, tmp_path: Path) -> None:
    suite = run(extending.with_name("registry.yaml"), tmp_path)
    assert suite.returncode == 0, suite.stderr
    before = content(tmp_path / "reports" / "small")
    records = content(tmp_path / "results" / "small")

    beyond = run(extending, tmp_path, "--models", "vit,mine")
    assert beyond.returncode == 0, beyond.stderr
    assert "suite mine: 2 runs, 1 to do" in beyond.stdout
    assert "kept apart as mine" in beyond.stdout
    page = (tmp_path / "reports" / "mine" / "README.md").read_text()
    assert "2 of 2 runs completed" in page
    seeds = run(extending.with_name("registry.yaml"), tmp_path, "--models", "vit", "--seeds", "2")
    assert "suite small+selection: 2 runs, 1 to do" in seeds.stdout
    assert (tmp_path / "reports" / "small+selection" / "index.html").exists()

    assert content(tmp_path / "results" / "small") == records
    assert content(tmp_path / "reports" / "small") == before
    again = ["--results", str(tmp_path / "results"), "--reports", str(tmp_path / "again")]
    assert report_main([*again, "--registry", str(extending)]) == 0
    assert content(tmp_path / "again" / "small") == before


def test_part_of_a_suite_is_reported_as_a_part(registry_file: Path, tmp_path: Path) -> None:
    part = run(registry_file, tmp_path, "--models", "vit")
    assert "1 of 1 runs completed" in part.stdout
    assert "Of the 2 runs that suite small declares, 1 has no" in " ".join(part.stdout.split())
    page = (tmp_path / "reports" / "small" / "README.md").read_text()
    assert "resnet/digits/seed-0" in page
    stamp = read_stamp(tmp_path / "results", "small")
    assert stamp is not None
    assert stamp.records_before == 0
    assert f"hash {stamp.digest[:12]}, before the first run" in page
    registry_file.write_text(registry_file.read_text() + "claim: {alpha: 0.01}\n")
    whole = run(registry_file, tmp_path)
    assert "2 runs, 1 to do" in whole.stdout
    assert "has no result" not in whole.stdout
    assert read_stamp(tmp_path / "results", "small") == stamp
    page = (tmp_path / "reports" / "small" / "README.md").read_text()
    assert "alpha was 0.05, now 0.01" in page


def test_json_is_one_document_and_progress_goes_elsewhere(
    registry_file: Path, tmp_path: Path
) -> None:
    result = run(registry_file, tmp_path, "--limit", "96", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["format"], document["exit_code"]) == (1, 0)
    (report,) = document["reports"]
    assert set(report) == {
        "suite", "runs", "table", "maps_by", "advice", "flags", "verdict", "problems", "paths",
    }  # fmt: skip
    assert report["runs"] == {"completed": 2}
    models = [row["model"] for group in report["table"] for row in group["models"]]
    frame = load_results(tmp_path / "results", suite="small-limit-96")
    assert sorted(models) == sorted(frame["model"].unique())
    assert all(Path(path).exists() for path in report["paths"].values())
    assert "2 of 2 runs completed" in result.stderr


def test_json_goes_with_nothing_that_runs_nothing(registry_file: Path, tmp_path: Path) -> None:
    result = run(registry_file, tmp_path, "--json", "--dry-run")
    assert result.returncode == 2
    assert result.stdout == ""


def test_the_readmes_example_does_what_it_says(tmp_path: Path) -> None:
    """In a tree of several suites, with the registry that it names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## Use it from Python\n\n")[1].split("\n\nThe statistics work")[0]
    code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    (tmp_path / "registry.yaml").write_bytes((ROOT / "registry.yaml").read_bytes())
    write_tree(tmp_path / "results", MODELS, rows=100, shifts=())
    before = content(tmp_path / "results" / "embedded")
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    shown = [line for line in result.stdout.splitlines() if "-tiny" in line][-2:]
    assert [line.split()[1] for line in shown] == ["resnet-tiny", "vit-tiny"]
    assert content(tmp_path / "results" / "embedded") == before
    assert RunFolder(tmp_path / "results/smoke/vit-tiny/digits/seed-0").read_record() is not None
