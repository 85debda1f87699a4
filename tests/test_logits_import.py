"""`python -m benchmark.importing`: the same content gives the same run, whatever the file."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmark.claim import evaluate_claim
from benchmark.importing.command import main
from benchmark.records import Record, RunFolder, SuiteMembers, load_results
from benchmark.records.logits import LogitsSplit, read_split, verify_checksum
from benchmark.report import write_report

Array = NDArray[Any]
FORMATS = ("npz", "safetensors", "csv", "parquet", "npy", "two-npz", "two-csv")


@dataclass(frozen=True)
class Content:
    """What a source says: calibration and test logits with their labels."""

    calibration: Array
    calibration_labels: Array
    test: Array
    test_labels: Array


def make_content(seed: int = 0, rows: int = 60, classes: int = 4) -> Content:
    rng = np.random.default_rng(seed)

    def split(n: int) -> tuple[Array, Array]:
        labels = np.arange(n) % classes
        logits = rng.normal(0, 2, (n, classes)) + 2 * np.eye(classes)[labels]
        return logits.astype(np.float32), labels

    return Content(*split(rows // 2), *split(rows))


def frame_of(logits: Array, labels: Array) -> pd.DataFrame:
    frame = pd.DataFrame({f"logit_{k}": logits[:, k] for k in range(logits.shape[1])})
    return frame.assign(label=labels)


def both_splits(content: Content) -> pd.DataFrame:
    return pd.concat(
        [
            frame_of(content.calibration, content.calibration_labels).assign(split="validation"),
            frame_of(content.test, content.test_labels).assign(split="test"),
        ],
        ignore_index=True,
    )


def arrays_of(content: Content) -> dict[str, Array]:
    return {
        "val_logits": content.calibration,
        "val_labels": content.calibration_labels,
        "test_logits": content.test,
        "test_labels": content.test_labels,
    }


def write_source(
    folder: Path, content: Content, kind: str, order: Sequence[int] | None = None
) -> list[str]:
    """Write the content in a format, columns in `order`; return the arguments that name it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = both_splits(content)
    if order is not None:
        table = table[[table.columns[k] for k in order]]
    if kind == "npz":
        np.savez(folder / "logits.npz", **arrays_of(content))
        return [str(folder / "logits.npz")]
    if kind == "safetensors":
        save_file(arrays_of(content), folder / "logits.safetensors")
        return [str(folder / "logits.safetensors")]
    if kind == "csv":
        table.to_csv(folder / "logits.csv", index=order is None)
        return [str(folder / "logits.csv")]
    if kind == "parquet":
        table.to_parquet(folder / "logits.parquet")
        return [str(folder / "logits.parquet")]
    if kind == "npy":
        for name, array in arrays_of(content).items():
            np.save(folder / f"{name}.npy", array)
        return [str(folder / f"{name}.npy") for name in arrays_of(content)]
    if kind == "two-npz":
        np.savez(folder / "a.npz", logits=content.calibration, labels=content.calibration_labels)
        np.savez(folder / "b.npz", logits=content.test, labels=content.test_labels)
        return ["--calibration", str(folder / "a.npz"), "--test", str(folder / "b.npz")]
    frame_of(content.calibration, content.calibration_labels).to_csv(folder / "a.csv")
    frame_of(content.test, content.test_labels).to_csv(folder / "b.csv", sep=";")
    return ["--calibration", str(folder / "a.csv"), "--test", str(folder / "b.csv")]


def run_folder(root: Path, model: str = "m") -> Path:
    return root / "results" / "imported" / model / "d" / "seed-0"


def do_import(root: Path, *arguments: object, model: str = "m", report: bool = False) -> int:
    words = ["import", *map(str, arguments), "--model", model, "--dataset", "d"]
    words += ["--results", str(root / "results"), "--reports", str(root / "reports")]
    return main(words if report else [*words, "--no-report"])


def record_of(root: Path, model: str = "m") -> Record:
    record = RunFolder(run_folder(root, model)).read_record()
    assert record is not None
    return record


def figures_of(record: Record) -> dict[str, Any]:
    """What must not depend on the file format."""
    changing = {"provenance", "keys", "finished_at", "model"}
    return record.model_dump(mode="json", exclude=changing)


