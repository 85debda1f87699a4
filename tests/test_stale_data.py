"""Files that change but keep path, size and time stamp (rsync -a, tar) are read as they are now."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from benchmark.data import Corpus, corpus, load_corpus, resolve_data_revision
from benchmark.records.provenance import fingerprint_path
from benchmark.registry import DatasetEntry

ROWS = 40
LABELS = {"old": np.arange(ROWS) % 2, "new": (np.arange(ROWS) + 1) % 2}
SOME_DAY = 1_700_000_000 * 10**9


def write_csv(folder: Path, labels: Any) -> None:
    for split in ("train", "test"):
        lines = [f"text {row},{label}" for row, label in enumerate(labels)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]))


def write_json(folder: Path, labels: Any) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"text {row}", "label": int(label)} for row, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_parquet(folder: Path, labels: Any) -> None:
    table = {"text": [f"text {row}" for row in range(ROWS)], "label": list(labels)}
    for split in ("train", "test"):
        datasets.Dataset.from_dict(table).to_parquet(folder / f"{split}.parquet")


def write_saved(folder: Path, labels: Any) -> None:
    table = {"text": [f"text {row}" for row in range(ROWS)], "label": list(labels)}
    splits = {split: datasets.Dataset.from_dict(table) for split in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def write_listed_images(folder: Path, labels: Any) -> None:
    """An image folder whose labels stand in metadata.csv, as the hub's do."""
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        lines = [f"{row:03}.png,{label}" for row, label in enumerate(labels)]
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
        for row in range(ROWS):
            pixels = np.full((4, 4, 3), row, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{row:03}.png")


def write_image_folders(folder: Path, labels: Any) -> None:
    """The label of an image is its folder's name; the brightness changes with the labels."""
    for split in ("train", "test"):
        for row in range(ROWS):
            place = folder / split / str(row % 2)
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4, 3), 100 * int(labels[row]), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{row:03}.png", compress_level=0)


def keep_time(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, ns=(SOME_DAY, SOME_DAY))


def read_anew(entry: DatasetEntry) -> Corpus:
    """Read as a process does that has only just started."""
    corpus._load.cache_clear()
    fingerprint_path.cache_clear()
    return load_corpus(entry, revision=resolve_data_revision(entry))


@pytest.mark.parametrize(
    ("write", "images"),
    [
        (write_csv, False),
        (write_json, False),
        (write_parquet, False),
        (write_saved, False),
        (write_listed_images, True),
        (write_image_folders, True),
    ],
)
def test_what_changed_and_kept_its_time_is_read_anew(
    write: Callable[[Path, Any], None],
    images: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = tmp_path / "source"
    source.mkdir()
    entry = DatasetEntry.model_validate(
        {
            "name": "mine",
            "path": source,
            "modality": "image" if images else "text",
            "columns": {"image": "image"} if images else {"text": "text"},
        }
    )
    seen = {}
    for version, labels in LABELS.items():
        write(source, labels)
        keep_time(source)
        test = read_anew(entry).test
        if write is write_image_folders:
            assert test.images is not None
            seen[version] = [test.images[row].max() // 100 for row in range(len(test))]
            expected = np.concatenate([labels[::2], labels[1::2]])
        else:
            seen[version] = test.labels
            expected = labels
        np.testing.assert_array_equal(seen[version], expected, err_msg=version)
