from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import (
    NAMES,
    image_entry,
    labels_by_text,
    read,
    smooth_picture,
    table,
    text_entry,
    write_csv,
    write_jsonl,
    write_parquet,
    write_splits,
)
from PIL import Image

from benchmark.data.corpus import resolve_data_revision
from benchmark.failures import RunError
from benchmark.records.provenance import fingerprint_path
from benchmark.registry import DatasetEntry


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (None, r"1 of 30 rows .* 'text' \(the first: train\.jsonl, row 4, .*drop_missing: true"),
        (float("nan"), "have nothing in 'text'"),
        (["two", "words"], r"row 4, column 'text' holds a list .* join its words"),
        ([101, 102], "holds a list"),
        ({"en": "a", "fr": "b"}, "holds a structure"),
        (7, r"holds a value of type int \(7\), not a text"),
        (0.5, "holds a value of type float"),
        (True, "holds a truth value"),
        ("half \ud83d", "holds half a character"),
    ],
)
@pytest.mark.parametrize("column", ["text", "pair"])
def test_what_is_no_text_is_named(tmp_path: Path, odd: Any, message: str, column: str) -> None:
    rows = [{**row, "pair": "other"} for row in table(30)]
    rows[3] = {**rows[3], column: odd}
    for split, part in (("train", rows), ("test", [{**r, "pair": "x"} for r in table(9)])):
        write_jsonl(tmp_path / f"{split}.jsonl", part)
    columns = {"text": "text", "text_pair": "pair"}
    with pytest.raises(RunError, match=message.replace("'text'", f"'{column}'")):
        read(text_entry(tmp_path, columns=columns))


def test_rows_without_a_text_can_be_left_out(tmp_path: Path) -> None:
    rows = table(30)
    rows[3]["text"], rows[8]["text"] = "", "  "
    write_splits(tmp_path, rows)
    with pytest.raises(RunError, match=r"2 of 30 .* train\.csv, row 4, .*drop_missing: true"):
        read(text_entry(tmp_path))
    corpus = read(text_entry(tmp_path, drop_missing=True))
    assert len(labels_by_text(corpus)) == 37
    assert any("2 of 30 rows with nothing in 'text' left out" in note for note in corpus.notes)


def test_empty_texts_of_other_formats_are_kept_and_counted(tmp_path: Path) -> None:
    rows = table(30)
    rows[3]["text"] = ""
    write_splits(tmp_path, rows, write_jsonl, "jsonl")
    corpus = read(text_entry(tmp_path))
    assert "'train': 1 of 30 rows are blank in 'text'" in corpus.notes
    assert len(corpus.train) + len(corpus.calibration) == 30


def test_bytes_that_are_text_are_read_as_such(tmp_path: Path) -> None:
    rows = [{**row, "text": f"{row['text']} é".encode()} for row in table(30)]
    write_splits(tmp_path, rows, write_parquet, "parquet")
    labels = labels_by_text(read(text_entry(tmp_path)))
    assert {row["text"].decode(): row["label"] for row in rows}.items() <= labels.items()
    rows[5]["text"] = b"\xff\xfe"
    write_parquet(tmp_path / "train.parquet", rows)
    with pytest.raises(RunError, match=r"row 6, .* no UTF-8 text"):
        read(text_entry(tmp_path))


def test_numbers_and_words_of_a_csv_text_stay_as_they_stand(tmp_path: Path) -> None:
    texts = ["007", "1.50", "NA", "None", "null", "nan", "True", "1e3", "-", "-1"]
    write_splits(tmp_path, [{"text": t, "label": NAMES[i % 3]} for i, t in enumerate(texts)])
    assert set(texts) < set(labels_by_text(read(text_entry(tmp_path))))