def refused(capsys: pytest.CaptureFixture[str], root: Path, *arguments: object) -> str:
    """Import; expect exit code 2, one error line, no traceback and no record. Return the line."""
    try:
        code: object = do_import(root, *arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2, captured
    assert "Traceback" not in captured.err
    assert "error: " in captured.err
    assert not (run_folder(root) / "record.json").exists()
    return captured.err


# --- published figures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "published"),
    [
        (
            "c10_resnet110.npz",
            {
                "error": (0.0644, 1e-9),
                "ece": (0.0475035, 5e-8),
                "ece_after": (0.0113208, 5e-8),
                "temperature": (2.39501, 5e-6),
                "nll": (0.358274, 5e-7),
                "nll_temperature": (0.209261, 5e-7),
            },
        ),
        (
            "c10_resnet50_cross_entropy.npz",
            {
                "error": (0.0495, 1e-9),
                "ece": (0.04354, 5e-6),
                "ece_after": (0.01373, 5e-6),
                "temperature": (2.4975, 5e-5),
            },
        ),
    ],
)
def test_shared_logits_give_the_published_figures(
    tmp_path: Path, shared_data: Path, file: str, published: dict[str, tuple[float, float]]
) -> None:
    source = shared_data / "logits" / file
    if not source.exists():
        pytest.skip(f"{file} is not at ../shared/data/logits")
    assert do_import(tmp_path, source) == 0
    record = record_of(tmp_path)
    assert record.temperature is not None
    test = record.scores["test"]
    ours = {
        "error": 1 - test.maps["none"]["accuracy"].value,
        "ece": test.maps["none"]["ece_15"].value,
        "ece_after": test.maps["temperature"]["ece_15"].value,
        "temperature": record.temperature.value,
        "nll": test.maps["none"]["nll"].value,
        "nll_temperature": test.maps["temperature"]["nll"].value,
    }
    for name, (value, tolerance) in published.items():
        assert ours[name] == pytest.approx(value, abs=tolerance), name


# --- formats -----------------------------------------------------------------------------------


def test_every_format_gives_the_same_record(tmp_path: Path) -> None:
    content = make_content()
    records = []
    for kind in FORMATS:
        assert do_import(tmp_path, *write_source(tmp_path / kind, content, kind), model=kind) == 0
        records.append(figures_of(record_of(tmp_path, kind)))
        assert verify_checksum(RunFolder(run_folder(tmp_path, kind))) == verify_checksum(
            RunFolder(run_folder(tmp_path, "npz"))
        )
    assert all(record == records[0] for record in records)
    assert records[0]["data"]["rows"] == {"calibration": 30, "test": 60}


@pytest.mark.parametrize("disguise", ["logits.npz", "logits.csv", "logits.dat", "logits"])
@pytest.mark.parametrize("kind", ["npz", "safetensors", "csv", "parquet"])
def test_content_decides_the_format_not_the_name(tmp_path: Path, kind: str, disguise: str) -> None:
    (file,) = write_source(tmp_path, make_content(), kind)
    hidden = tmp_path / "hidden" / disguise
    hidden.parent.mkdir()
    shutil.move(file, hidden)
    assert do_import(tmp_path, hidden) == 0


SPLITS = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        *(
            st.integers(3, 8).flatmap(
                lambda n: st.tuples(
                    npst.arrays(
                        np.float32,
                        (n, classes),
                        elements=st.floats(-50, 50, width=32, allow_subnormal=False),
                    ),
                    npst.arrays(np.int64, n, elements=st.integers(0, classes - 1)),
                )
            )
            for _ in range(2)
        )
    )
)


@given(splits=SPLITS, kind=st.sampled_from(FORMATS), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, splits: Any, kind: str, seed: int
) -> None:
    """Any logits, in any format and order of columns, are stored bit for bit."""
    (calibration, calibration_labels), (test, test_labels) = splits
    assume(len(set(calibration_labels.tolist())) > 1)
    assume(not np.array_equal(calibration, test))
    content = Content(calibration, calibration_labels, test, test_labels)
    order = list(range(test.shape[1] + 2))
    random.Random(seed).shuffle(order)
    root = tmp_path_factory.mktemp("round-trip")
    source = write_source(root, content, kind, order)
    assert do_import(root, *source, "--values", "logits", "--keep-class-order") == 0
    stored = {
        name: read_split(RunFolder(run_folder(root)), name) for name in ("calibration", "test")
    }
    np.testing.assert_array_equal(stored["test"].logits, test)
    np.testing.assert_array_equal(stored["test"].labels, test_labels)
    np.testing.assert_array_equal(stored["calibration"].logits, calibration)
    np.testing.assert_array_equal(stored["calibration"].labels, calibration_labels)
    shutil.rmtree(root)


def test_columns_named_by_class_in_any_order(tmp_path: Path) -> None:
    content = make_content()
    names = ["cat", "dog", "eel", "fox"]
    table = both_splits(content).rename(
        columns={f"logit_{k}": name for k, name in enumerate(names)}
    )
    table["label"] = [names[label] for label in table["label"]]
    assert do_import(tmp_path, *write_source(tmp_path / "a", content, "npz"), model="a") == 0
    for model, columns in (("b", ["split", *names, "label"]), ("c", ["label", *names[::-1]])):
        columns = [*columns, *({"split"} - set(columns))]
        table[columns].to_csv(tmp_path / f"{model}.csv", index=False)
        assert do_import(tmp_path, tmp_path / f"{model}.csv", model=model) == 0
        stored = read_split(RunFolder(run_folder(tmp_path, model)), "test")
        np.testing.assert_array_equal(stored.logits, content.test)
        np.testing.assert_array_equal(stored.labels, content.test_labels)
        data = record_of(tmp_path, model).data
        assert data is not None
        assert data.label_names == tuple(names)


