"""What is no logit is asked about, and each answer gives the figures of the logits."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark.importing.command import main
from benchmark.records import LogitsSplit, Record, RunFolder, read_split

Array = NDArray[Any]
NAMES = ("ash", "birch", "cedar", "elm", "fir", "hazel")


def made(rows: int, classes: int = 4, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    return rng.normal(0, 1.5, (rows, classes)) + 2 * np.eye(classes)[labels], labels


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def run_import(root: Path, *arguments: object, model: str = "m") -> int:
    words = ["import", *map(str, arguments), "--model", model, "--dataset", "d", "--no-report"]
    return main([*words, "--results", str(root / "results")])


def asked(capsys: pytest.CaptureFixture[str], root: Path, *arguments: object) -> str:
    """Import; expect a question or an error, exit code 2 and nothing written."""
    capsys.readouterr()
    assert run_import(root, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert not folder_of(root).record.exists()
    return error


def folder_of(root: Path, model: str = "m") -> RunFolder:
    return RunFolder.of(root / "results", "imported", model, "d", 0)


def record_of(root: Path, model: str = "m") -> Record:
    record = folder_of(root, model).read_record()
    assert record is not None
    return record


def stored(root: Path, model: str = "m") -> LogitsSplit:
    return read_split(folder_of(root, model), "test")


def save(root: Path, change: Callable[[Array], Array], classes: int = 4, rows: int = 200) -> Path:
    """Save what `change` makes of the logits of both splits."""
    arrays = {}
    for name, n, seed in (("val", rows // 2, 1), ("test", rows, 2)):
        logits, labels = made(n, classes, seed)
        arrays |= {f"{name}_logits": change(logits), f"{name}_labels": labels}
    np.savez(root / "values.npz", **arrays)
    return root / "values.npz"


def sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def with_bad_rows(values: Array) -> Array:
    changed = softmax(values)
    changed[7] = [3.5, -1, 0.2, 0.4]
    changed[11] = 0
    return changed


def votes(logits: Array) -> Array:
    rng = np.random.default_rng(0)
    return np.stack([rng.multinomial(50, row) for row in softmax(logits)]).astype(float)


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what", "answers"),
    [
        (softmax, "add up to 1,", ["probabilities"]),
        (lambda z: softmax(z).astype(np.float16), "add up to 1,", ["probabilities"]),
        (lambda z: softmax(z).round(2), "add up to 1,", ["probabilities"]),
        (lambda z: softmax(z).round(1), "add up to 1,", ["probabilities"]),
        (lambda z: np.floor(softmax(z) * 100) / 100, "add up to 1,", ["probabilities"]),
        (lambda z: 100 * softmax(z), "add up to 100,", ["percentages"]),
        (lambda z: (100 * softmax(z)).round(), "add up to 100,", ["percentages"]),
        (with_bad_rows, r"add up to 1 \(but not of row 7: 3.5, -1, 0.2, 0.4, sum 3.1\)",
         ["probabilities"]),
        (sigmoid, "lie between 0 and 1,", ["probabilities", "sigmoids", "shares"]),
        (lambda z: sigmoid(z).round(2), "lie between 0 and 1,", ["sigmoids"]),
        (lambda z: 1 - softmax(z), "lie between 0 and 1,", ["sigmoids"]),
        (lambda z: softmax(z) / 3, "lie between 0 and 1,", ["shares"]),
        (votes, "add up to the same number,", ["shares"]),
        (lambda z: 7 * softmax(z), "add up to the same number,", ["shares"]),
        (lambda z: -np.log(softmax(z)), "without minus signs,", ["costs"]),
        (lambda z: softmax(z) / (1 - softmax(z)), "add up to 1 as odds,", ["odds"]),
        (lambda z: np.log10(softmax(z)), "as powers of 10,", ["log10-probabilities"]),
        (lambda z: np.log2(softmax(z)), "as powers of 2,", ["log2-probabilities"]),
        (lambda z: np.eye(4)[z.argmax(axis=1)], "add up to 1,", ["probabilities"]),
        (lambda z: -z, "the smallest in", ["costs"]),
    ],
)  # fmt: skip
def test_values_that_look_like_no_logits_are_a_question_with_its_answers(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Array], Array],
    what: str,
    answers: list[str],
) -> None:
    question = asked(capsys, tmp_path, save(tmp_path, change))
    assert re.search(what, question)
    for answer in [*answers, "logits"]:
        assert f"--values {answer}" in question


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    "change",
    [
        lambda z: np.log(softmax(z)),
        lambda z: np.log(softmax(8 * z)),
        lambda z: z - z.max(axis=1, keepdims=True),
        lambda z: 5 * (z - z.max(axis=1, keepdims=True)),
        lambda z: z - z.min(axis=1, keepdims=True),
        lambda z: 5 * (z - z.min(axis=1, keepdims=True)),
        lambda z: np.maximum(4 * z, 0),
        lambda z: np.round(3 * z),
        lambda z: 40 * np.eye(z.shape[1])[z.argmax(axis=1)],
        lambda z: 1e4 * np.eye(z.shape[1])[z.argmax(axis=1)] + 1e-3,
        lambda z: 40 * np.eye(z.shape[1])[z.argmax(axis=1)] + 1e-3 * z,
        lambda z: z - z.mean(axis=1, keepdims=True),
        lambda z: np.where(z < -2, -1e4, z),
    ],
)
def test_logits_in_any_form_are_no_question(
    tmp_path: Path, change: Callable[[Array], Array], classes: int
) -> None:
    """Logarithms of probabilities, shifted, rectified, whole, saturated, centred, masked."""
    assert run_import(tmp_path, save(tmp_path, change, classes)) == 0


@pytest.mark.parametrize(
    ("answer", "change", "tolerance"),
    [
        ("probabilities", softmax, 1e-6),
        ("percentages", lambda z: 100 * softmax(z), 1e-6),
        ("shares", lambda z: 7 * softmax(z), 1e-6),
        ("sigmoids", sigmoid, 1e-6),
        ("costs", lambda z: -np.log(softmax(z)), 1e-6),
        ("odds", lambda z: softmax(z) / (1 - softmax(z)), 1e-6),
        ("log10-probabilities", lambda z: np.log10(softmax(z)), 1e-6),
        ("log2-probabilities", lambda z: np.log2(softmax(z)), 1e-6),
        ("probabilities", lambda z: softmax(z).round(4), 2e-3),
        ("percentages", lambda z: (100 * softmax(z)).round(2), 2e-3),
    ],
)
def test_each_answer_gives_the_probabilities_of_the_logits(
    tmp_path: Path, answer: str, change: Callable[[Array], Array], tolerance: float
) -> None:
    assert run_import(tmp_path, save(tmp_path, change), "--values", answer) == 0
    logits, labels = made(200, seed=2)
    np.testing.assert_allclose(softmax(stored(tmp_path).logits), softmax(logits), atol=tolerance)
    before = record_of(tmp_path).scores["test"].maps["none"]
    nll = -np.log(softmax(logits)[np.arange(200), labels]).mean()
    assert before["nll"].value == pytest.approx(nll, rel=10 * tolerance)


@pytest.mark.parametrize(
    ("answer", "change", "message"),
    [
        ("probabilities", with_bad_rows, r"row 7 .* holds a negative value, unlike 99 other rows"),
        ("probabilities", lambda z: 100 * softmax(z), r"adds up to 100, .*--values percentages"),
        ("probabilities", sigmoid, r"row 0 of the calibration split adds up to .*--values sigm"),
        ("percentages", softmax, r"row 0 .* adds up to 1, so these are not percentages"),
        ("sigmoids", lambda z: 3 * softmax(z), r"which is above 1"),
        ("shares", with_bad_rows, r"row 7 .* negative value"),
        ("shares", lambda z: np.maximum(with_bad_rows(z), 0), r"row 11 .* adds up to 0"),
    ],
)
def test_an_answer_that_is_not_so_is_refused_with_the_row(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    change: Callable[[Array], Array],
    message: str,
) -> None:
    source = save(tmp_path, change)
    assert re.search(message, asked(capsys, tmp_path, source, "--values", answer))


def test_what_rounding_does_to_probabilities_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path, lambda z: softmax(z).round(1), classes=30)
    assert run_import(tmp_path, source, "--probabilities") == 0
    out = capsys.readouterr().out
    assert re.search(r"test rows add up to 0\.\d+ \.\.\. 1\.\d+, as values rounded to 1 dec", out)
    assert "a zero stands for anything below 0.05: consider --probability-floor 0.025" in out


CHANGES: dict[str, Callable[[Array, float], Array]] = {
    "rounded": lambda p, a: p.round(2 + int(a) % 3),
    "scaled": lambda p, a: a * p,
    "power": lambda p, a: p**a,
    "root": lambda p, a: p ** (1 / a),
    "percent": lambda p, a: (100 * p).round(int(a) % 3),
    "reversed": lambda p, a: 1 - p,
    "surprisal": lambda p, a: -np.log(p),
    "odds": lambda p, a: p / (1 - p),
    "squeezed": lambda p, a: (p + a) / (1 + 2 * a),
}


@given(
    change=st.sampled_from(sorted(CHANGES)),
    strength=st.floats(1.1, 9),
    classes=st.integers(2, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_monotone_change_of_probabilities_is_asked_about(
    tmp_path_factory: pytest.TempPathFactory,
    change: str,
    strength: float,
    classes: int,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("monotone")
    arrays = {}
    for name, place in (("val", 0), ("test", 1)):
        logits, labels = made(60, classes, 2 * seed + place)
        arrays[f"{name}_logits"] = CHANGES[change](softmax(logits), strength)
        arrays[f"{name}_labels"] = labels
    np.savez(root / "a.npz", **arrays)
    assert run_import(root, root / "a.npz") == 2
    assert run_import(root, root / "a.npz", "--values", "logits", "--keep-class-order") == 0


@given(shift=st.floats(-40, 40), scale=st.floats(0.05, 30), classes=st.integers(2, 6))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_logits_of_any_place_and_scale_are_no_question(
    tmp_path_factory: pytest.TempPathFactory, shift: float, scale: float, classes: int
) -> None:
    root = tmp_path_factory.mktemp("logits")
    source = save(root, lambda z: shift + scale * z, classes)
    values, _ = made(200, classes, 2)
    inside = ((shift + scale * values >= 0) & (shift + scale * values <= 1)).all(axis=1).mean()
    assert run_import(root, source) == (2 if inside > 0.5 else 0)


# --- order --------------------------------------------------------------------------------------


@given(order=st.permutations(range(5)))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_other_order_of_classes_is_asked_about(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    root = tmp_path_factory.mktemp("order")
    source = save(root, lambda z: z[:, order], classes=5, rows=400)
    moved = order != sorted(order)
    assert run_import(root, source) == (2 if moved else 0)
    assert run_import(root, source, "--keep-class-order") == 0


def test_labels_counted_from_1_are_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the last class has no row, no label is out of range."""
    arrays = {}
    for name, n in (("val", 200), ("test", 300)):
        logits, labels = made(n, 5)
        arrays |= {f"{name}_logits": logits[labels < 4], f"{name}_labels": labels[labels < 4] + 1}
    np.savez(tmp_path / "a.npz", **arrays)
    question = asked(capsys, tmp_path, tmp_path / "a.npz")
    assert "are the labels counted from 1?" in question
    assert "'0' is '1', '1' is '2'" in question


