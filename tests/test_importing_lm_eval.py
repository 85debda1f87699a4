"""Samples of lm-evaluation-harness: one command imports a folder of models and tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.importing.command import main
from benchmark.records import LogitsSplit, Record, RunFolder, read_split
from benchmark.statistics import fit_temperature

TIME = "2025-03-04T05-06-07.891011"
TASKS = ("arc_challenge", "boolq", "hellaswag", "winogrande")
MODELS = ("north__fir-160m", "north__fir-1b", "south__palm-1b")
Sample = dict[str, Any]


def _document(task: str, row: int) -> tuple[dict[str, Any], list[str], int, Any]:
    """Return a made-up document, its choices, the right one, and how the harness writes it."""
    rng = np.random.default_rng([TASKS.index(task), row])
    words = ["brook", "copper", "lantern", "meadow", "orbit", "pebble", "quartz", "willow"]

    def text(longest: int) -> str:
        return " ".join(rng.choice(words, rng.integers(1, longest)))

    if task == "boolq":
        gold = int(rng.integers(2))
        return {"question": f"is {row} {text(5)}", "label": gold}, ["no", "yes"], gold, gold
    if task == "winogrande":
        gold = int(rng.integers(2))
        document = {"sentence": f"{row} _ {text(6)}", "answer": str(gold + 1)}
        return document, ["ends here", "ends here"], gold, "ends here"
    n = 4 if task == "hellaswag" else int(rng.choice([3, 4, 4, 4, 4, 4, 4, 5]))
    choices = [f"{text(9)} {k}é" for k in range(n)]
    gold = int(rng.integers(n))
    return {"query": f"{row} {text(8)}", "choices": choices, "gold": gold}, choices, gold, gold


def write_samples(
    root: Path,
    model: str,
    task: str,
    rows: int = 60,
    *,
    skill: float = 1.0,
    old_style: bool = False,
    change: Callable[[list[Sample]], Any] = lambda samples: None,
    time: str = TIME,
) -> Path:
    """Write a file of samples as the harness does; `old_style` without texts for numbers."""
    rng = np.random.default_rng([*hashlib.sha256(model.encode()).digest()[:4], TASKS.index(task)])
    samples = []
    for row in range(rows):
        document, choices, gold, target = _document(task, row)
        lengths = np.array([len(choice) for choice in choices])
        values = rng.normal(0, 1, len(choices)) - 0.02 * lengths
        values[gold] += skill
        likelihoods = [float(np.float32(2.5 * value)) for value in values]
        pairs: list[Any] = [[value, bool(value > -1)] for value in likelihoods]
        requests: Any = [[f"Question {row}:", f" {choice}"] for choice in choices]
        if not old_style:
            pairs = [[str(value), str(greedy)] for value, greedy in pairs]
            requests = {
                f"gen_args_{k}": {"arg_0": context, "arg_1": continuation}
                for k, (context, continuation) in enumerate(requests)
            }
        document_text = json.dumps(document, indent=2, ensure_ascii=False)
        samples.append(
            {
                "doc_id": row,
                "doc": document,
                "target": target if old_style else str(target),
                "arguments": requests,
                "resps": [[pair] for pair in pairs],
                "filtered_resps": pairs,
                "filter": "none",
                "metrics": ["acc", "acc_norm"],
                "doc_hash": hashlib.sha256(document_text.encode()).hexdigest(),
                "acc": float(np.argmax(likelihoods) == gold),
                "acc_norm": float(np.argmax(likelihoods / lengths) == gold),
            }
        )
    change(samples)
    path = root / model / f"samples_{task}_{time}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
    return path


def write_folder(root: Path, rows: int = 60) -> None:
    for place, model in enumerate(MODELS):
        for task in TASKS:
            write_samples(root, model, task, rows, skill=0.4 + place, old_style=place == 0)


def do_import(root: Path, *arguments: str, report: bool = False) -> int:
    words = ["lm-eval", str(root / "out"), "--results", str(root / "results"), *arguments]
    words += ["--reports", str(root / "reports")]
    return main(words if report else [*words, "--no-report"])


def folder_of(root: Path, model: str, task: str) -> RunFolder:
    return RunFolder.of(root / "results", "imported", model, task, 0)


def record_of(root: Path, model: str, task: str) -> Record:
    record = folder_of(root, model, task).read_record()
    assert record is not None
    return record


def stored(root: Path, model: str, task: str) -> LogitsSplit:
    """Return all rows of a run in the order of their ids."""
    parts = [read_split(folder_of(root, model, task), name) for name in ("calibration", "test")]
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    logits = np.concatenate([part.logits for part in parts])[order]
    return LogitsSplit(ids[order], logits, np.concatenate([p.labels for p in parts])[order])


def refused(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    assert do_import(root, *arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.startswith("error: ")
    return error


def test_a_folder_of_models_and_tasks_is_imported_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "out")
    assert do_import(tmp_path, report=True) == 0
    page = (tmp_path / "reports" / "imported" / "README.md").read_text()
    assert "\n3 models, 4 datasets, 1 seed: 12 of 12 runs completed." in page
    assert "12 models" not in page
    assert "documents were held out for calibration, by their digest." in page
    # Nothing is shown of what imports do not know.
    headers = [line for line in page.splitlines() if line.startswith("| model")]
    assert len(headers) == 4 * len(TASKS) + 2  # and the choosing table, and that across data sets
    assert not any(re.search("p50|rows/s|memory|param|mixer|family", h) for h in headers)
    assert not (tmp_path / "reports/imported/figures/temperature-by-family.svg").exists()
    html = (tmp_path / "reports" / "imported" / "index.html").read_text()
    assert 'name="mixer" value' not in html
    for model in MODELS:
        assert model in page
        for task in TASKS:
            runs = [stored(tmp_path, name, task) for name in (MODELS[0], model)]
            np.testing.assert_array_equal(runs[0].ids, runs[1].ids)
            np.testing.assert_array_equal(runs[0].labels, runs[1].labels)
            lines = (tmp_path / "out" / model / f"samples_{task}_{TIME}.jsonl").read_text()
            accuracy = np.mean([json.loads(line)["acc"] for line in lines.splitlines()])
            assert (runs[1].logits.argmax(axis=1) == runs[1].labels).mean() == accuracy
            held = [
                read_split(folder_of(tmp_path, name, task), "calibration").ids
                for name in (MODELS[0], model)
            ]
            np.testing.assert_array_equal(*held)
            assert 3 <= len(held[0]) <= 24  # a fifth of 60
    capsys.readouterr()
    assert do_import(tmp_path) == 0
    assert capsys.readouterr().out.count("nothing to do: ") == 12
    spec = json.loads(
        folder_of(tmp_path, MODELS[0], "boolq").path.joinpath("spec.json").read_text()
    )
    assert spec["command"].startswith("python -m benchmark.importing lm-eval out ")


def test_the_temperature_is_that_of_the_choices_each_document_has(tmp_path: Path) -> None:
    """Masked choices count for nothing: a fit on the rows' own choices, by bisection, agrees."""
    path = write_samples(tmp_path / "out", MODELS[0], "arc_challenge", 300)
    assert do_import(tmp_path) == 0
    record = record_of(tmp_path, MODELS[0], "arc_challenge")
    calibration = read_split(folder_of(tmp_path, MODELS[0], "arc_challenge"), "calibration")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    own = {tuple(float(pair[0]) for pair in s["filtered_resps"]): s["doc"]["gold"] for s in samples}
    rows = []
    for logits, label in zip(calibration.logits, calibration.labels, strict=True):
        values = tuple(float(v) for v in logits[np.isfinite(logits)])
        assert own[values] == label
        rows.append((np.array(values), int(label)))
    assert {len(values) for values, _ in rows} == {3, 4, 5}

    def slope(inverse: float) -> float:
        total = 0.0
        for values, label in rows:
            powers = np.exp(inverse * (values - values.max()))
            total += powers @ values / powers.sum() - values[label]
        return total

    low, high = 1e-3, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert record.temperature is not None
    assert record.temperature.value == pytest.approx(1 / low, rel=1e-6)
    assert fit_temperature(calibration.logits, calibration.labels).status == "converged"