def test_arrays_may_name_their_classes(tmp_path: Path) -> None:
    content = make_content()
    names = np.array(["cat", "dog", "eel", "fox"])
    arrays = arrays_of(content) | {
        "label_names": names,
        "val_labels": names[content.calibration_labels],
        "test_labels": names[content.test_labels].astype("S"),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert do_import(tmp_path, tmp_path / "a.npz") == 0
    stored = read_split(RunFolder(run_folder(tmp_path)), "test").labels
    np.testing.assert_array_equal(stored, content.test_labels)
    data = record_of(tmp_path).data
    assert data is not None
    assert data.label_names == tuple(names)


def test_label_names_settle_the_order_of_classes(tmp_path: Path) -> None:
    content = make_content()
    table = both_splits(content).rename(columns={f"logit_{k}": "wxyz"[k] for k in range(4)})
    table["label"] = ["wxyz"[label] for label in table["label"]]
    table.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "names.txt").write_text("z\ny\nx\nw\n")
    arguments = ("--label-names-file", tmp_path / "names.txt")
    assert do_import(tmp_path, tmp_path / "a.csv", *arguments) == 0
    stored = read_split(RunFolder(run_folder(tmp_path)), "test")
    np.testing.assert_array_equal(stored.logits, content.test[:, ::-1])
    np.testing.assert_array_equal(stored.labels, 3 - content.test_labels)


def test_the_user_names_arrays_and_columns(tmp_path: Path) -> None:
    content = make_content()
    np.savez(
        tmp_path / "a.npz", c=content.calibration, d=content.calibration_labels,
        t=content.test, u=content.test_labels,
    )  # fmt: skip
    keys = ["--calibration-logits", "c", "--calibration-labels", "d"]
    keys += ["--test-logits", "t", "--test-labels", "u"]
    assert do_import(tmp_path, tmp_path / "a.npz", *keys, model="a") == 0
    table = both_splits(content).rename(columns={"label": "truth", "split": "fold"})
    table = table.rename(columns={f"logit_{k}": "abcd"[k] for k in range(4)})
    table["fold"] = table["fold"].map({"validation": "one", "test": "two"})
    table["confidence"] = 0.5
    table.to_parquet(tmp_path / "b.parquet")
    columns = ["--label-column", "truth", "--split-column", "fold", "--logit-columns", "a,b,c,d"]
    columns += ["--calibration-value", "one", "--test-value", "two"]
    assert do_import(tmp_path, tmp_path / "b.parquet", *columns, model="b") == 0
    for name in ("a", "b"):
        np.testing.assert_array_equal(
            read_split(RunFolder(run_folder(tmp_path, name)), "test").logits, content.test
        )


def test_a_parquet_column_may_hold_lists(tmp_path: Path) -> None:
    content = make_content()
    table = both_splits(content)
    table["logits"] = table[[f"logit_{k}" for k in range(4)]].to_numpy().tolist()
    table[["logits", "label", "split"]].to_parquet(tmp_path / "a.parquet")
    assert do_import(tmp_path, tmp_path / "a.parquet") == 0
    np.testing.assert_array_equal(
        read_split(RunFolder(run_folder(tmp_path)), "test").logits, content.test
    )


def test_stored_logits_can_be_imported_again(tmp_path: Path) -> None:
    assert do_import(tmp_path, *write_source(tmp_path, make_content(), "npz"), model="a") == 0
    assert do_import(tmp_path, run_folder(tmp_path, "a") / "logits.safetensors", model="b") == 0
    first, second = (figures_of(record_of(tmp_path, name)) for name in "ab")
    assert first == second


# --- rows --------------------------------------------------------------------------------------


def test_row_ids_are_positions_that_do_not_depend_on_the_calibration_rows(tmp_path: Path) -> None:
    content = make_content()
    fewer = Content(
        content.calibration[:20], content.calibration_labels[:20], content.test, content.test_labels
    )
    for model, source in (("a", content), ("b", fewer)):
        arguments = write_source(tmp_path / model, source, "npz")
        assert do_import(tmp_path, *arguments, model=model) == 0
    ids = {m: read_split(RunFolder(run_folder(tmp_path, m)), "test").ids.tolist() for m in "ab"}
    assert ids["a"] == ids["b"] == list(range(60))
    assert read_split(RunFolder(run_folder(tmp_path, "a")), "calibration").ids.tolist() == list(
        range(60, 90)
    )


def test_ids_of_the_source_are_kept_and_texts_hashed(tmp_path: Path) -> None:
    table = both_splits(make_content())
    table.assign(id=range(1000, 1090)).to_csv(tmp_path / "a.csv")
    table.assign(file=[f"{k}.png" for k in range(90)]).to_csv(tmp_path / "b.csv")
    shuffled = table.assign(file=[f"{k}.png" for k in range(90)]).sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "c.csv")
    assert do_import(tmp_path, tmp_path / "a.csv", model="a") == 0
    assert read_split(RunFolder(run_folder(tmp_path, "a")), "test").ids.tolist() == list(
        range(1030, 1090)
    )
    rows = {}
    for model in "bc":
        path = tmp_path / f"{model}.csv"
        assert do_import(tmp_path, path, "--id-column", "file", model=model) == 0
        split = read_split(RunFolder(run_folder(tmp_path, model)), "test")
        order = np.argsort(split.ids)
        rows[model] = LogitsSplit(split.ids[order], split.logits[order], split.labels[order])
    np.testing.assert_array_equal(rows["b"].ids, rows["c"].ids)
    np.testing.assert_array_equal(rows["b"].logits, rows["c"].logits)


