"""A page per model: its runs, its reliability, and the rows it is most confidently wrong on."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.markup import Cell, Column, Table, compact, decimals, interval, percent, visible
from benchmark.records import ResultsError, RunFolder, read_split
from benchmark.report.data import FACTS, ReportData, name_unknown, rows_of
from benchmark.report.reliability import Reliability, TopLabels, reliability, top_labels

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.data import Image, Rows

MAX_LOGITS_FILES = 400
"""More runs than this, and only the first seed of the models in the grids is looked at."""

MAX_GRID_MODELS = 16
LAUNCH = ("accelerate", "launch", "benchmark/run.py")
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
        mistakes: surest mistakes of the first seed, surest first.
        note: why texts or images are not shown; empty when they are.
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


@dataclass(frozen=True)
class ModelPage:
    """What a model's page shows."""

    model: str
    facts: tuple[tuple[str, str], ...]
    runs: Table
    evaluations: tuple[Evaluation, ...]
    command: str


def grid_models(rows: pd.DataFrame) -> list[str]:
    """Return the models drawn side by side: all, or 16 evenly spaced from best to worst."""
    rows = rows.sort_values(["debiased_calibration_error_before", "model"])
    if len(rows) > MAX_GRID_MODELS:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, MAX_GRID_MODELS).round().astype(int)]
    return [str(model) for model in rows.sort_values(["mixer", "model"])["model"]]


def evaluate_models(data: ReportData, table: pd.DataFrame) -> tuple[list[Evaluation], list[str]]:
    """Read the cached test logits of every model, or of some where there are very many.

    Returns:
        The evaluations, and what could not be read, as sentences.
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
    evaluations, problems = [], []
    for _, own in runs.groupby(["dataset", "model"], observed=True):
        try:
            evaluations.append(_evaluate(data, own.sort_values("seed")))
        except (ResultsError, ValueError) as error:
            problems.append(str(error).replace(f"{data.root}/", ""))
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
    try:
        rows = _load_test_rows(folder.read_spec())
    except Exception as error:  # any data library can fail in any way; the report goes on
        reason = f"The rows could not be read again: {visible(str(error))[:200]}"
        return [replace(e, note=reason) if e.dataset == dataset else e for e in evaluations]
    positions = {int(row_id): i for i, row_id in enumerate(rows.ids)}
    return [
        replace(e, mistakes=tuple(_fill(m, rows, positions.get(m.row_id)) for m in e.mistakes))
        if e.dataset == dataset
        else e
        for e in evaluations
    ]


def _load_test_rows(spec: dict[str, Any]) -> Rows:
    from benchmark.data import load_rows
    from benchmark.registry import DatasetEntry

    if "dataset" not in spec:
        why = "logits are imported without them" if "imported" in spec else "spec.json is missing"
        raise ResultsError(f"nothing in the run's folder says where they are ({why}).")
    entry = DatasetEntry.model_validate(spec["dataset"])
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


def model_pages(data: ReportData, evaluations: Iterable[Evaluation]) -> list[ModelPage]:
    """Return the pages of all models that have a run, completed or not, by name."""
    of_model: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        of_model.setdefault(evaluation.model, []).append(evaluation)
    frame = data.frame
    # One row per run: its unshifted scores, or the row that says it has none.
    runs = frame.loc[(frame["split"] == "test") | frame["split"].isna(), _PAGE_FIELDS]
    return [
        ModelPage(
            model=str(model),
            facts=_facts(own),
            runs=_runs_table(data, own),
            evaluations=tuple(of_model.get(str(model), ())),
            command=_command(data.suite, own),
        )
        for model, own in runs.groupby("model", observed=True)
    ]


def _command(suite: str, runs: pd.DataFrame) -> str:
    """Return the command that makes a model's runs anew; an import keeps its own."""
    spec = RunFolder(Path(runs["folder"].iloc[0])).read_spec()
    if isinstance(spec.get("command"), str):
        return str(spec["command"])
    model, limit = str(runs["model"].iloc[0]), spec.get("limit")
    limited = [] if limit is None else ["--limit", str(limit)]
    suite = suite.removesuffix(f"-limit-{limit}")
    return shlex.join([*LAUNCH, "--suite", suite, *limited, "--models", model, "--force"])


