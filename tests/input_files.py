"""Small local datasets as people have them, and how the tests read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from benchmark.data import Corpus, corpus
from benchmark.registry import DatasetEntry

NAMES = ("ash", "elm", "oak")


def text_entry(path: Path, **fields: Any) -> DatasetEntry:
    settings = {"name": "d", "modality": "text", "columns": {"text": "text"}, "path": path}
    return DatasetEntry.model_validate({**settings, **fields})


def image_entry(path: Path, **fields: Any) -> DatasetEntry:
    return text_entry(path, **{"modality": "image", "columns": {"image": "image"}, **fields})


def table(n: int, labels: Sequence[Any] = NAMES, start: int = 0) -> list[dict[str, Any]]:
    """Rows whose text tells the row; labels take turns."""
    return [{"text": f"text {start + i}", "label": labels[i % len(labels)]} for i in range(n)]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_csv(rows, delimiter), encoding="utf-8")
    return path


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], names: Sequence[str] = ()) -> Path:
    """Write rows; with `names`, labels are stored as positions in that list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(
        [{**row, "label": list(names).index(row["label"])} for row in rows] if names else rows
    )
    if names:
        data = data.cast_column("label", datasets.ClassLabel(names=list(names)))
    data.to_parquet(path)
    return path


def write_splits(
    folder: Path,
    train: list[dict[str, Any]],
    write: Callable[[Path, list[dict[str, Any]]], Path] = write_csv,
    suffix: str = "csv",
) -> Path:
    """Write `train` as the training split, and a plain test split."""
    write(folder / f"train.{suffix}", train)
    write(folder / f"test.{suffix}", table(9, start=1000))
    return folder


def labels_by_text(data: Corpus) -> dict[str, str]:
    """The class name of every row, by its text."""
    return {
        text: data.label_names[label]
        for rows in data.splits().values()
        for text, label in zip(rows.texts or (), rows.labels, strict=True)
    }


def read(entry: DatasetEntry, limit: int | None = None) -> Corpus:
    corpus._load.cache_clear()  # a test may change the files of an entry
    return corpus.load_corpus(entry, limit=limit)


def smooth_picture(size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture without equal corners, so that a turned one is told from an upright one."""
    y, x = np.mgrid[: size[1], : size[0]]
    grey = 40 + 150 * (x / size[0]) ** 2 * (0.3 + y / size[1])
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