def test_held_out_rows_are_the_same_for_every_model(tmp_path: Path) -> None:
    for model in "ab":
        content = make_content(seed=ord(model))
        np.savez(tmp_path / f"{model}.npz", logits=content.test, labels=content.test_labels)
        path = tmp_path / f"{model}.npz"
        assert do_import(tmp_path, path, "--calibration-fraction", "0.25", model=model) == 0
    splits = [
        [read_split(RunFolder(run_folder(tmp_path, m)), s) for s in ("calibration", "test")]
        for m in "ab"
    ]
    for first, second in zip(*splits, strict=True):
        np.testing.assert_array_equal(first.ids, second.ids)
    calibration, test = splits[0]
    assert (len(calibration.ids), len(test.ids)) == (15, 45)
    assert set(calibration.ids) | set(test.ids) == set(range(60))
    source = make_content(seed=ord("a"))
    np.testing.assert_array_equal(calibration.logits, source.test[calibration.ids])


def test_float64_is_rounded_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = make_content()
    rounded = content.test.astype(np.float64) + 1e-9
    arrays = arrays_of(content) | {"test_logits": rounded}
    np.savez(tmp_path / "a.npz", **arrays)
    assert do_import(tmp_path, tmp_path / "a.npz") == 0
    assert "test logits were rounded to float32 (largest change" in capsys.readouterr().out
    stored = read_split(RunFolder(run_folder(tmp_path)), "test").logits
    np.testing.assert_array_equal(stored, rounded.astype(np.float32))
    imported = record_of(tmp_path).provenance["imported"]
    assert any("rounded" in note for note in imported["notes"])


# --- probabilities -----------------------------------------------------------------------------


def test_probabilities_need_the_option_and_give_the_same_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = make_content()

    def softmax(logits: Array) -> Array:
        powers = np.exp(logits.astype(np.float64))
        return powers / powers.sum(axis=1, keepdims=True)

    probable = Content(
        softmax(content.calibration), content.calibration_labels,
        softmax(content.test), content.test_labels,
    )  # fmt: skip
    source = write_source(tmp_path / "p", probable, "npz")
    assert "--values probabilities" in refused(capsys, tmp_path, *source)
    assert do_import(tmp_path, *source, "--probabilities", model="p") == 0
    assert do_import(tmp_path, *write_source(tmp_path / "l", content, "npz"), model="l") == 0
    first, second = record_of(tmp_path, "p"), record_of(tmp_path, "l")
    assert first.temperature is not None
    assert second.temperature is not None
    assert first.temperature.value == pytest.approx(second.temperature.value, rel=1e-5)
    for metric in ("nll", "brier", "ece_15", "accuracy"):
        ours, reference = (
            first.scores["test"].maps["temperature"][metric],
            second.scores["test"].maps["temperature"][metric],
        )
        assert ours.value == pytest.approx(reference.value, rel=1e-4), metric


def test_what_a_zero_probability_becomes_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = make_content()
    sure = np.eye(4)[content.test_labels]
    sure[0] = sure[1]  # a sure mistake: its true class has probability zero
    soft = 0.9 * np.eye(4)[(content.calibration_labels + 1) % 4] + 0.025
    np.savez(
        tmp_path / "a.npz", val_probs=soft, val_labels=content.calibration_labels,
        test_probs=sure, test_labels=content.test_labels,
    )  # fmt: skip
    assert do_import(tmp_path, tmp_path / "a.npz", "--probabilities") == 0
    out = capsys.readouterr().out
    assert "180 test probabilities below 1.2e-38 (zeros included) became 1.2e-38" in out
    assert "1 of them belong to the true class" in out
    nll = record_of(tmp_path).scores["test"].maps["none"]["nll"].value
    assert nll == pytest.approx(-np.log(np.finfo(np.float32).tiny) / 60, rel=1e-5)
    arguments = ("--probabilities", "--probability-floor", "1e-6", "--force")
    assert do_import(tmp_path, tmp_path / "a.npz", *arguments) == 0
    nll = record_of(tmp_path).scores["test"].maps["none"]["nll"].value
    assert nll == pytest.approx(-np.log(1e-6) / 60, rel=1e-3)


# --- what is refused ---------------------------------------------------------------------------