def _facts(runs: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    known = name_unknown(runs[list(FACTS)].bfill().head(1)).iloc[0]
    pretraining = known["pretraining_examples"]
    facts = {
        "mixer": str(known["mixer"]),
        "family": str(known["family"]),
        "modality": str(known["modality"]),
        "parameters": compact(known["parameters"]),
        "pretraining examples": "none (from scratch)" if pretraining == 0 else compact(pretraining),
    }
    return tuple(facts.items())


_PAGE_FIELDS = [
    *("model", "dataset", "seed", "status", "folder", "latency_p50_ms", *FACTS),
    *("accuracy_before", "ece_15_before", "ece_15_after"),
    *(
        name + end
        for name in (
            *("temperature", "debiased_calibration_error_before"),
            "debiased_calibration_error_after",
        )
        for end in ("", "_low", "_high")
    ),
]
"""What the pages use; rows of all columns would take long to walk."""

_RUN_COLUMNS = (
    Column("dataset", "dataset", "left"),
    Column("seed", "seed"),
    Column("status", "status", "left"),
    Column("accuracy", "accuracy"),
    Column("ece", "ECE %"),
    Column("debiased_before", "debiased % before"),
    Column("debiased_after", "debiased % after"),
    Column("temperature", "T"),
    Column("latency", "p50 ms"),
    Column("folder", "folder", "left"),
)


def _runs_table(data: ReportData, runs: pd.DataFrame) -> Table:
    ordered = rows_of(runs.sort_values(["dataset", "seed"]))
    cells = [tuple(Cell(text) for text in _run_texts(data, run)) for run in ordered]
    return Table(_RUN_COLUMNS, cells)


def _run_texts(data: ReportData, run: Any) -> tuple[str, ...]:
    def error(moment: str) -> str:
        name = f"debiased_calibration_error_{moment}"
        value, low, high = (getattr(run, name + end) for end in ("", "_low", "_high"))
        return f"{decimals(100 * value, 2)} {interval(100 * low, 100 * high, 2)}".strip()

    bounds = interval(run.temperature_low, run.temperature_high, 2)
    before, after = decimals(100 * run.ece_15_before, 2), decimals(100 * run.ece_15_after, 2)
    return (
        run.dataset,
        str(run.seed),
        run.status,
        percent(run.accuracy_before),
        f"{before} → {after}",
        error("before"),
        error("after"),
        f"{decimals(run.temperature, 2)} {bounds}".strip(),
        decimals(run.latency_p50_ms, 2),
        data.relative(run.folder),
    )


def diagram_svg(evaluation: Evaluation, color: str) -> str:
    """Return a small reliability diagram as SVG text, drawn by hand because there are many.

    Args:
        evaluation: what to draw.
        color: of the model's mixer, as `#rrggbb`.
    """
    size, left, top = 180, 46, 8

    def x(value: float) -> float:
        return left + size * value

    def y(value: float) -> float:
        return top + size * (1 - value)

    def path(values: Reliability) -> str:
        return " ".join(f"{x(c):.1f},{y(a):.1f}" for c, a in _drawn(values))

    before, after = evaluation.before, evaluation.after
    enough = np.flatnonzero(before.counts >= 5)
    band = [(before.confidence[i], before.band_low[i]) for i in enough]
    band += [(before.confidence[i], before.band_high[i]) for i in enough[::-1]]
    polygon = " ".join(f"{x(c):.1f},{y(a):.1f}" for c, a in band)
    shares = before.counts / max(1, before.counts.sum())
    width = size / len(shares)
    bars = "".join(
        f'<rect x="{x(0) + (i + 0.05) * width:.1f}" y="{y(share / 4):.1f}" '
        f'width="{0.9 * width:.1f}" height="{size * share / 4:.1f}"/>'
        for i, share in enumerate(shares)
        if share > 0
    )
    dots = "".join(f'<circle cx="{x(c):.1f}" cy="{y(a):.1f}" r="2.5"/>' for c, a in _drawn(before))
    rings = "".join(f'<circle cx="{x(c):.1f}" cy="{y(a):.1f}" r="2.5"/>' for c, a in _drawn(after))
    ticks = "".join(
        f'<text x="{x(v):.0f}" y="{top + size + 15}" text-anchor="middle">{v:g}</text>'
        f'<text x="{left - 5}" y="{y(v) + 4:.0f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.5, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="240" height="228" viewBox="0 0 240 228" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" fill="#333">'
        f'<rect width="240" height="228" fill="white"/>'
        f'<polygon points="{polygon}" fill="#ddd"/>'
        f'<g fill="{color}" fill-opacity="0.3">{bars}</g>'
        f'<path d="M{x(0)},{y(0)}L{x(1)},{y(1)}" stroke="#999" fill="none"/>'
        f'<path d="M{x(0)},{y(1)}V{y(0)}H{x(1)}" stroke="#666" fill="none"/>'
        f'<polyline points="{path(before)}" stroke="{color}" stroke-width="1.5" fill="none"/>'
        f'<polyline points="{path(after)}" stroke="{color}" stroke-width="1.5" '
        f'stroke-dasharray="2 2" fill="none"/>'
        f'<g fill="{color}">{dots}</g><g fill="white" stroke="{color}">{rings}</g>'
        f"{ticks}"
        f'<text x="{x(0.5):.0f}" y="{top + size + 32}" text-anchor="middle">confidence</text>'
        f'<text transform="translate(12,{y(0.5):.0f}) rotate(-90)" text-anchor="middle">'
        f"share right</text></svg>\n"
    )


def _drawn(values: Reliability) -> list[tuple[float, float]]:
    return [
        (float(values.confidence[i]), float(values.accuracy[i]))
        for i in np.flatnonzero(values.counts >= 5)
    ]
