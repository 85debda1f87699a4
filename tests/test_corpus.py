from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.data.corpus import (
    load_corpus,
    load_rows,
    resolve_data_revision,
    shifted_rows,
    shifted_split_names,
)
from benchmark.failures import RunError, UnavailableError
from benchmark.records.provenance import RevisionUnavailableError
from benchmark.registry import DatasetEntry


def entry(**fields: Any) -> DatasetEntry:
    return DatasetEntry.model_validate({"name": "d", "modality": "text", **fields})


def write_jsonl(path: Path, n: int, labels: list[Any]) -> None:
    rows = [
        {"text": f"row {i}", "other": f"pair {i}", "label": labels[i % len(labels)]}
        for i in range(n)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))


def test_local_file_is_cut_into_pinned_disjoint_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "all.jsonl", 100, ["b", "a"])
    data = entry(
        path=tmp_path / "all.jsonl",
        columns={"text": "text", "text_pair": "other"},
        splits={"test": 0.1, "calibration": 0.1},
    )
    corpus = load_corpus(data)
    ids = [set(split.ids.tolist()) for split in (corpus.train, corpus.calibration, corpus.test)]
    assert [len(split) for split in ids] == [81, 9, 10]
    assert set.union(*ids) == set(range(100))
    assert corpus.label_names == ("a", "b")
    row = corpus.test
    assert row.texts is not None
    assert row.text_pairs is not None
    for i in range(len(row)):
        assert row.texts[i] == f"row {row.ids[i]}"
        assert row.text_pairs[i] == f"pair {row.ids[i]}"
        assert corpus.label_names[row.labels[i]] == ("b", "a")[row.ids[i] % 2]
    moved = load_corpus(data.model_copy(update={"split_seed": 1}))
    assert moved.test.ids.tolist() != corpus.test.ids.tolist()


def test_folder_of_files_named_after_splits(tmp_path: Path) -> None:
    for name, n in (("train", 30), ("validation", 10), ("test", 20)):
        write_jsonl(tmp_path / f"{name}.jsonl", n, [0, 1, 2])
    corpus = load_corpus(
        entry(path=tmp_path, columns={"text": "text"}, splits={"calibration": "validation"})
    )
    assert [len(s) for s in (corpus.train, corpus.calibration, corpus.test)] == [30, 10, 20]
    ids = np.concatenate([corpus.train.ids, corpus.calibration.ids, corpus.test.ids])
    assert len(np.unique(ids)) == 60


def test_image_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("test", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (5, 4), np.uint8)).save(folder / f"{i}.png")
    corpus = load_corpus(
        entry(
            modality="image", path=tmp_path, columns={"image": "image"}, splits={"calibration": 0.5}
        )
    )
    assert corpus.label_names == ("cat", "dog")
    assert [len(s) for s in (corpus.train, corpus.calibration, corpus.test)] == [6, 6, 6]
    assert corpus.test.images is not None
    assert corpus.test.images[0].shape == (5, 4, 3)
    assert corpus.test.images[0].dtype == np.uint8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": {"text": "txt"}}, "no column 'txt', did you mean 'text'?"),
        ({"columns": {"text": "text", "label": "lable"}}, "no column 'lable', did you mean"),
        ({"columns": {"text": "text"}, "splits": {"test": "tset"}}, "no split 'tset'"),
        ({"columns": {"text": "text"}, "splits": {"test": "trian"}}, "did you mean 'train'?"),
        ({"columns": {"text": "text"}, "splits": {"test": "train"}}, "are the same split"),
        ({"columns": {"text": "text"}, "splits": {"test": 1.5}}, "between 0 and 1"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_jsonl(tmp_path / "all.jsonl", 20, [0, 1])
    settings = {"splits": {"test": 0.2}, **fields}
    with pytest.raises(RunError) as caught:
        load_corpus(entry(path=tmp_path / "all.jsonl", **settings))
    assert message in str(caught.value)


def test_hidden_test_labels_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", 20, [0, 1])
    write_jsonl(tmp_path / "test.jsonl", 20, [-1])
    with pytest.raises(RunError, match="hidden test labels"):
        load_corpus(entry(path=tmp_path, columns={"text": "text"}))


def test_unreadable_data_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    data = entry(path=tmp_path / "broken.parquet", columns={"text": "text"}, splits={"test": 0.1})
    with pytest.raises(UnavailableError, match="cannot be loaded"):
        load_corpus(data)
    with pytest.raises(RevisionUnavailableError, match="no such file"):
        resolve_data_revision(entry(path=tmp_path / "none.csv", columns={"text": "text"}))


def test_revision_follows_content(tmp_path: Path) -> None:
    from benchmark.records.provenance import fingerprint_path

    write_jsonl(tmp_path / "a.jsonl", 20, [0, 1])
    data = entry(path=tmp_path / "a.jsonl", columns={"text": "text"})
    before = resolve_data_revision(data)
    write_jsonl(tmp_path / "a.jsonl", 21, [0, 1])
    fingerprint_path.cache_clear()
    assert resolve_data_revision(data) != before


def test_limit_keeps_the_first_rows() -> None:
    digits = DatasetEntry(name="d", embedded="digits", modality="image")
    full, limited = load_corpus(digits), load_corpus(digits, limit=7)
    assert limited.test.ids.tolist() == full.test.ids[:7].tolist()
    assert limited.label_names == full.label_names


def test_shifted_sets_are_the_same_rows_for_everyone() -> None:
    digits = DatasetEntry(
        name="d", embedded="digits", modality="image", shifts=("noise",), shift_rows=9
    )
    assert shifted_split_names(digits) == ["noise-1", "noise-2", "noise-3"]
    test = load_corpus(digits).test
    first, second = shifted_rows(digits, test, "noise-2"), load_rows(digits, "noise-2")
    assert first.ids.tolist() == test.ids[:9].tolist() == second.ids.tolist()
    assert first.images is not None
    assert second.images is not None
    assert test.images is not None
    np.testing.assert_array_equal(first.images[4], second.images[4])
    assert (first.images[4] != test.images[4]).any()
    with pytest.raises(RunError, match="did you mean 'noise'"):
        shifted_split_names(digits.model_copy(update={"shifts": ("nois",)}))


def test_ag_news_as_a_local_dataset(shared_data: Path) -> None:
    corpus = load_corpus(
        entry(path=shared_data / "ag_news", columns={"text": "text"}, splits={"calibration": 0.2})
    )
    assert len(corpus.label_names) == 4
    assert len(corpus.test) == 7600
    assert abs(len(corpus.calibration) - 0.2 * 10_001) <= 1