def test_values_by_rank_are_not_taken_by_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path, lambda z: -np.sort(-z, axis=1))
    assert "ranked" in asked(capsys, tmp_path, source)
    assert run_import(tmp_path, source, "--keep-class-order") == 0


def test_labels_that_are_predictions_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {}
    for name, n in (("val", 50), ("test", 90)):
        logits, _ = made(n)
        arrays |= {f"{name}_logits": logits, f"{name}_labels": logits.argmax(axis=1)}
    np.savez(tmp_path / "a.npz", **arrays)
    assert run_import(tmp_path, tmp_path / "a.npz") == 0
    assert "if these are predictions, name the true labels" in capsys.readouterr().out


# --- shapes and names of arrays -----------------------------------------------------------------


def test_labels_of_one_column(tmp_path: Path) -> None:
    with np.load(save(tmp_path, lambda z: z)) as file:
        arrays = dict(file)
    labels = {name: arrays[name][:, None] for name in ("val_labels", "test_labels")}
    np.savez(tmp_path / "a.npz", **{**arrays, **labels})
    assert run_import(tmp_path, tmp_path / "a.npz") == 0
    np.testing.assert_array_equal(stored(tmp_path).labels, arrays["test_labels"])


def test_rows_and_columns_exchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path, np.transpose)
    assert "has shape [4, 100], and there are 100 calibration labels" in asked(
        capsys, tmp_path, source
    )


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize(
    ("answer", "change"),
    [
        ("logits", lambda z: z[:, 1] - z[:, 0]),
        ("probabilities", lambda z: softmax(z)[:, 1]),
        ("percentages", lambda z: 100 * softmax(z)[:, 1]),
    ],
)
def test_one_score_a_row_is_asked_about(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shape: tuple[int, ...],
    answer: str,
    change: Callable[[Array], Array],
) -> None:
    source = save(tmp_path, lambda z: change(z).reshape(shape), classes=2)
    assert f"--values {answer}" in asked(capsys, tmp_path, source)
    assert run_import(tmp_path, source, "--values", answer) == 0
    expected = softmax(made(200, 2, 2)[0])
    np.testing.assert_allclose(softmax(stored(tmp_path).logits), expected, atol=1e-6)