class Bomb:
    """A pickle that shows that it was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def _pickles(folder: Path) -> dict[str, Path]:
    import torch

    bomb = Bomb(folder / "exploded")
    made = {}
    for protocol in range(6):
        made[f"protocol {protocol}"] = folder / f"{protocol}.pkl"
        made[f"protocol {protocol}"].write_bytes(pickle.dumps(bomb, protocol))
    for name, options in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
        made[f"torch {name}"] = folder / f"{name}.pt"
        torch.save({"bomb": bomb, "logits": torch.zeros(2, 2)}, made[f"torch {name}"], **options)
    objects = np.empty(3, dtype=object)
    objects[:] = [bomb, bomb, bomb]
    made["npy of objects"] = folder / "test_logits.npy"
    np.save(made["npy of objects"], objects, allow_pickle=True)
    made["npz of objects"] = folder / "objects.npz"
    np.savez(made["npz of objects"], allow_pickle=True, test_logits=objects, test_labels=objects)
    return made


@pytest.mark.parametrize("disguise", [None, ".npz", ".csv", ".parquet", ".safetensors", ""])
def test_pickles_are_refused_in_any_disguise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], disguise: str | None
) -> None:
    for name, path in _pickles(tmp_path).items():
        shown = path
        if disguise is not None:
            shown = tmp_path / "disguised" / f"test_logits{disguise}"
            shown.parent.mkdir(exist_ok=True)
            shutil.copy(path, shown)
        # An .npy file holds one array, so labels must stand beside it.
        np.save(tmp_path / "test_labels.npy", np.zeros(3, dtype=np.int64))
        beside = (tmp_path / "test_labels.npy",) if name == "npy of objects" else ()
        message = refused(capsys, tmp_path, shown, *beside, "--calibration-fraction", "0.5")
        assert "pickle can run any code" in message, name
        assert "numpy.savez" in message, name
        assert not (tmp_path / "exploded").exists(), name


def test_a_table_under_the_suffix_of_a_pickle_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = write_source(tmp_path, make_content(), "csv")
    shutil.move(file, tmp_path / "logits.pkl")
    assert "if the content is a table, name it .csv" in refused(
        capsys, tmp_path, tmp_path / "logits.pkl"
    )


def _edited(**changes: Any) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """Return a function that changes single values of arrays: name=(index, value)."""

    def edit(arrays: dict[str, Array]) -> dict[str, Array]:
        edited = {name: array.copy() for name, array in arrays.items()}
        for name, (index, value) in changes.items():
            edited[name][index] = value
        return edited

    return edit


def _without(*names: str) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


def _with(**others: Callable[[dict[str, Array]], Array]) -> Callable[..., dict[str, Array]]:
    return lambda arrays: arrays | {name: make(arrays) for name, make in others.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edited(test_logits=((7, 2), np.nan)), r"row 7, test_logits\[:, 2\]: the value is nan"),
        (_edited(val_logits=((3, 0), np.inf)), r"row 3, val_logits\[:, 0\]: the value is inf"),
        (_edited(val_logits=((3, 0), -np.inf)), r"row 3, .*large negative logit"),
        (_edited(test_labels=(5, 4)), "row 5, test_labels: label 4 is not a class position 0"),
        (_edited(val_labels=(2, -1)), "row 2, val_labels: label -1 .* leave out rows without"),
        (_edited(val_labels=(slice(None), 1)), "every calibration row has label 1"),
        (_without("val_logits", "val_labels"), "no calibration rows.*--calibration-fraction 0.2"),
        (_without("test_logits", "test_labels"), "no test rows found"),
        (_without("test_logits", "val_logits"), "no logits found among val_labels, test_labels"),
        (_without("test_labels"), "'test_logits' has no labels beside it.*--test-labels"),
        (_with(test_labels=lambda a: a["test_labels"][:-1]), "60 rows of logits.*shape.*59"),
        (_with(test_labels=lambda a: np.eye(4)[a["test_labels"]]), "not one-hot rows"),
        (_with(test_logits=lambda a: a["test_logits"][:, :3]), "has 3 classes, but .* has 4"),
        (_with(test_logits=lambda a: a["test_logits"][:, 0]), "has 1 classes, but .* has 4"),
        (_with(val_logits=lambda a: a["val_logits"][:0], val_labels=lambda a: a["val_labels"][:0]),
         "the calibration split has no rows"),
        (_with(test_logits=lambda a: a["val_logits"], test_labels=lambda a: a["val_labels"]),
         "calibration and test rows are the same"),
        (_with(valid_logits=lambda a: a["val_logits"]), "could both be the logits"),
        (_with(test_logits=lambda a: 1e39 * a["test_logits"].astype(float)), "too large for"),
        (_with(test_logits=lambda a: a["test_logits"].astype(complex)), "complex128, not numbers"),
        (_with(test_labels=lambda a: a["test_labels"] + 0.5), "label 0.5 is not a class position"),
        (_with(test_ids=lambda a: np.arange(60), val_ids=lambda a: np.arange(30)),
         "30 row ids are in both splits"),
        (_with(test_ids=lambda a: np.arange(60) // 2), "row 1, test_ids: id '0' appears a second"),
        (_with(val_logits=lambda a: a["val_logits"][:, :1],
               test_logits=lambda a: a["test_logits"][:, :1]), "at least 2 classes"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused_with_the_place(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Array]], dict[str, Array]],
    message: str,
) -> None:
    import re

    np.savez(tmp_path / "a.npz", **change(arrays_of(make_content())))
    assert re.search(message, refused(capsys, tmp_path, tmp_path / "a.npz"))
    assert not run_folder(tmp_path).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(logit_1=["1.5"] * 40 + ["1,5"] + ["2"] * 49),
         "row 40, column 'logit_1': '1,5' is not a number"),
        (lambda t: t.assign(logit_1=[1.0] * 40 + [None] + [2.0] * 49), "row 40, .*cell is empty"),
        (lambda t: t.drop(columns="label"), "no column 'label'.*--label-column"),
        (lambda t: t.drop(columns="logit_2"), "where class 2 should be there is 'logit_3'"),
        (lambda t: t.assign(split="train"), "no rows of the calibration or test .*has train"),
        (lambda t: t.assign(split=["val"] * 30 + ["dev"] * 30 + ["test"] * 30),
         "several names for the calibration split"),
        (lambda t: t.assign(label=["x"] * 90), "row 0, column 'label': label 'x' .*--label-names"),
        (lambda t: t.rename(columns={f"logit_{k}": "abcd"[k] for k in range(4)})
         .assign(label=["abc"[k % 3] for k in range(89)] + ["dd"]),
         "row 89, column 'label': label 'dd' is not a class, did you mean 'd'"),
        (lambda t: t.rename(columns={"logit_0": "logit_1", "logit_1": "a"}).assign(logit_2=t.label),
         "where class 0 should be there is 'logit_1'"),
        (lambda t: t.assign(id=0), "row 31, column 'id': id '0' appears a second time|row 1, "),
        (lambda t: t[["label", "split"]], "no columns of logits"),
        (lambda t: t[["label", "split"]].assign(text="words"), "'words' is not a number"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_bad_tables_are_refused_with_the_place(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
    kind: str,
) -> None:
    import re

    table = change(both_splits(make_content()))
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    assert re.search(message, refused(capsys, tmp_path, path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08\x00", "gzip-compressed; decompress it first"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (b"PAR1 and no more", "cannot be read"),
        (b"\x93NUMPY\x09\x09", "no logits found among file; name them"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", "unknown content; logits are read from npz"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{notjson", "cannot be read"),
        (b"a,b\n1,2,3\n", "cannot be read"),
        (b"label,label\n1,2\n", "several columns are named 'label'"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    assert message in refused(capsys, tmp_path, tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.npz"], "no such file"),
        ([], "name a FILE"),
        (["{npz}", "--label-column", "label"], "no file is csv or parquet"),
        (["{csv}", "--test-logits", "x"], "no file has arrays"),
        (["{npz}", "--test-logits", "test_logit"], "did you mean 'test_logits'?"),
        (["{csv}", "--label-column", "lable"], "did you mean 'label'?"),
        (["{npz}", "--calibration-fraction", "0.2"], "there are calibration rows"),
        (["{npz}", "--calibration-fraction", "1.5"], "is not between 0 and 1"),
        (["{npz}", "--label-names", "a,b"], "4 classes, but 2 label names"),
        (["{npz}", "--label-names", "a,b,c,a"], "label names repeat"),
        (["{npz}", "--label-names-file", "{npz}"], "cannot be read as a list of label names"),
        (["{npz}", "--probability-floor", "0.1"], "goes with --probabilities"),
        (["{npz}", "--probabilities"], "holds a negative value"),
        (["{npz}", "--mixer", "attn"], "invalid choice: 'attn'"),
        (["{npz}", "--suite", "../up"], "cannot name a folder"),
        (["{npz}", "--registry", "nowhere.yaml"], "no such registry file"),
        (["{npz}", "{csv}"], "both hold"),
        (["{npz}", "--parameters", "many"], "'many' is not a number"),
    ],
)
def test_wrong_commands_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    paths = {kind: write_source(tmp_path, make_content(), kind)[0] for kind in ("npz", "csv")}
    words = [argument.format(**paths) for argument in arguments]
    assert message in refused(capsys, tmp_path, *words)


def test_texts_that_are_not_utf8_are_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = both_splits(make_content()).assign(id=[f"row {k:04}" for k in range(90)])
    table.to_parquet(tmp_path / "a.parquet", compression="none", use_dictionary=False)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"row 0042", b"row \xec042"))
    assert "seems damaged" in refused(capsys, tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["npz", "safetensors", "csv", "parquet", "npy"])
def test_mutated_files_never_show_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Bytes changed, cut out and put in at random: an import or one error line, nothing else."""
    files = [Path(path) for path in write_source(tmp_path, make_content(), kind)]
    original = files[0].read_bytes()
    generator = random.Random(kind)
    codes = []
    for _ in range(60):
        data = bytearray(original)
        for _ in range(generator.randint(1, 4)):
            start = generator.randrange(len(data))
            end = min(len(data), start + generator.choice((1, 1, 1, 8, 200)))
            change = generator.choice(("flip", "cut", "insert", "end"))
            if change == "flip":
                data[start:end] = generator.randbytes(end - start)
            elif change == "cut":
                del data[start:end]
            elif change == "insert":
                data[start:start] = generator.randbytes(end - start)
            else:
                del data[max(1, start) :]
        files[0].write_bytes(bytes(data))
        codes.append(do_import(tmp_path, *files, "--force"))
        captured = capsys.readouterr()
        assert codes[-1] in (0, 2), captured.err
        assert "Traceback" not in captured.err
        assert sum(line.startswith("error: ") for line in captured.err.splitlines()) == (
            codes[-1] == 2
        )
    assert 2 in codes


