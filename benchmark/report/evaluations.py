"""What a report shows of single rows: reliability and the most confident mistakes of each model."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.markup import visible
from benchmark.records import ResultsError, RunFolder, read_split
from benchmark.report.data import MAX_LOGITS_FILES, ReportData, rows_of
from benchmark.report.reliability import Reliability, TopLabels, reliability, top_labels
from benchmark.report.row_sources import row_source

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.data import Image, Rows
    from benchmark.registry import DatasetEntry

MAX_GRID_MODELS = 16
MISTAKES = 6
TEXT_LENGTH = 300
THUMBNAIL = 84
"""Pixels of a thumbnail's longer side."""


@dataclass(frozen=True)
class Mistake:
    """A row that was predicted wrong with high confidence.

    Attributes:
        row_id: id in the dataset.
        label: the true class's name.
        predicted: the predicted class's name.
        before: probability of the predicted class before temperature scaling.
        after: the same after.
        text: what was classified (shortened), for text tasks.
        image: PNG bytes, for image tasks.
    """

    row_id: int
    label: str
    predicted: str
    before: float
    after: float
    text: str | None = None
    image: bytes | None = None


@dataclass(frozen=True)
class Evaluation:
    """One model on one dataset's test rows.

    Attributes:
        model: the model's name.
        mixer: the model's mixer.
        dataset: the dataset's name.
        n: predictions pooled over seeds.
        seeds: the seeds pooled.
        before: reliability before temperature scaling.
        after: reliability after.
        mistakes: wrong rows of the first seed, the most confident first.
        note: why texts or images are not shown; empty when they are.
        is_final: whether the same files give the same again: False where rows could not be read
            now, as of a hub that is out of reach.
    """

    model: str
    mixer: str
    dataset: str
    n: int
    seeds: tuple[int, ...]
    before: Reliability
    after: Reliability
    mistakes: tuple[Mistake, ...]
    note: str = ""
    is_final: bool = True


def grid_models(rows: pd.DataFrame) -> list[str]:
    """Return the models drawn side by side: all, or 16 evenly spaced from best to worst."""
    rows = rows.sort_values(["debiased_calibration_error_none", "model"])
    if len(rows) > MAX_GRID_MODELS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, MAX_GRID_MODELS).round().astype(int)]
    return [str(model) for model in rows.sort_values(["mixer", "model"])["model"]]


def evaluate_models(
    data: ReportData, table: pd.DataFrame
) -> tuple[list[Evaluation], list[ValueError]]:
    """Read the cached test logits of every model, or of some where there are very many.

    Returns:
        The evaluations, and what could not be read; a `ResultsError` is one of values, too.
    """
    runs = data.in_distribution
    if len(runs) > MAX_LOGITS_FILES:
        shown = {
            (str(dataset), model)
            for dataset, rows in table.groupby("dataset", observed=True)
            for model in grid_models(rows)
        }
        wanted = [(run.dataset, run.model) in shown for run in rows_of(runs)]
        runs = (
            runs[wanted].sort_values("seed").groupby(["dataset", "model"], as_index=False).head(1)
        )
    evaluations: list[Evaluation] = []
    problems: list[ValueError] = []
    for _, own in runs.groupby(["dataset", "model"], observed=True):
        try:
            evaluations.append(_evaluate(data, own.sort_values("seed")))
        except ValueError as error:
            problems.append(error)
    for dataset in {evaluation.dataset for evaluation in evaluations}:
        evaluations = _with_contents(data, dataset, evaluations)
    return evaluations, problems


def _evaluate(data: ReportData, runs: pd.DataFrame) -> Evaluation:
    first, *_ = rows = rows_of(runs)
    tops = [
        top_labels(read_split(RunFolder(Path(run.folder)), "test"), run.temperature) for run in rows
    ]
    correct = np.concatenate([top.correct for top in tops])
    return Evaluation(
        model=first.model,
        mixer=first.mixer,
        dataset=first.dataset,
        n=len(correct),
        seeds=tuple(int(run.seed) for run in rows),
        before=reliability(np.concatenate([top.before for top in tops]), correct),
        after=reliability(np.concatenate([top.after for top in tops]), correct),
        mistakes=_mistakes(tops[0], data.label_names.get(first.dataset, ())),
    )


def _mistakes(top: TopLabels, names: Sequence[str]) -> tuple[Mistake, ...]:
    def name(label: int) -> str:
        return names[label] if label < len(names) else f"class {label}"

    return tuple(
        Mistake(
            row_id=int(top.ids[i]),
            label=name(int(top.labels[i])),
            predicted=name(int(top.predicted[i])),
            before=float(top.before[i]),
            after=float(top.after[i]),
        )
        for i in top.surest_mistakes(MISTAKES)
    )


def _with_contents(
    data: ReportData, dataset: str, evaluations: Iterable[Evaluation]
) -> list[Evaluation]:
    """Add the texts or images of the mistakes on `dataset`, or the reason they are missing."""
    runs = data.in_distribution
    folder = RunFolder(Path(runs.loc[runs["dataset"] == dataset, "folder"].iloc[0]))
    spec, is_final = folder.read_spec(), True
    try:
        entry = row_source(spec, data.row_sources)
        is_final = False
        rows = _load_test_rows(spec, entry)
    except Exception as error:  # any data library can fail in any way; the report goes on
        told = str(error) if isinstance(error, ResultsError) else str(error)[:200]
        reason = f"The rows could not be read again: {visible(told)}"
        return [
            replace(e, note=reason, is_final=is_final) if e.dataset == dataset else e
            for e in evaluations
        ]
    positions = {int(row_id): i for i, row_id in enumerate(rows.ids)}
    return [
        replace(e, mistakes=tuple(_fill(m, rows, positions.get(m.row_id)) for m in e.mistakes))
        if e.dataset == dataset
        else e
        for e in evaluations
    ]


def _load_test_rows(spec: dict[str, Any], entry: DatasetEntry) -> Rows:
    from benchmark.data import load_rows

    revision, limit = spec.get("data_revision"), spec.get("limit")
    return load_rows(entry, "test", revision=revision, limit=limit)


def _fill(mistake: Mistake, rows: Rows, position: int | None) -> Mistake:
    if position is None:
        return mistake
    if rows.images is not None:
        return replace(mistake, image=thumbnail(rows.images[position]))
    assert rows.texts is not None  # rows hold either texts or images
    text = rows.texts[position]
    if rows.text_pairs is not None:
        text = f"{text} / {rows.text_pairs[position]}"
    text = visible(text)
    return replace(mistake, text=text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}…")


def thumbnail(image: Image) -> bytes:
    """Return a PNG of `image` (uint8 [height, width, 3]), its longer side about 84 pixels."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(np.asarray(image))
    longest = max(picture.size)
    if longest < THUMBNAIL:
        # Whole multiples keep small images' pixels square and sharp.
        factor = max(1, THUMBNAIL // longest)
        picture = picture.resize(
            (picture.width * factor, picture.height * factor), Pillow.Resampling.NEAREST
        )
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