@pytest.mark.parametrize(
    ("normalise", "length"),
    [("none", lambda text: 1), ("characters", len), ("bytes", lambda text: len(text.encode()))],
)
def test_length_normalised_log_likelihoods(
    tmp_path: Path, normalise: str, length: Callable[[str], int]
) -> None:
    path = write_samples(tmp_path / "out", "m", "hellaswag")
    assert do_import(tmp_path, "--normalise", normalise) == 0
    run = stored(tmp_path, "m", "hellaswag")
    expected = set()
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        values = [float(pair[0]) for pair in sample["filtered_resps"]]
        lengths = [length(choice) for choice in sample["doc"]["choices"]]
        expected.add(tuple(np.array(values, dtype=float) / lengths))
    rows = {tuple(row) for row in run.logits}
    assert rows == {tuple(np.array(row, dtype=np.float32)) for row in expected}


def test_classes_are_named_where_all_documents_have_the_same_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("boolq", "hellaswag"):
        write_samples(tmp_path / "out", "m", task)
    assert do_import(tmp_path) == 0
    out = capsys.readouterr().out
    assert "classes: 2 (no, yes)" in out
    assert "classes: 4 (0, 1, 2, 3)" in out


def _with_target(make: Callable[[Sample], Any]) -> Callable[[list[Sample]], None]:
    def change(samples: list[Sample]) -> None:
        for sample in samples:
            sample["target"] = make(sample)

    return change


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (lambda s: s["doc"]["gold"], ()),
        (lambda s: f" {s['doc']['gold']}", ()),
        (lambda s: s["doc"]["choices"][s["doc"]["gold"]], ()),
        (lambda s: f" {s['doc']['choices'][s['doc']['gold']]}", ()),
        (lambda s: "ABCD"[s["doc"]["gold"]], ()),
        (lambda s: "whatever", ("--target-field", "gold")),
    ],
)
def test_the_right_choice_is_understood_however_it_is_written(
    tmp_path: Path, target: Callable[[Sample], Any], arguments: tuple[str, ...]
) -> None:
    write_samples(tmp_path / "out", "plain", "hellaswag")
    write_samples(tmp_path / "out", "other", "hellaswag", change=_with_target(target))
    assert do_import(tmp_path, *arguments) == 0
    labels = [stored(tmp_path, model, "hellaswag").labels for model in ("plain", "other")]
    np.testing.assert_array_equal(*labels)