# --- images ---------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def pictures(n: int) -> list[Image.Image]:
    """Pictures that differ from each other in every pixel."""
    base = np.asarray(smooth_picture()).astype(int)
    return [Image.fromarray((base // 2 + 3 * i).astype(np.uint8)) for i in range(n)]


def as_bytes(folder: Path, images: list[Image.Image]) -> list[Any]:
    return [encoded(image) for image in images]


def as_structures(folder: Path, images: list[Image.Image]) -> list[Any]:
    return [{"bytes": encoded(image), "path": None} for image in images]


def as_pixels(folder: Path, images: list[Image.Image]) -> list[Any]:
    return [np.asarray(image).tolist() for image in images]


def as_grey_pixels(folder: Path, images: list[Image.Image]) -> list[Any]:
    return [np.asarray(image)[:, :, 0].tolist() for image in images]


def as_paths(folder: Path, images: list[Image.Image]) -> list[Any]:
    (folder / "files").mkdir(exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"files/{i}.png")
    return [f"files/{i}.png" for i in range(len(images))]


def as_absolute_paths(folder: Path, images: list[Image.Image]) -> list[Any]:
    return [str(folder.absolute() / path) for path in as_paths(folder, images)]


def as_path_structures(folder: Path, images: list[Image.Image]) -> list[Any]:
    return [{"bytes": None, "path": path} for path in as_paths(folder, images)]


def write_images(path: Path, values: list[Any]) -> DatasetEntry:
    labels = [NAMES[i % 3] for i in range(len(values))]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"image": values, "label": labels}), path)
    else:
        rows = [{"image": v, "label": n} for v, n in zip(values, labels, strict=True)]
        (write_csv if path.suffix == ".csv" else write_jsonl)(path, rows)
    return image_entry(path, splits={"test": 0.2})


Storing = Callable[[Path, list[Image.Image]], list[Any]]


@pytest.mark.parametrize(
    ("suffix", "store"),
    [
        *((".parquet", store) for store in (as_bytes, as_structures, as_path_structures)),
        *((".parquet", store) for store in (as_pixels, as_grey_pixels, as_paths)),
        *((".csv", store) for store in (as_paths, as_absolute_paths)),
        *((".jsonl", store) for store in (as_paths, as_pixels, as_path_structures)),
    ],
)
def test_images_in_any_container(tmp_path: Path, suffix: str, store: Storing) -> None:
    images = pictures(15)
    corpus = read(write_images(tmp_path / f"all{suffix}", store(tmp_path, images)))
    for rows in corpus.splits().values():
        assert rows.images is not None
        for i, row_id in enumerate(rows.ids):
            np.testing.assert_array_equal(rows.images[i], np.asarray(images[row_id]))
            assert corpus.label_names[rows.labels[i]] == NAMES[row_id % 3]


