from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from input_files import (
    NAMES,
    labels_by_text,
    read,
    table,
    text_entry,
    write_csv,
    write_jsonl,
    write_parquet,
    write_splits,
)

from benchmark.failures import RunError


def with_labels(rows: list[dict[str, Any]], changes: dict[int, Any]) -> list[dict[str, Any]]:
    return [{**row, "label": changes.get(i, row["label"])} for i, row in enumerate(rows)]


@pytest.mark.parametrize("mark", ["", "  ", "-", "-1", "-1.0", "nan", "NaN", "-100", "NA", "None"])
def test_a_numbered_csv_row_without_a_label_is_refused_or_left_out(
    tmp_path: Path, mark: str
) -> None:
    rows = with_labels(table(40, labels=[0, 1, 2]), {4: mark, 9: mark})
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", table(9, labels=[0, 1, 2], start=1000))
    with pytest.raises(RunError, match=r"2 of 40 .*train\.csv, row 5, .*drop_unlabelled: true"):
        read(text_entry(tmp_path))
    corpus = read(text_entry(tmp_path, drop_unlabelled=True))
    assert corpus.label_names == ("0", "1", "2")
    kept = labels_by_text(corpus)
    assert kept == {r["text"]: str(r["label"]) for r in rows if r["label"] != mark} | {
        f"text {1000 + i}": str(i % 3) for i in range(9)
    }
    assert any("2 of 40 rows without a label left out" in note for note in corpus.notes)


@pytest.mark.parametrize("gap", [None, float("nan"), -1, "", "-", "nan", -1.0])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_gaps_of_typed_columns_are_told_from_classes(tmp_path: Path, gap: Any, suffix: str) -> None:
    named = gap is None or isinstance(gap, str)
    classes: tuple[Any, ...] = NAMES if named else tuple(type(gap)(i) for i in range(3))
    write = write_jsonl if suffix == "jsonl" else write_parquet
    write(tmp_path / f"train.{suffix}", with_labels(table(30, labels=classes), {7: gap}))
    write(tmp_path / f"test.{suffix}", table(9, labels=classes, start=1000))
    with pytest.raises(RunError, match=r"1 of 30 rows .* row 8, column 'label'"):
        read(text_entry(tmp_path))
    corpus = read(text_entry(tmp_path, drop_unlabelled=True))
    assert corpus.label_names == (NAMES if named else ("0", "1", "2"))
    assert "text 7" not in labels_by_text(corpus)


def test_words_that_stand_for_gaps_elsewhere_are_classes_among_words(tmp_path: Path) -> None:
    words = ("None", "NA", "null", "favour")
    rows = table(40, labels=words)
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", table(8, labels=words, start=1000))
    corpus = read(text_entry(tmp_path))
    assert corpus.label_names == tuple(sorted(words))
    assert {r["text"]: r["label"] for r in rows}.items() <= labels_by_text(corpus).items()
    assert not any("left out" in note for note in corpus.notes)


def test_a_class_that_looks_like_a_gap_can_be_declared(tmp_path: Path) -> None:
    write_csv(tmp_path / "all.csv", table(60, labels=[-1, 0, 1]))
    settings = {"splits": {"test": 0.2}}
    with pytest.raises(RunError, match=r"'-1'\).*classes: \[\.\.\.\]"):
        read(text_entry(tmp_path / "all.csv", **settings))
    corpus = read(text_entry(tmp_path / "all.csv", classes=[-1, 0, 1], **settings))
    assert corpus.label_names == ("-1", "0", "1")
    assert set(labels_by_text(corpus).values()) == {"-1", "0", "1"}
    with pytest.raises(RunError, match="labels that 'classes' does not list: '1'"):
        read(text_entry(tmp_path / "all.csv", classes=[-1, 0], **settings))


@settings(max_examples=15, deadline=None)
@given(
    orders=st.lists(st.permutations(("yew", "ash", "10", "9", "elm")), min_size=3, max_size=3),
    plain=st.integers(0, 3),
)
def test_classes_are_matched_by_name_whatever_their_order(
    orders: list[list[str]], plain: int
) -> None:
    """Each split numbers the classes in an order of its own; one may name them in a csv file."""
    with TemporaryDirectory() as folder:
        truth = {}
        for i, (split, names) in enumerate(zip(("train", "valid", "test"), orders, strict=True)):
            rows = table(25, labels=sorted(names), start=100 * i)
            truth |= {row["text"]: row["label"] for row in rows}
            if i == plain:
                write_csv(Path(folder) / f"{split}.csv", rows)
            else:
                write_parquet(Path(folder) / f"{split}.parquet", rows, names)
        corpus = read(text_entry(Path(folder), splits={"calibration": "valid"}))
    assert labels_by_text(corpus) == truth
    assert corpus.label_names == tuple(sorted(orders[0]) if plain == 0 else orders[0])