def test_choices_that_are_numbers_are_told_from_positions_by_the_accuracy(tmp_path: Path) -> None:
    def change(samples: list[Sample]) -> None:
        for sample in samples:
            for k in range(4):
                sample["arguments"][f"gen_args_{k}"]["arg_1"] = f" {(k + 1) % 4}"
            sample["target"] = str((sample["doc"]["gold"] + 1) % 4)

    path = write_samples(tmp_path / "out", "m", "hellaswag", change=change)
    assert do_import(tmp_path) == 0
    gold = [json.loads(line)["doc"]["gold"] for line in path.read_text().splitlines()]
    assert sorted(stored(tmp_path, "m", "hellaswag").labels) == sorted(gold)
    data = record_of(tmp_path, "m", "hellaswag").data
    assert data is not None
    assert data.label_names == ("1", "2", "3", "0")


def _edited(row: int, **values: Any) -> Callable[[list[Sample]], None]:
    return lambda samples: samples[row].update(values)


def _in_all(**values: Any) -> Callable[[list[Sample]], None]:
    def change(samples: list[Sample]) -> None:
        for sample in samples:
            sample.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[17].update(acc=1 - s[17]["acc"]),
         r"line 18 \(doc_id 17\): .* but the file says [01] \(1 of 60 rows differ\)"),
        (_edited(3, target="7"), r"line 4 \(doc_id 3\): target is '7', which is neither"),
        (_edited(3, target="[0, 2]"), r"target is '\[0, 2\]'.*--target-field \(it has query"),
        (_edited(5, acc=0.43), r"line 6 .*acc is 0.43, neither 0 nor 1"),
        (_edited(5, filtered_resps=["a text"]), r"line 6: .*unlike the lines before"),
        (lambda s: s[2]["filtered_resps"].__setitem__(1, ["nan", "False"]), r"line 3 .* is nan"),
        (lambda s: s[2].update(filtered_resps=[["-inf", "False"]] * 4), r"line 3 .*every log-lik"),
        (lambda s: s[2]["filtered_resps"].__setitem__(s[2]["doc"]["gold"], ["-inf", "False"])
         or s[2].update(acc=0.0), r"line 3 .*right choice has log-likelihood -inf"),
        (lambda s: s.__delitem__(slice(1, None)), "1 documents are too few to hold out"),
        (lambda s: s.clear(), "has no samples"),
        (lambda s: [row.pop("doc") and row.pop("doc_hash") and row.pop("doc_id") for row in s],
         "neither 'doc' nor 'doc_hash'"),
    ],
)  # fmt: skip
def test_bad_samples_are_refused_with_the_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Sample]], Any],
    message: str,
) -> None:
    write_samples(tmp_path / "out", "m", "hellaswag", change=change)
    assert re.search(message, refused(capsys, tmp_path))
    assert not folder_of(tmp_path, "m", "hellaswag").record.exists()


def test_a_file_that_is_cut_off_is_refused_and_the_others_are_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_samples(tmp_path / "out", "m", "hellaswag")
    write_samples(tmp_path / "out", "m", "boolq")
    path.write_bytes(path.read_bytes()[:-40])
    assert re.search("line 60: not JSON .*cut off", refused(capsys, tmp_path))
    assert record_of(tmp_path, "m", "boolq").status == "completed"


def test_tasks_that_are_no_multiple_choice_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = _in_all(resps=[["so 7"]], filtered_resps=["so 7"], filter="strict-match")
    write_samples(tmp_path / "out", "m", "hellaswag", change=written)
    assert "no multiple-choice task" in refused(capsys, tmp_path)
    write_samples(tmp_path / "out", "m", "boolq")
    assert do_import(tmp_path) == 0
    assert "left out: its responses are not log-likelihoods" in capsys.readouterr().out


