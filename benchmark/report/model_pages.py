"""The page of one model: its facts, runs and every metric."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.markup import Cell, Column, Table, compact, decimals, estimate, percent
from benchmark.records import Record, RunFolder, SuiteMembers, average_seeds, read_split
from benchmark.registry import DEFAULT_REGISTRY
from benchmark.report.data import (
    FACTS,
    MAX_LOGITS_FILES,
    UNKNOWN,
    ReportData,
    name_unknown,
    rows_of,
)
from benchmark.report.diagram import diagram_svg
from benchmark.report.evaluations import Evaluation
from benchmark.report.metric_table import metric_table
from benchmark.report.reliability import reliability, top_labels

if TYPE_CHECKING:
    import pandas as pd

LAUNCH = ("accelerate", "launch", "benchmark/run.py")

OWN_ARCHITECTURES = ("lfm2-convolution", "metaformer-image", "metaformer-text", "text-cnn")
"""Model types that transformers does not know; an export brings their code."""


@dataclass(frozen=True)
class TakeAlong:
    """How a model is used elsewhere: the command that exports it, and what calls it there."""

    command: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ModelPage:
    """What a model's page shows.

    Attributes:
        command: makes the model's runs anew.
        is_foreign: whether it stands in the results, rather than being made here.
        take_along: how it is used elsewhere; None: no run has a checkpoint to export.
    """

    model: str
    facts: tuple[tuple[str, str], ...]
    runs: Table
    metrics: tuple[tuple[str, Table], ...]
    evaluations: tuple[Evaluation, ...]
    command: str
    is_foreign: bool
    take_along: TakeAlong | None = None

    @property
    def about_command(self) -> str:
        """What stands before the command."""
        if self.is_foreign:
            return (
                "The command that the results say they were made with (spec.json). It comes from "
                "wherever they come from: read it before you run it."
            )
        return "Run it again with one command:"


def model_pages(data: ReportData, evaluations: Iterable[Evaluation]) -> list[ModelPage]:
    """Return the pages of all models that have a run, completed or not, by name."""
    of_model: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        of_model.setdefault(evaluation.model, []).append(evaluation)
    metrics = _metric_tables(data)
    frame = data.frame
    # One row per run: its unshifted scores, or the row that says it has none.
    runs = frame.loc[(frame["split"] == "test") | frame["split"].isna(), _PAGE_FIELDS]
    commands = {model: _command(data, own) for model, own in runs.groupby("model")}
    return [
        ModelPage(
            model=str(model),
            facts=_facts(own, data.weights.get(str(model))),
            runs=_runs_table(data, own),
            metrics=metrics.get(str(model), ()),
            evaluations=tuple(of_model.get(str(model), ())),
            command=commands[model][0],
            is_foreign=commands[model][1],
            take_along=_take_along(own),
        )
        for model, own in runs.groupby("model", observed=True)
    ]


def _metric_tables(data: ReportData) -> dict[str, tuple[tuple[str, Table], ...]]:
    """Return, by model, a table of all metrics for each dataset."""
    found: dict[str, tuple[tuple[str, Table], ...]] = {}
    if len(data.in_distribution) > MAX_LOGITS_FILES:
        return found  # so many runs that tables/runs.csv is the place to look
    for _, row in average_seeds(data.in_distribution).iterrows():
        model, dataset = str(row["model"]), str(row["dataset"])
        found[model] = (*found.get(model, ()), (dataset, metric_table(row)))
    return found


def _command(data: ReportData, runs: pd.DataFrame) -> tuple[str, bool]:
    """Return the command that makes a model's runs anew, and whether the results brought it."""
    spec = RunFolder(Path(runs["folder"].iloc[0])).read_spec()
    if isinstance(spec.get("command"), str):
        return str(spec["command"]), True
    model, limit = str(runs["model"].iloc[0]), spec.get("limit")
    limited = [] if limit is None else ["--limit", str(limit)]
    if data.members is None:
        suite, chosen = data.suite.removesuffix(f"-limit-{limit}"), []
    else:
        suite, chosen = data.members.base, _chosen(data.members, runs)
    words = [*LAUNCH, *chosen, "--suite", suite, *limited, "--models", model, "--force"]
    return shlex.join(words), False


def _chosen(members: SuiteMembers, runs: pd.DataFrame) -> list[str]:
    """Return what a command must say to run a model's runs that its suite does not declare."""
    if members.declared:
        return []
    datasets = ",".join(sorted(map(str, runs["dataset"].unique())))
    seeds = str(int(runs["seed"].max()) + 1)
    is_default = members.registry in ("", DEFAULT_REGISTRY.name)
    registry = [] if is_default else [f"--registry={members.registry}"]
    return [*registry, "--datasets", datasets, "--seeds", seeds]