# --- again, over, killed -----------------------------------------------------------------------


def test_importing_twice_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path, make_content(), "npz")
    assert do_import(tmp_path, *source) == 0
    assert "\nimported: m/d/seed-0" in capsys.readouterr().out
    files = sorted(path for path in run_folder(tmp_path).iterdir() if path.name != ".lock")
    before = [(path.name, path.stat().st_mtime_ns) for path in files]
    assert do_import(tmp_path, *source) == 0
    assert "\nnothing to do: m/d/seed-0" in capsys.readouterr().out
    assert [(path.name, path.stat().st_mtime_ns) for path in files] == before


def test_new_facts_change_the_record_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path, make_content(), "npz")
    assert do_import(tmp_path, *source) == 0
    first = record_of(tmp_path)
    facts = ["--mixer", "convolution", "--family", "ResNet", "--parameters", "1.7e6"]
    assert do_import(tmp_path, *source, *facts) == 0
    assert "described anew: m/d/seed-0" in capsys.readouterr().out
    second = record_of(tmp_path)
    assert (second.facts.mixer, second.facts.family) == ("convolution", "ResNet")
    assert second.facts.parameters == 1_700_000
    assert second.facts.modality is None
    assert second.model_copy(update={"facts": first.facts}) == first


def test_something_else_is_not_imported_over_a_run_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do_import(tmp_path, *write_source(tmp_path / "a", make_content(0), "npz")) == 0
    first = record_of(tmp_path)
    other = write_source(tmp_path / "b", make_content(1), "npz")
    for arguments in ([*other], [*write_source(tmp_path / "a", make_content(0), "csv")]):
        capsys.readouterr()
        assert do_import(tmp_path, *arguments) == 2
        error = capsys.readouterr().err
        assert "holds another import of logits.npz" in error
        assert "--force" in error
        assert record_of(tmp_path) == first
    assert do_import(tmp_path, *other, "--force") == 0
    assert record_of(tmp_path).scores != first.scores