def test_predictions_of_a_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fields of a PredictionOutput, as an npz file or as a pair of npy files."""
    files: list[object] = []
    for split, n, seed in (("calibration", 80, 1), ("test", 120, 2)):
        logits, labels = made(n, seed=seed)
        arrays = {"predictions": logits, "label_ids": labels}
        np.savez(tmp_path / f"{split}.npz", metrics=np.ones(3), **arrays)
        (tmp_path / split).mkdir()
        for name, array in arrays.items():
            np.save(tmp_path / split / f"{name}.npy", array)
            files += [f"--{split}", tmp_path / split / f"{name}.npy"]
    pair = ("--calibration", tmp_path / "calibration.npz", "--test", tmp_path / "test.npz")
    assert run_import(tmp_path, *pair, model="npz") == 0
    assert run_import(tmp_path, *files, model="npy") == 0
    for model in ("npz", "npy"):
        np.testing.assert_array_equal(
            stored(tmp_path, model).logits, made(120, seed=2)[0].astype(np.float32)
        )
    message = asked(capsys, tmp_path, tmp_path / "test.npz")
    assert "'predictions' and 'label_ids' were taken for the test split" in message
    assert "--calibration-fraction" in message
    logits, _ = made(20)
    np.savez(tmp_path / "tokens.npz", predictions=np.ones((5, 4, 3)), label_ids=np.ones((5, 4)))
    assert "tokens' logits" in asked(capsys, tmp_path, tmp_path / "tokens.npz")


def test_validation_logits_named_after_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits, labels = made(300)
    for stem in ("resnet18.a1_in1k_", "val_"):
        np.save(tmp_path / f"{stem}logits.npy", logits)
        np.save(tmp_path / f"{stem}targets.npy", labels)
    named = sorted(tmp_path.glob("resnet*.npy"))
    assert run_import(tmp_path, *named, "--calibration-fraction", "0.2", model="named") == 0
    assert len(stored(tmp_path, "named").labels) == 240
    files = sorted(tmp_path.glob("val_*.npy"))
    message = asked(capsys, tmp_path, *files, "--calibration-fraction", "0.2")
    command = re.search(
        r"(--test-logits \S+ --test-labels \S+ --calibration-fraction 0.2)", message
    )
    assert command is not None
    assert run_import(tmp_path, *files, *command[1].split()) == 0
    assert len(stored(tmp_path).labels) == 240


def test_two_arrays_of_labels_that_differ_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(save(tmp_path, lambda z: z)) as file:
        arrays = dict(file)
    np.savez(tmp_path / "a.npz", **arrays, test_targets=arrays["test_labels"][::-1])
    assert "could both be the labels of the test split" in asked(
        capsys, tmp_path, tmp_path / "a.npz"
    )
    np.savez(tmp_path / "b.npz", **arrays, test_targets=arrays["test_labels"])
    assert run_import(tmp_path, tmp_path / "b.npz") == 0


# --- columns of tables --------------------------------------------------------------------------


def table_of(names: Sequence[str] = NAMES[:4], texts: bool = True) -> pd.DataFrame:
    parts = []
    for split, n, seed in (("val", 100, 1), ("test", 200, 2)):
        logits, labels = made(n, len(names), seed)
        frame = pd.DataFrame(logits.round(4), columns=list(names))
        frame["label"] = [names[k] for k in labels] if texts else labels
        frame["prediction"] = logits.argmax(axis=1)
        frame["Confidence"] = softmax(logits).max(axis=1)
        parts.append(frame.assign(split=split, fold=np.arange(n) % 5))
    return pd.concat(parts, ignore_index=True)


def save_table(root: Path, table: pd.DataFrame, **options: Any) -> Path:
    table.to_csv(root / "table.csv", index=False, **options)
    return root / "table.csv"


@given(order=st.permutations(range(9)), texts=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_stands_beside_the_classes_is_left_out_in_any_order_of_columns(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], texts: bool
) -> None:
    root = tmp_path_factory.mktemp("columns")
    table = table_of(texts=texts)
    if not texts:  # then the classes count in the file's order
        order = [*order]
        places = sorted(order.index(k) for k in range(4))
        for k, place in enumerate(places):
            order[place] = k
    source = save_table(root, table[[table.columns[k] for k in order]])
    assert run_import(root, source) == 0
    expected = made(200, 4, 2)[0].round(4).astype(np.float32)
    np.testing.assert_array_equal(stored(root).logits, expected)
    data = record_of(root).data
    assert data is not None
    assert data.label_names == NAMES[:4]


def test_classes_and_columns_left_out_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_table(tmp_path, table_of())
    for outcome in ("imported", "nothing to do"):
        assert run_import(tmp_path, source) == 0
        out = capsys.readouterr().out
        assert "classes: 4 (ash, birch, cedar, elm)" in out
        assert "columns that are no classes were left out: prediction, Confidence, fold" in out
        assert f"{outcome}: m/d" in out


@pytest.mark.parametrize("texts", [True, False])
def test_a_column_that_no_row_has_as_its_label_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: bool
) -> None:
    table = table_of(texts=texts)
    table.insert(4, "difficulty", np.linspace(-3, 0, len(table)))
    source = save_table(tmp_path, table)
    question = asked(capsys, tmp_path, source)
    assert "no row has a label for column 'difficulty'" in question
    answers = re.findall(r"--ignore-columns (\S+?)\.", question)
    assert answers == ["difficulty,prediction,Confidence,fold", "prediction,Confidence,fold"]
    for model, answer, classes in zip("ab", answers, (4, 5), strict=True):
        assert run_import(tmp_path, source, "--ignore-columns", answer, model=model) == 0
        assert stored(tmp_path, model).logits.shape[1] == classes


def test_a_column_of_counts_among_scores_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both positions have rows, so labels do not tell a length and a score from two classes."""
    rng = np.random.default_rng(0)
    length, score = rng.integers(1, 40, 80), rng.normal(size=80).round(3)
    table = pd.DataFrame({"length": length, "score": score, "label": (score > 0).astype(int)})
    source = save_table(tmp_path, table)
    arguments = (source, "--calibration-fraction", "0.5")
    assert "whole numbers alone are in column 'length'" in asked(capsys, tmp_path, *arguments)
    answer = ("--ignore-columns", "length")
    assert "is it a score of class 1" in asked(capsys, tmp_path, *arguments, *answer)
    assert run_import(tmp_path, *arguments, *answer, "--values", "logits") == 0
    np.testing.assert_array_equal(stored(tmp_path).logits[:, 0], 0)