def test_shards_that_number_the_classes_differently(tmp_path: Path) -> None:
    rows = table(40)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows[:20], ("elm", "oak", "ash"))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows[20:], ("oak", "ash", "elm"))
    labels = labels_by_text(read(text_entry(tmp_path)))
    assert labels == {row["text"]: row["label"] for row in rows}


def test_whole_numbers_are_one_class_in_any_type(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", table(30, labels=[0.0, 1.0, 10.0]))
    write_csv(tmp_path / "test.csv", table(9, labels=["10", "0", "1.0"], start=1000))
    corpus = read(text_entry(tmp_path))
    assert corpus.label_names == ("0", "1", "10")
    assert labels_by_text(corpus)["text 1000"] == "10"
    assert labels_by_text(corpus)["text 1002"] == "1"


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("ash ", r"row 3, .*'ash' and 'ash ' are probably one class"),
        ("Ash", "'Ash' and 'ash' are probably one class"),
        ("ash\u00a0", "are probably one class"),
        ("\u200bash", "are probably one class"),
        ("\uff41sh", "are probably one class"),  # a full-width a
        (["ash"], r"row 3, column 'label' holds a list"),
        ({"name": "ash"}, "holds a structure"),
        ([0, 1, 0], "rows of several labels"),
        (0.5, r"row 3, column 'label' holds 0\.5: numbers with fractions"),
    ],
)
def test_labels_that_are_no_class_are_named(tmp_path: Path, odd: Any, message: str) -> None:
    write_splits(tmp_path, with_labels(table(30), {2: odd}), write_jsonl, "jsonl")
    with pytest.raises(RunError, match=message):
        read(text_entry(tmp_path))


def test_two_classes_that_look_alike_can_be_declared(tmp_path: Path) -> None:
    write_csv(tmp_path / "all.csv", table(60, labels=["us", "US"]))
    corpus = read(text_entry(tmp_path / "all.csv", classes=["us", "US"]))
    assert corpus.label_names == ("us", "US")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["ash"], ["ash"], "all rows of train.csv are of one class"),
        (["ash", "elm"], ["ash", "fir"], "test.csv, row 2, .*not seen in train: 'fir'"),
        (["ash", "elm"], ["ash", "Elm"], "'Elm' and 'elm' are probably one class"),
        (["ash", "elm"], [0, 1], "one split numbers its classes and the other names them"),
        (["ash", "elm"], ["-1"], "the split 'test' has no labels"),
        ([f"id-{i}" for i in range(30)], ["id-1"], "every row has a label of its own"),
        (["0.25", "0.5", "3"], ["3"], "row 1, .* numbers with fractions are no classes"),
    ],
)
def test_splits_whose_classes_do_not_fit(
    tmp_path: Path, train: list[Any], test: list[Any], message: str
) -> None:
    write_csv(tmp_path / "train.csv", table(30, labels=train))
    write_csv(tmp_path / "test.csv", table(9, labels=test, start=1000))
    with pytest.raises(RunError, match=message):
        read(text_entry(tmp_path))


def test_a_declared_class_without_rows_is_said_and_one_class_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", table(40, labels=["ash", "elm"]), (*NAMES, "yew"))
    write_parquet(tmp_path / "test.parquet", table(9, start=1000), NAMES)
    corpus = read(text_entry(tmp_path))
    assert corpus.label_names == (*NAMES, "yew")
    assert "train: no row of 2 of 4 classes: 'oak', 'yew'" in corpus.notes
    assert "test: no row of 1 of 4 classes: 'yew'" in corpus.notes
    write_parquet(tmp_path / "other/train.parquet", table(40, labels=["ash"]), NAMES)
    with pytest.raises(RunError, match=r"train on are of one class \('ash'\)"):
        read(text_entry(tmp_path / "other"))


def test_class_positions_beyond_the_list_are_named(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(table(12, labels=[0, 1]))
    data = data.cast_column("label", datasets.ClassLabel(names=["ash", "elm"]))
    changed = data.data.table.set_column(1, data.data.schema.field("label"), [[0, 1, 5] * 4])
    datasets.Dataset(changed).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(RunError, match=r"row 3, column 'label': class 5, but .* 2 classes"):
        read(text_entry(tmp_path))


def test_a_limit_takes_a_fair_sample_of_sorted_rows(tmp_path: Path) -> None:
    rows = sorted(table(300), key=lambda row: str(row["label"]))
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", sorted(table(150, start=1000), key=lambda r: str(r["label"])))
    corpus = read(text_entry(tmp_path), limit=60)
    for split in (corpus.train, corpus.test):
        counts = [int((split.labels == k).sum()) for k in range(3)]
        # Hypergeometric: 20 of each are expected, with a standard deviation below 3.7.
        assert sum(counts) == 60
        assert min(counts) > 8
    smaller = read(text_entry(tmp_path), limit=10)
    assert smaller.test.ids.tolist() == corpus.test.ids[:10].tolist()