def test_a_refused_file_leaves_the_earlier_import_alone(tmp_path: Path) -> None:
    assert do_import(tmp_path, *write_source(tmp_path, make_content(), "npz")) == 0
    first = record_of(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    assert do_import(tmp_path, tmp_path / "bad.npz", "--force") == 2
    assert record_of(tmp_path) == first
    verify_checksum(RunFolder(run_folder(tmp_path)))


def test_provenance_names_files_without_folders(tmp_path: Path) -> None:
    import hashlib

    source = write_source(tmp_path, make_content(), "npz")
    assert do_import(tmp_path, *source, "--licence", "MIT") == 0
    imported = record_of(tmp_path).provenance["imported"]
    digest = hashlib.sha256(Path(source[0]).read_bytes()).hexdigest()
    assert imported["files"] == [{"name": "logits.npz", "sha256": digest, "split": None}]
    assert imported["licence"] == "MIT"
    spec = json.loads((run_folder(tmp_path) / "spec.json").read_text())
    assert spec["command"].startswith(
        "python -m benchmark.importing import logits.npz --licence MIT"
    )
    for file in ("record.json", "spec.json"):
        assert str(tmp_path) not in (run_folder(tmp_path) / file).read_text()


def test_facts_come_from_a_registry_entry(
    tmp_path: Path, registry_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path, make_content(), "npz")
    arguments = (*source, "--registry", registry_file)
    assert do_import(tmp_path, *arguments, "--reference", "here", model="resnet") == 0
    facts = record_of(tmp_path, "resnet").facts
    assert (facts.mixer, facts.family, facts.modality) == ("convolution", "ResNet", "image")
    assert facts.reference == "here"
    assert do_import(tmp_path, *arguments, model="resnte") == 2
    assert "did you mean 'resnet'?" in capsys.readouterr().err


def test_two_imports_at_once_end_with_one_of_them(tmp_path: Path) -> None:
    commands = []
    for seed in (0, 1):
        source = write_source(tmp_path / str(seed), make_content(seed), "npz")
        command = [sys.executable, "-m", "benchmark.importing", "import", *source, "--model", "m"]
        commands.append([*command, "--dataset", "d", "--results", str(tmp_path / "results")])
    started = [
        subprocess.Popen([*c, "--no-report"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for c in commands
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 2]
    assert "holds another import of logits.npz" in errors[codes.index(2)]
    stored = read_split(RunFolder(run_folder(tmp_path)), "test")
    np.testing.assert_array_equal(stored.logits, make_content(codes.index(0)).test)


def test_labels_saved_as_floats(tmp_path: Path) -> None:
    table = both_splits(make_content())
    table.assign(label=table["label"].astype(float)).to_csv(tmp_path / "a.csv")
    assert do_import(tmp_path, tmp_path / "a.csv") == 0
    stored = read_split(RunFolder(run_folder(tmp_path)), "test").labels
    np.testing.assert_array_equal(stored, make_content().test_labels)


@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
def test_killed_in_mid_import_leaves_no_half_record(tmp_path: Path) -> None:
    """Killed at many moments, the folder holds the old run, none, or the new one, whole."""
    old = write_source(tmp_path / "old", make_content(0), "npz")
    rows = make_content(1, rows=20_000)
    new = write_source(tmp_path / "new", rows, "npz")
    assert do_import(tmp_path, *new, model="reference") == 0
    command = [sys.executable, "-m", "benchmark.importing", "import", *new, "--model", "m"]
    command += ["--dataset", "d", "--results", str(tmp_path / "results"), "--no-report", "--force"]
    started = time.monotonic()
    assert do_import(tmp_path, *old) == 0
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    whole = time.monotonic() - started
    allowed = [figures_of(record_of(tmp_path, "reference"))]
    assert do_import(tmp_path, *old, "--force") == 0
    allowed.append(figures_of(record_of(tmp_path)))
    killed = 0
    for share in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        folder = run_folder(tmp_path)
        record = RunFolder(folder).read_record()
        if record is not None:
            assert figures_of(record) in allowed
            verify_checksum(RunFolder(folder))
            assert record.data is not None
            assert record.data.rows["test"] == len(read_split(RunFolder(folder), "test").labels)
    assert killed > 0
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert figures_of(record_of(tmp_path)) == allowed[0]
    assert not list(run_folder(tmp_path).glob(".import-*"))


# --- the rest of the harness --------------------------------------------------------------------


def test_neither_help_nor_an_import_loads_torch(tmp_path: Path) -> None:
    source = write_source(tmp_path, make_content(), "npz")
    code = (
        "import sys\nfrom benchmark.importing.command import main\n"
        f"assert main(['import', {source[0]!r}, '--model', 'm', '--dataset', 'd', '--results', "
        f"{str(tmp_path / 'results')!r}, '--reports', {str(tmp_path / 'reports')!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    helped = (
        "import sys\nfrom benchmark.importing.command import main\n"
        "try:\n    main(['import', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'pandas', 'scipy', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", helped], check=True, timeout=60, capture_output=True)


def test_show_prints_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = make_content()
    assert do_import(tmp_path, *write_source(tmp_path, content, "npz")) == 0
    capsys.readouterr()
    assert main(["show", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    accuracy = (content.test.argmax(axis=1) == content.test_labels).mean()
    assert verify_checksum(RunFolder(run_folder(tmp_path))) in out
    assert [line.split() for line in out.splitlines() if line.startswith("test")] == [
        ["test", "60", "4", f"{accuracy:.4f}"]
    ]
    file = run_folder(tmp_path) / "logits.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert main(["show", str(file.parent)]) == 1
    assert "checksum does not match" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "nowhere")]) == 2


def test_report_of_imported_logits(tmp_path: Path) -> None:
    """Facts may be missing: the report names them unknown and the claim leaves such runs out."""
    known = ["--mixer", "attention", "--family", "ViT", "--modality", "image"]
    for index, facts in enumerate(([], known, [*known, "--parameters", "5e6"])):
        source = write_source(tmp_path / str(index), make_content(index), "npz")
        assert do_import(tmp_path, *source, *facts, model=f"m{index}", report=True) == 0
    folder = tmp_path / "reports" / "imported"
    page = (folder / "README.md").read_text()
    assert "| unknown |" in page
    assert "| attention |" in page
    assert "the logits were imported and scored on" in page
    assert "no checkpoint is known to mix by convolution" in page
    assert "nan" not in page.lower().split()
    model = (folder / "models" / "m0.md").read_text()
    assert "- mixer: unknown" in model
    assert "python -m benchmark.importing import logits.npz --model m0" in model
    assert 'value="unknown"' in (folder / "index.html").read_text()


def test_the_claim_leaves_out_models_of_unknown_mixer_or_family(tmp_path: Path) -> None:
    from synthetic import MODELS, write_tree

    write_tree(tmp_path / "results", suite="imported", seeds=(0,), rows=200, shifts=())
    before = evaluate_claim(load_results(tmp_path / "results"))
    for model, facts in (("none", []), ("half", ["--mixer", "attention"])):
        content = make_content(rows=200, classes=10)
        source = write_source(tmp_path / model, content, "npz")
        arguments = (*source, *facts, "--modality", "image")
        words = ["import", *map(str, arguments), "--model", model, "--dataset", "mnist-5k"]
        assert main([*words, "--results", str(tmp_path / "results"), "--no-report"]) == 0
    after = evaluate_claim(load_results(tmp_path / "results"))
    assert before.primary is not None
    assert after.primary == before.primary
    reasons = {item.name: item.reason for item in after.dropped}
    assert reasons["half/mnist-5k"].startswith("lacks family")
    assert reasons["none/mnist-5k"].startswith("lacks mixer, family")
    assert not {f"{model.name}/mnist-5k" for model in MODELS} & set(reasons)
    write_report(tmp_path / "results", tmp_path / "reports", suite="imported")


def test_a_declared_suite_takes_no_run_that_its_report_would_leave_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    SuiteMembers(
        suite="study",
        base="study",
        registry="registry.yaml",
        declared=True,
        runs={"vit/d/seed-0": "study"},
    ).write(results)
    source = write_source(tmp_path / "m", make_content(rows=200, classes=10), "npz")
    words = ["import", *map(str, source), "--model", "m", "--dataset", "d", "--suite", "study"]
    assert main([*words, "--results", str(results), "--no-report"]) == 2
    assert "m/d/seed-0 is none of them: import into another suite" in capsys.readouterr().err
    assert not (results / "study" / "m").exists()