def test_a_class_may_be_called_like_a_column_that_is_none(tmp_path: Path) -> None:
    names = ("confidence", "loss", "y")
    table = table_of(names).drop(columns="Confidence")
    assert run_import(tmp_path, save_table(tmp_path, table)) == 0
    data = record_of(tmp_path).data
    assert data is not None
    assert data.label_names == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(target=t.label.to_numpy()[::-1]),
         "columns 'label' and 'target' could both be the labels"),
        (lambda t: t.assign(logit_ash=1.0, prob_ash=2.0), "'logit_ash' and 'prob_ash' are of one"),
        (lambda t: t.assign(logit_0=1.0, logit_1=2.0, prob_0=0.3, prob_1=0.7),
         "'logit_0' and 'prob_0' are of one class"),
        (lambda t: t.assign(text="words"), "no row has a label for column 'text'"),
        (lambda t: t.assign(**{"class": 0.5}), "no row has a label for column 'class'"),
    ],
)  # fmt: skip
def test_columns_that_could_be_either_are_asked_about(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    assert message in asked(capsys, tmp_path, save_table(tmp_path, change(table_of())))


def test_labels_by_name_and_by_position_are_one_label(tmp_path: Path) -> None:
    table = table_of().assign(target=lambda t: t.label.map(NAMES.index))
    assert run_import(tmp_path, save_table(tmp_path, table)) == 0


# --- texts of numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(tmp_path: Path, capsys: pytest.CaptureFixture[str], separator: str) -> None:
    source = save_table(tmp_path, table_of(), sep=separator, decimal=",")
    assert run_import(tmp_path, source) == 0
    assert "table.csv: commas in numbers were read as decimal commas" in capsys.readouterr().out
    expected = made(200, 4, 2)[0].round(4).astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path).logits, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label;a;b\n0;1,234;2,345\n1;3,456;1,234\n", "may have a decimal comma or parted thous"),
        ("label;a;b\n0;1,25;2.5\n1;3,5;1.5\n", "'1,25' is not a number (decimal commas are read"),
        ("label,a,b\n0,1,25,2,5\n1,3,5,1,5\n", "If its numbers have decimal commas, part the"),
    ],
)
def test_commas_that_could_mean_two_things_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    arguments = (tmp_path / "a.csv", "--calibration-fraction", "0.5")
    assert message in asked(capsys, tmp_path, *arguments)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda t: t.to_csv(index=False).encode("utf-16"), "UTF-16 text; save it in UTF-8"),
        (lambda t: t.to_json(orient="records").encode(), "the content is JSON"),
        (lambda t: t.to_json(orient="records", lines=True).encode(), "the command lm-eval imports"),
        (lambda t: t.assign(ash="12%").to_csv(index=False).encode(), "say --values percentages"),
        (lambda t: t[["label", "split"]].assign(logits="[1, 2]").to_csv(index=False).encode(),
         "is a list written as text"),
        (lambda t: t.assign(label=[None, *t.label[1:]]).to_csv(index=False).encode(),
         "row 0, column 'label': the cell is empty; leave out rows without one"),
    ],
)  # fmt: skip
def test_other_ways_to_write_a_table_are_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[[pd.DataFrame], bytes],
    message: str,
) -> None:
    (tmp_path / "a").write_bytes(write(table_of()))
    assert message in asked(capsys, tmp_path, tmp_path / "a")


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: f"sep=,\r\n{text}".encode(),
        lambda text: text.replace(",", " , ").encode(),
    ],
)
def test_tables_of_spreadsheets(tmp_path: Path, write: Callable[[str], bytes]) -> None:
    (tmp_path / "a.csv").write_bytes(write(table_of().to_csv(index=False)))
    assert run_import(tmp_path, tmp_path / "a.csv") == 0
    expected = made(200, 4, 2)[0].round(4).astype(np.float32)
    np.testing.assert_array_equal(stored(tmp_path).logits, expected)