def _take_along(runs: pd.DataFrame) -> TakeAlong | None:
    """Return how the model's first completed run with a checkpoint is exported and used."""
    for run in rows_of(runs[runs["status"] == "completed"].sort_values(["dataset", "seed"])):
        folder = RunFolder(Path(run.folder))
        model = folder.read_spec().get("model")
        if not isinstance(model, dict):  # imported logits, which no checkpoint here gave
            continue
        place = f"{run.model}-{run.dataset}-seed-{run.seed}"
        words = ["python", "-m", "benchmark.export", "export", folder.name, "--to", place]
        is_own = (model.get("scratch") or {}).get("model_type") in OWN_ARCHITECTURES
        lines = pipeline_lines(str(run.modality), place, has_own_code=is_own)
        return TakeAlong(shlex.join(words), tuple(lines))
    return None


def pipeline_lines(
    modality: str,
    folder: str,
    *,
    classes: int | None = None,
    has_own_code: bool = False,
    is_pair: bool = False,
    options: Sequence[str] = ("truncation=True",),
) -> list[str]:
    """Return lines of Python that print calibrated probabilities of an exported checkpoint.

    The division by T is hooked onto the model, so that the pipeline's own softmax, batches and
    `top_k` go on as they do without it.

    Args:
        modality: image or text.
        folder: of the export, or its repository on the hub.
        classes: whose probabilities are printed; None: as many as the library likes.
        has_own_code: whether the checkpoint comes with code of its own.
        is_pair: whether the model takes pairs of texts.
        options: of the tokenizer, as arguments.
    """
    told = repr(folder) if '"' in folder else f'"{folder}"'
    arguments = [] if classes is None else [f"top_k={classes}"]
    arguments += ["trust_remote_code=True"] if has_own_code else []
    if modality == "image":
        processor = f'processor = AutoImageProcessor.from_pretrained({told}, backend="pil")'
        first = ["from transformers import AutoImageProcessor, pipeline", "", processor]
        arguments = ["image_processor=processor", *arguments]
        example = '"picture.png"'
    else:
        first = ["from transformers import pipeline", ""]
        arguments = [*options, *arguments]
        example = '{"text": "One", "text_pair": "Other"}' if is_pair else '"A text to classify"'
    call = ", ".join([f'"{modality}-classification"', told, *arguments])
    return [
        *first,
        f"classify = pipeline({call})",
        'T = classify.model.config.calibration["temperature"]',
        "classify.model.register_forward_hook("
        'lambda model, given, out: {**out, "logits": out.logits / T})',
        f"print(classify({example}))",
    ]


def run_diagram(folder: RunFolder, record: Record) -> str:
    """Return the small reliability diagram of one completed run's test rows as SVG text.

    Raises:
        ResultsError: its logits are gone or damaged.
    """
    from matplotlib.colors import to_hex

    from benchmark.report.figure_style import MIXER_COLORS

    assert record.temperature is not None  # every completed run has one
    top = top_labels(read_split(folder, "test"), record.temperature.value)
    mixer = record.facts.mixer or UNKNOWN
    evaluation = Evaluation(
        model=record.model,
        mixer=mixer,
        dataset=record.dataset,
        n=len(top.ids),
        seeds=(record.seed,),
        before=reliability(top.before, top.correct),
        after=reliability(top.after, top.correct),
        mistakes=(),
    )
    return diagram_svg(evaluation, to_hex(MIXER_COLORS[mixer]))


def _facts(runs: pd.DataFrame, weights: str | None) -> tuple[tuple[str, str], ...]:
    known = name_unknown(runs[list(FACTS)].bfill().head(1)).iloc[0]
    pretraining = known["pretraining_examples"]
    facts = {
        "mixer": str(known["mixer"]),
        "family": str(known["family"]),
        "modality": str(known["modality"]),
        "parameters": compact(known["parameters"]),
        "pretraining examples": "none (from scratch)" if pretraining == 0 else compact(pretraining),
    }
    if weights is not None:
        facts["weights"] = weights
    return tuple(facts.items())


_PAGE_FIELDS = [
    *("model", "dataset", "seed", "status", "folder", "latency_p50_ms", *FACTS),
    *("accuracy_none", "ece_15_none", "ece_15_temperature"),
    *(
        name + end
        for name in (
            *("temperature", "debiased_calibration_error_none"),
            "debiased_calibration_error_temperature",
        )
        for end in ("", "_low", "_high", "_no_interval")
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


def _estimate(run: Any, name: str, scale: float = 1) -> str:
    """Return a value with its interval, or why it has none."""
    ends = ("", "_low", "_high", "_no_interval")
    value, low, high, why = (getattr(run, name + end) for end in ends)
    return estimate(value, low, high, 2, scale, why)


def _run_texts(data: ReportData, run: Any) -> tuple[str, ...]:
    def error(map_name: str) -> str:
        name = f"debiased_calibration_error_{map_name}"
        return _estimate(run, name, scale=100)

    before, after = decimals(100 * run.ece_15_none, 2), decimals(100 * run.ece_15_temperature, 2)
    return (
        run.dataset,
        str(run.seed),
        run.status,
        percent(run.accuracy_none),
        f"{before} → {after}",
        error("none"),
        error("temperature"),
        _estimate(run, "temperature"),
        decimals(run.latency_p50_ms, 2),
        data.relative(run.folder),
    )