@pytest.mark.parametrize(
    ("suffix", "odd", "message"),
    [
        (".csv", "", r"1 of 15 rows .*row 5, column 'image'.*drop_missing: true"),
        (".csv", "files/none.png", r"files/none\.png \(all\.csv, row 5, .*no such file"),
        (".csv", "https://example.org/a.png", "it is a link: fetch the images"),
        (".csv", "files", "it names a folder"),
        (".jsonl", None, "have nothing in 'image'"),
        (".jsonl", 3, r"row 5, column 'image': it holds 3: an image is"),
        (".jsonl", [[0, 1], [2]], "no table of numbers"),
        (".jsonl", [[0.5, 0.1]], r"have no range of their own: .*pixel_range: \[0, 1\]"),
        (".jsonl", [[0, 300]], "pixel_range"),
        (".parquet", b"", "the image is empty"),
        (".parquet", b"no image", "it is no image that can be read"),
        (".parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (".parquet", None, r"1 of 15 rows .*all\.parquet, row 5"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, suffix: str, odd: Any, message: str) -> None:
    store = as_bytes if suffix == ".parquet" else as_paths
    values = store(tmp_path, pictures(15))
    values[4] = odd
    data = write_images(tmp_path / f"all{suffix}", values)
    with pytest.raises(RunError, match=message):
        read(data)
    if not odd and odd != b"":
        corpus = read(data.model_copy(update={"drop_missing": True}))
        assert sum(map(len, corpus.splits().values())) == 14


def test_an_image_column_of_the_datasets_library_with_a_gap(tmp_path: Path) -> None:
    images: list[Any] = pictures(15)
    images[4] = None
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    labels = [NAMES[i % 3] for i in range(15)]
    data = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    data.to_parquet(tmp_path / "all.parquet")
    entry = image_entry(tmp_path / "all.parquet", splits={"test": 0.2})
    with pytest.raises(RunError, match=r"1 of 15 rows .*row 5"):
        read(entry)
    corpus = read(entry.model_copy(update={"drop_missing": True}))
    assert sum(map(len, corpus.splits().values())) == 14


def test_images_beside_a_table_belong_to_its_identity(tmp_path: Path) -> None:
    data = write_images(tmp_path / "all.csv", as_paths(tmp_path, pictures(15)))
    before = resolve_data_revision(data)
    assert resolve_data_revision(data) == before
    Image.new("RGB", (4, 4)).save(tmp_path / "files/7.png")
    fingerprint_path.cache_clear()
    assert resolve_data_revision(data) != before


# --- folders of images ----------------------------------------------------------------------------


def image_folder(root: Path, splits: dict[str, int], classes: tuple[str, ...] = NAMES) -> Path:
    for split, n in splits.items():
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(pictures(n)):
                image.save(root / split / name / f"{i}.png")
    return root


def test_an_image_folder_has_the_rows_of_the_datasets_library(tmp_path: Path) -> None:
    """Row ids and class positions rest on the order, and stored logits on both."""
    image_folder(tmp_path, {"train": 11, "val": 2, "test": 3}, ("b", "A", "10", "9"))
    corpus = read(image_entry(tmp_path, splits={"calibration": "validation"}))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path))
    assert corpus.label_names == tuple(theirs["train"].features["label"].names)
    parts = {"train": "train", "validation": "calibration", "test": "test"}
    first_id = 0
    for split in theirs:
        rows = corpus.splits()[parts[split]]
        assert rows.ids.tolist() == list(range(first_id, first_id + len(rows)))
        first_id += len(rows)
        assert rows.labels.tolist() == theirs[split]["label"]
        assert rows.images is not None
        for i in range(len(rows)):
            np.testing.assert_array_equal(rows.images[i], np.asarray(theirs[split][i]["image"]))


@pytest.mark.parametrize(
    "splits", [("training_set", "test_set"), ("Train", "Test"), ("pack/train", "pack/testing")]
)
def test_names_that_folders_of_splits_have(tmp_path: Path, splits: tuple[str, str]) -> None:
    image_folder(tmp_path, {splits[0]: 5, splits[1]: 2})
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert len(read(image_entry(tmp_path)).test) == 6


def test_class_folders_without_splits(tmp_path: Path) -> None:
    image_folder(tmp_path, {"": 10})
    corpus = read(image_entry(tmp_path))
    assert corpus.label_names == NAMES
    assert len(corpus.test) == 6
    assert any("20% of 'train'" in note for note in corpus.notes)


def test_other_things_in_class_folders_are_counted(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train": 5, "test": 2})
    for name in ("train/ash/notes.txt", "train/ash/Thumbs.db", "train/elm/.DS_Store"):
        (tmp_path / name).write_text("x")
    (tmp_path / "train/yew").mkdir()
    corpus = read(image_entry(tmp_path))
    assert corpus.label_names == NAMES
    assert any("'train': 2 files that are no images are left aside" in n for n in corpus.notes)
    assert "'train': no images in yew" in corpus.notes


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        ("train/7.png", r"train/7\.png lies in no folder of its label.*csv file"),
        ("train/ash/more/7.png", "deeper than one folder below 'train'"),
    ],
)
def test_images_out_of_place(tmp_path: Path, stray: str, message: str) -> None:
    image_folder(tmp_path, {"train": 5, "test": 2})
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    smooth_picture().save(tmp_path / stray)
    with pytest.raises(RunError, match=message):
        read(image_entry(tmp_path))


def test_folders_of_splits_without_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for i, image in enumerate(pictures(6)):
            image.save(tmp_path / split / f"{i}.png")
    with pytest.raises(RunError, match=r"train/0\.png lies in no folder of its label"):
        read(image_entry(tmp_path))


def test_labels_listed_in_a_metadata_file(tmp_path: Path) -> None:
    for split, n in (("train", 9), ("test", 6)):
        (tmp_path / split).mkdir()
        rows = [{"file_name": f"{i}.png", "label": NAMES[i % 3]} for i in range(n)]
        for i, image in enumerate(pictures(n)):
            image.save(tmp_path / split / f"{i}.png")
        write_csv(tmp_path / split / "metadata.csv", rows)
    corpus = read(image_entry(tmp_path))
    assert corpus.label_names == NAMES
    assert [corpus.label_names[k] for k in corpus.test.labels] == [NAMES[i % 3] for i in range(6)]