@pytest.mark.parametrize("first", [".5", "0", "N", "2", "I7\n."])
def test_a_table_whose_first_bytes_read_as_opcodes_is_no_pickle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    """`c` opens a GLOBAL of two lines; what follows may read as opcodes up to a STOP."""
    rows = [f"{k}.5,1,2,3,{k % 3}" for k in range(9)]
    text = "\n".join(["crow,dove,owl,tit,label", "1,2,3,4,0", f"{first},1,2,3,1", *rows, ""])
    (tmp_path / "birds.csv").write_text(text)
    run_import(tmp_path, tmp_path / "birds.csv", "--calibration-fraction", "0.5")
    assert "pickle" not in capsys.readouterr().err


def test_an_import_of_an_earlier_version_is_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file in its place is still refused."""
    source = save_table(tmp_path, table_of())
    module = sys.modules["benchmark.importing.importing"]
    with monkeypatch.context() as earlier:
        earlier.setattr(module, "IMPORT_VERSION", 1)
        assert run_import(tmp_path, source) == 0
    assert run_import(tmp_path, source) == 0
    assert capsys.readouterr().out.count("imported: m/d") == 2
    assert run_import(tmp_path, source) == 0
    assert "nothing to do: m/d" in capsys.readouterr().out
    table_of(texts=False).to_csv(source, index=False)
    assert run_import(tmp_path, source) == 2
