"""A report is kept only while all that it shows is the same; else it equals one from scratch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_files import write_csv
from synthetic import MODELS, make_record, write_tree

from benchmark.data import corpus
from benchmark.records import (
    Failure,
    LogitsSplit,
    RunFolder,
    SuiteMembers,
    fingerprint_path,
    read_split,
    split_names,
    stamp_claim,
    write_logits,
)
from benchmark.registry import Claim, Published
from benchmark.report import Summary, figures, inputs, write_report
from benchmark.report.content_key import content_key
from benchmark.report.drawings import Drawings, done, kept_drawings
from benchmark.report.figure_style import Drawing
from benchmark.report.row_sources import RowSources
from benchmark.report.stored_report import StoredReport

SHOWN = (MODELS[0], MODELS[1], MODELS[3], MODELS[4])
ROWS = 60


class Study:
    """A results tree whose rows lie in a file, and the options of its report."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.reports = folder, folder / "results", folder / "reports"
        self.options: dict[str, Any] = {
            "claim": Claim(),
            "row_sources": RowSources((folder / "home",)),
        }

    @property
    def runs(self) -> list[RunFolder]:
        return sorted(RunFolder(p.parent) for p in self.results.glob("*/*/*/*/record.json"))

    def write_rows(self, word: str) -> None:
        rows = [{"text": f"{word} {i}", "label": ("no", "yes")[i % 2]} for i in range(4 * ROWS)]
        write_csv(self.folder / "home" / "diary.csv", rows)
        fingerprint_path.cache_clear()  # as a new process begins
        corpus._load.cache_clear()

    def report(self, **options: Any) -> Summary:
        return write_report(self.results, self.reports, **self.options | options)

    def from_scratch(self) -> dict[str, bytes]:
        reports = self.folder / "scratch"
        shutil.rmtree(reports, ignore_errors=True)
        return files(write_report(self.results, reports, **self.options).folder)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study and its report."""
    study = Study(tmp_path_factory.mktemp("study"))
    write_tree(study.results, SHOWN, ["diary"], rows=ROWS, seeds=[0, 1], shifts=(), classes=2)
    study.write_rows("monday")
    entry = {
        "name": "diary", "path": str(study.folder / "home" / "diary.csv"), "modality": "text",
        "columns": {"text": "text"}, "splits": {"train": "train", "test": 0.5},
    }  # fmt: skip
    for run in study.runs:
        run.write_spec(json.dumps({"dataset": entry}))
    study.report()
    return study


@pytest.fixture
def study(written: Study, tmp_path: Path) -> Study:
    """A copy whose report is as in the original; only the file of rows is shared."""
    copy = Study(tmp_path)
    for part in ("results", "reports"):
        shutil.copytree(written.folder / part, tmp_path / part)
    copy.options = dict(written.options)
    return copy


def test_an_unchanged_report_is_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study.reports / "embedded"
    before, state = files(folder), folder.stat().st_ino
    monkeypatch.setattr("benchmark.report.command.read_suite", pytest.fail)
    again = study.report()
    assert not again.is_new
    assert again.folder == folder
    assert "monday" in (folder / "models" / "vit-tiny.md").read_text()
    assert (files(folder), folder.stat().st_ino) == (before, state)


def test_a_kept_report_is_told_in_the_same_words(study: Study) -> None:
    kept, drawn = study.report(), study.report(redraw=True)
    assert (kept.is_new, drawn.is_new) == (False, True)
    assert kept.as_json() == drawn.as_json()
    assert len(kept.choice.groups) == 1


def change_record(study: Study, **parts: Any) -> None:
    run = study.runs[0]
    record = run.read_record()
    assert record is not None
    run.write_record(record.model_copy(update=parts))


def error_of_a_record(study: Study) -> None:
    run = study.runs[0]
    text = run.record.read_text()
    content = {k: v for k, v in json.loads(text).items() if k != "checksum"}
    content["scores"]["test"]["maps"]["none"]["ece_15"]["value"] += 1e-9
    run.record.write_text(json.dumps(content))


def name_of_a_class(study: Study) -> None:
    record = study.runs[0].read_record()
    assert record is not None
    assert record.data is not None
    change_record(study, data=record.data.model_copy(update={"label_names": ("nay", "yea")}))


def facts_of_a_model(study: Study) -> None:
    record = study.runs[0].read_record()
    assert record is not None
    change_record(study, facts=record.facts.model_copy(update={"mixer": "hybrid"}))


def failed_run(study: Study) -> None:
    failure = Failure(stage="training", kind="Error", message="no memory")
    study.runs[0].write_record(make_record(SHOWN[1], "diary", 0, {}, failure=failure))


def run_that_is_gone(study: Study) -> None:
    shutil.rmtree(study.runs[-1].path)


def logits_of_a_run(study: Study) -> None:
    run = study.runs[0]
    splits = {name: read_split(run, name) for name in split_names(run)}
    test = splits["test"]
    splits["test"] = LogitsSplit(test.ids, (test.logits * np.float32(1.5)), test.labels)
    write_logits(run, splits, key="synthetic")


def command_in_a_spec(study: Study) -> None:
    for run in study.runs:
        run.write_spec(json.dumps(run.read_spec() | {"command": "make all"}))


def runs_that_are_declared(study: Study) -> None:
    names = [run.name.partition("/")[2] for run in study.runs]
    SuiteMembers(
        suite="embedded", base="embedded", registry="registry.yaml", declared=True,
        runs=dict.fromkeys([*names, "never-run/diary/seed-0"], "embedded"),
    ).write(study.results)  # fmt: skip


def run_that_is_not_declared(study: Study) -> None:
    names = [run.name.partition("/")[2] for run in study.runs]
    SuiteMembers(
        suite="embedded", base="embedded", registry="registry.yaml", declared=True,
        runs=dict.fromkeys(names[1:], "embedded"),
    ).write(study.results)  # fmt: skip


def claim(study: Study) -> None:
    study.options["claim"] = Claim(equivalence_ratio=1.3)


def stamp_of_the_claim(study: Study) -> None:
    stamp_claim(study.results, "embedded", Claim(equivalence_ratio=1.7))


def published(study: Study) -> None:
    figure = Published(model="vit-tiny", dataset="diary", source="a paper", before={"nll": 0.5})
    study.options["published"] = (figure,)


def sources_of_rows(study: Study) -> None:
    study.options["row_sources"] = RowSources()


CHANGES: list[Callable[[Study], None]] = [
    error_of_a_record, name_of_a_class, facts_of_a_model, failed_run, run_that_is_gone,
    logits_of_a_run, command_in_a_spec, runs_that_are_declared, run_that_is_not_declared, claim,
    stamp_of_the_claim, published, sources_of_rows,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_is_shown_as_from_scratch(
    study: Study, change: Callable[[Study], None]
) -> None:
    before = files(study.reports / "embedded")
    change(study)
    again = study.report()
    assert again.is_new
    now = files(again.folder)
    assert now == study.from_scratch()
    pages = {name for name in now if name != "report.json" and now[name] != before.get(name)}
    assert pages, "the change shows nowhere, so this test shows nothing"
    assert not study.report().is_new


def test_changed_rows_are_shown(study: Study) -> None:
    try:
        study.write_rows("tuesday")
        diary = study.folder / "home" / "diary.csv"
        shutil.copy(diary, Path(study.runs[0].read_spec()["dataset"]["path"]))
        again = study.report()
        assert again.is_new
        assert "tuesday" in (again.folder / "models" / "vit-tiny.md").read_text()
        assert files(again.folder) == study.from_scratch()
    finally:
        study.folder = Path(study.runs[0].read_spec()["dataset"]["path"]).parents[1]
        study.write_rows("monday")


def test_another_version_of_the_program_draws_everything(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("inputs", "content_key"):
        monkeypatch.setattr(f"benchmark.report.{module}.program_version", lambda: "later")
    drawn: list[str] = []
    shape = figures.to_svg
    monkeypatch.setattr(figures, "to_svg", lambda f: (drawn.append("dumbbell"), shape(f))[1])
    before = files(study.reports / "embedded")
    assert study.report().is_new
    after = files(study.reports / "embedded")
    assert len(drawn) == 2  # dumbbell and reliability
    assert {n for n in after if after[n] != before[n]} == {"report.json"}


def test_the_version_is_of_all_sources(tmp_path: Path) -> None:
    code = "from benchmark.report.inputs import program_version; print(program_version())"
    shutil.copytree(
        Path(inputs.__file__).parents[1],
        tmp_path / "benchmark",
        ignore=shutil.ignore_patterns("__pycache__"),
    )

    def version() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    found = {version()}
    changed = ("report/templates/readme.md.jinja", "statistics/temperature.py", "markup.py")
    for name in (*changed, "report/works.bib"):
        with (tmp_path / "benchmark" / name).open("a") as file:
            file.write("\n")
        found.add(version())
    assert len(found) == 5


def test_the_version_is_of_every_library_that_draws(study: Study) -> None:
    """Whatever a whole report imports decides what it looks like, or is named here as not."""
    code = (
        "import sys; from pathlib import Path; from benchmark.report import write_report\n"
        "write_report(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(study.results), str(study.folder / "other")],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.rpartition("MODULES ")[2].split()
    distributions = packages_distributions()
    used = {name for module in modules for name in distributions.get(module, ())}
    bystanders = {
        # Reading and checking of input: what they hand on is the content of files.
        *("annotated-types", "typing_extensions", "typing-inspection", "PyYAML", "ruamel.yaml"),
        *("lazy_loader", "packaging", "xxhash", "psutil", "tabulate"),
        # Dates and versions that matplotlib and pandas ask for, drawing none.
        *("python-dateutil", "six", "pytz", "tzdata", "cycler", "pyparsing", "setuptools"),
        # The terminal's.
        *("rich", "markdown-it-py", "mdurl", "Pygments"),
        # Looked for by others where they are installed.
        *("charset-normalizer", "cloudpickle", "statsmodels", "lazy-loader"),
    }
    assert normal(used) - normal(bystanders) - normal(inputs.PACKAGES) == set()


def normal(names: Iterable[str]) -> set[str]:
    """Return names of distributions in one spelling."""
    return {name.lower().replace("_", "-").replace(".", "-") for name in names}


@pytest.mark.parametrize("name", ["README.md", "tables/runs.csv", "report.json", "models/x.md"])
def test_a_report_that_somebody_touched_is_made_anew(study: Study, name: str) -> None:
    folder = study.reports / "embedded"
    before = files(folder)
    with (folder / name).open("a") as file:
        file.write(" ")
    assert study.report().is_new
    assert files(folder) == before


def test_a_figure_that_was_damaged_is_drawn(study: Study) -> None:
    folder = study.reports / "embedded"
    before = files(folder)
    (folder / "figures" / "ece-diary.svg").write_text("<svg/>")
    assert study.report().is_new
    assert files(folder) == before


def test_a_pipe_in_a_report_blocks_nobody(study: Study) -> None:
    os.mkfifo(study.reports / "embedded" / "pipe")
    assert study.report().is_new
    assert not (study.reports / "embedded" / "pipe").exists()


def test_what_could_not_be_read_now_is_read_the_next_time(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("the hub does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("benchmark.report.evaluations._load_test_rows", fails)
        folder = study.report(redraw=True).folder
        assert "does not answer" in (folder / "models" / "vit-tiny.md").read_text()
    assert study.report().is_new
    assert "monday" in (folder / "models" / "vit-tiny.md").read_text()


def test_damaged_logits_are_never_hidden_by_an_old_report(study: Study) -> None:
    path = study.runs[0].logits
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    again = study.report()
    assert again.is_new
    assert "damaged" in (again.folder / "README.md").read_text()
    assert study.report().is_new


def test_logits_that_are_not_there_are_no_reason_to_draw_again(study: Study) -> None:
    study.runs[0].logits.unlink()
    assert study.report().is_new
    assert "no such file" in (study.reports / "embedded" / "README.md").read_text()
    assert not study.report().is_new


def test_figures_of_what_did_not_change_are_taken_over(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(study.results, SHOWN, ["letters"], rows=ROWS, seeds=[0], shifts=(), classes=2)
    study.report()
    drawn: list[str] = []
    shape = figures.to_svg
    monkeypatch.setattr(figures, "to_svg", lambda f: (drawn.append("figure"), shape(f))[1])
    error_of_a_record(study)
    again = study.report()
    assert again.is_new
    assert len(drawn) == 1  # the dumbbells of diary; no reliability, and nothing of letters
    monkeypatch.undo()
    assert files(again.folder) == study.from_scratch()


def test_processes_draw_the_same(study: Study) -> None:
    before = files(study.reports / "embedded")
    assert study.report(redraw=True, processes=2).is_new
    assert files(study.reports / "embedded") == before


def draw_or_die(main: int) -> Drawing | None:
    if os.getpid() != main:
        os._exit(9)
    return draw(main)


def test_a_process_that_is_killed_costs_no_figure() -> None:
    with Drawings(processes=1) as drawings:
        drawings.pool(1)
        asked = [drawings.ask(draw_or_die, os.getpid()) for _ in range(3)]
        assert len(done(asked)) == 3


def test_only_whole_figures_are_kept(study: Study) -> None:
    folder = study.reports / "embedded"
    stored = StoredReport.read(folder)
    assert stored is not None
    whole = kept_drawings(stored, folder)
    assert {d.name for d in whole.values() if d} == {p.stem for p in folder.glob("figures/*.svg")}
    (folder / "figures" / "ece-diary.svg").unlink()
    lost = {d.name for d in whole.values() if d} - {
        d.name for d in kept_drawings(stored, folder).values() if d
    }
    assert lost == {"ece-diary"}


# --- keys of single figures -----------------------------------------------------------------------


def draw(*arguments: object) -> Drawing | None:
    return Drawing("n", f"<svg>{arguments}</svg>", "c", "a")


def nothing(*_: object) -> Drawing | None:
    return None


@given(
    st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=6, unique=True),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_key_changes_with_every_cell(values: list[float], data: st.DataObject) -> None:
    frame = pd.DataFrame({"a": values, "b": [str(value) for value in values]})
    same = frame.copy(deep=True)
    assert content_key(draw, (frame, "x")) == content_key(draw, (same, "x"))
    row = data.draw(st.integers(0, len(values) - 1))
    column = data.draw(st.sampled_from(["a", "b"]))
    changed = frame.copy()
    changed.loc[row, column] = 12345.5 if column == "a" else "other"
    if not changed.equals(frame):
        assert content_key(draw, (frame, "x")) != content_key(draw, (changed, "x"))


def test_keys_tell_apart_what_looks_alike() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    kinds = pd.Series(["x", "y"], dtype="category")
    given: list[tuple[Any, ...]] = [
        (frame,), (frame.rename(columns={"a": "b"}),), (frame.astype("float32"),),
        (frame.iloc[::-1],), (frame.set_index(pd.Index([5, 6])),), (kinds,),
        (kinds.cat.reorder_categories(["y", "x"]),), (kinds.astype(str),), ("1",), (1,), (1.0,),
        (True,), (None,), ("None",), (("a", "b"),), ("a", "b"), (("ab",),), ((("a",), "b"),),
        (np.array([1.0, np.nan]),), (np.array([1.0, 2.0]),), (np.array([[1.0, 2.0]]),),
        (np.array(["a", None], dtype=object),), (np.array(["a", "None"], dtype=object),),
        (Claim(),), (Claim(alpha=0.1),), ({"a": 1},), ({"b": 1},),
    ]  # fmt: skip
    keys = [content_key(draw, arguments) for arguments in given]
    assert len(set(keys)) == len(keys)
    assert content_key(draw, ()) != content_key(nothing, ())


def test_what_has_no_key_is_always_drawn() -> None:
    drawings = Drawings()
    one = drawings.ask(draw, object())
    assert one.key is None
    assert one.drawing is not None
    assert drawings.stored() == {}


def test_a_figure_that_there_is_none_of_is_remembered_too() -> None:
    first = Drawings()
    asked = first.ask(nothing, "x")
    assert done([asked]) == ()
    assert list(first.stored().values()) == [None]
    again = Drawings(kept={str(asked.key): None}).ask(nothing, "x")
    assert again.done is not None
    assert again.drawing is None