def test_older_files_and_other_filters_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "out", "m", "boolq", 20, time="2024-01-01T00-00-00.1")

    def twice(samples: list[Sample]) -> None:
        samples += [{**sample, "filter": "flexible"} for sample in samples]

    write_samples(tmp_path / "out", "m", "boolq", change=twice)
    assert do_import(tmp_path) == 0
    out = capsys.readouterr().out
    assert "samples_boolq_2024-01-01T00-00-00.1.jsonl of m was left out" in out
    assert "of the filters none, flexible, 'none' was taken" in out
    assert len(stored(tmp_path, "m", "boolq").ids) == 60


def test_the_likelihoods_without_the_question_are_no_choices(tmp_path: Path) -> None:
    def change(samples: list[Sample]) -> None:
        for sample in samples:
            sample["metrics"].append("acc_mutual_info")
            sample["filtered_resps"] += [["-1.0", "False"]] * 4

    write_samples(tmp_path / "out", "m", "hellaswag", change=change)
    assert do_import(tmp_path) == 0
    assert stored(tmp_path, "m", "hellaswag").logits.shape == (60, 4)


def test_models_that_disagree_on_the_right_choice_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "out", "a", "hellaswag", 40)
    write_samples(tmp_path / "out", "b", "hellaswag")
    assert do_import(tmp_path) == 0
    assert "40 of 60 documents are among the 40 of a" in capsys.readouterr().out

    def change(samples: list[Sample]) -> None:
        gold = (samples[0]["doc"]["gold"] + 1) % 4
        best = int(np.argmax([float(pair[0]) for pair in samples[0]["filtered_resps"]]))
        samples[0].update(target=str(gold), acc=float(best == gold))

    write_samples(tmp_path / "out", "c", "hellaswag", change=change)
    assert "1 of 40 documents have another right choice than for a" in refused(capsys, tmp_path)


def test_repeated_documents_stay_in_one_split(tmp_path: Path) -> None:
    def change(samples: list[Sample]) -> None:
        samples += [{**sample, "doc_id": 100 + k} for k, sample in enumerate(samples[:30])]

    write_samples(tmp_path / "out", "m", "hellaswag", change=change)
    assert do_import(tmp_path) == 0
    parts = [
        {tuple(row) for row in read_split(folder_of(tmp_path, "m", "hellaswag"), name).logits}
        for name in ("calibration", "test")
    ]
    assert not parts[0] & parts[1]
    assert len(stored(tmp_path, "m", "hellaswag").ids) == 90


def test_commands_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such folder" in refused(capsys, tmp_path)
    (tmp_path / "out").mkdir()
    assert "--log_samples --output_path" in refused(capsys, tmp_path)
    write_samples(tmp_path / "out" / "x", "m", "boolq")
    assert "did you mean 'boolq'?" in refused(capsys, tmp_path, "--tasks", "bolq")
    write_samples(tmp_path / "out" / "y", "m", "boolq")
    assert "both hold task 'boolq' of a model 'm'" in refused(capsys, tmp_path)


def test_facts_come_from_a_registry_where_it_has_the_model(
    tmp_path: Path, registry_file: Path
) -> None:
    for model in ("owner__resnet", "nobody__knows"):
        write_samples(tmp_path / "out", model, "boolq")
    assert do_import(tmp_path, "--registry", str(registry_file)) == 0
    assert record_of(tmp_path, "owner__resnet", "boolq").facts.family == "ResNet"
    facts = record_of(tmp_path, "nobody__knows", "boolq").facts
    assert (facts.mixer, facts.family, facts.modality) == (None, None, "text")


@given(order=st.permutations(range(40)), keep=st.integers(10, 40), fraction=st.floats(0.2, 0.8))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_order_and_any_part_of_the_documents_is_split_alike(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], keep: int, fraction: float
) -> None:
    """What is held out depends on the document alone."""
    root = tmp_path_factory.mktemp("order")

    def change(samples: list[Sample]) -> None:
        samples[:] = [samples[k] for k in order[:keep]]

    write_samples(root / "out", "a", "hellaswag", 40)
    write_samples(root / "out", "b", "hellaswag", 40, change=change)
    do_import(root, "--calibration-fraction", str(fraction))
    held = {}
    for model in ("a", "b"):
        for name in ("calibration", "test"):
            if folder_of(root, model, "hellaswag").record.exists():
                split = read_split(folder_of(root, model, "hellaswag"), name)
                held[model, name] = set(split.ids.tolist())
    if ("b", "test") in held:
        assert held["b", "calibration"] <= held["a", "calibration"]
        assert held["b", "test"] <= held["a", "test"]
        assert len(held["b", "calibration"] | held["b", "test"]) == keep
