"""A finished run -> a folder to take along: checkpoint or graph, calibration, figure, README."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.export import calibration, card, onnx_graph
from benchmark.export.calibration import applied_temperature
from benchmark.export.checking import (
    SAME_MACHINE,
    Check,
    Sample,
    allowed_difference,
    compare,
    draw_sample,
    in_data_order,
)
from benchmark.export.checkpoint import label_names, text_options, write_checkpoint
from benchmark.export.errors import ExportError
from benchmark.export.finding import FinishedRun
from benchmark.export.inference import Caller, TextOptions, probabilities
from benchmark.export.own_code import OwnCode, own_code
from benchmark.export.usage import Form, Pictures, usage_lines
from benchmark.failures import UnavailableError, first_line
from benchmark.records import explained_errors
from benchmark.registry import Modality
from benchmark.report import run_diagram

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from benchmark.arrays import Float64Array

_BATCH = 5
"""Rows of the batches on which a graph is tried; the last one may have fewer."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        check: against the cached logits; or why there was none.
        graph_check: of a graph against torch.
    """

    folder: Path
    check: Check | str
    graph_check: Check | None


@dataclass(frozen=True)
class _Job:
    """A run with what is needed to export it, each None where it is not to be had here."""

    run: FinishedRun
    model: PreTrainedModel | None
    sample: Sample | None
    unchecked: str
    options: TextOptions
    code: OwnCode | None

    @property
    def has_code(self) -> bool:
        return self.code is not None or self.run.spec.model.trust_remote_code

    @property
    def pictures(self) -> Pictures:
        config = getattr(self.model, "config", None)
        if getattr(config, "model_type", None) == "timm_wrapper":
            return "timm"
        return "grey" if getattr(config, "num_channels", None) == 1 else "colour"


def export_run(
    run: FinishedRun, target: Path, form: Form, tolerance: float | None = None
) -> Exported:
    """Write a run's export, tried on rows of the run, to a new folder.

    Args:
        run: from `find_run`.
        target: the folder, which is missing or empty.
        form: what is written.
        tolerance: largest difference of a probability; None: what rounding explains.

    Raises:
        ExportError: the folder is not empty, something of the run cannot be exported, or the
            export's probabilities are not those of the run.
        ResultsError: a file of the run is damaged.
        OSError: the folder cannot be written; nothing is left of it.
    """
    if target.exists() and any(target.iterdir()):
        raise ExportError(f"{target}: the folder is not empty; name another one with --to")
    job = _prepare(run)
    if form == "onnx" and (job.model is None or job.sample is None):
        raise ExportError(
            f"{run.name}: a graph is tried on rows before it is kept: {job.unchecked}"
        )
    with explained_errors(target), _new_folder(target) as folder:
        code = job.code if form == "transformers" else None  # a graph needs none
        write_checkpoint(run, folder, job.options, code, weights=form != "onnx")
        labels = label_names(folder)
        graph, graph_check = None, None
        if form == "onnx":
            graph, by_torch = _write_graph(job, folder, labels)
            graph_check = compare(graph, by_torch, tolerance or SAME_MACHINE, "torch's")
        check = _check(job, folder, graph, allowed_difference(run, tolerance))
        has_code = form == "transformers" and job.has_code
        lines = usage_lines(
            run, target.name, form, job.options, has_own_code=has_code, pictures=job.pictures
        )
        facts = card.Facts(form, lines, labels, check, graph_check, has_code, job.options.is_fixed)
        _write_words(folder, run, facts)
    return Exported(target, check, graph_check)


def _prepare(run: FinishedRun) -> _Job:
    """Load what can be loaded here; say why something cannot."""
    from benchmark.models import load_trained_model

    model, sample, problems = None, None, []
    try:
        model = load_trained_model(run.folder.model, run.spec.model)
    except UnavailableError as error:
        problems.append(str(error))
    except ImportError as error:
        lacking = first_line(error).partition(" You can install")[0].rstrip(".")
        problems.append(f"its library is not installed here ({lacking})")
    try:
        sample = draw_sample(run)
    except ExportError as error:
        problems.append(str(error))
    return _Job(
        run=run,
        model=model,
        sample=sample,
        unchecked="; ".join(problems),
        options=text_options(run, model, sample),
        code=None if model is None else own_code(model, run.spec.model.modality),
    )


def _check(job: _Job, folder: Path, graph: Float64Array | None, allowed: float) -> Check | str:
    """Compare an export with the cached logits; return why where that cannot be done."""
    if job.model is None or job.sample is None:
        return job.unchecked
    found = _as_loaded(job, folder, job.sample) if graph is None else graph
    ordered = in_data_order(found, job.run, job.model, job.sample)
    return compare(ordered, job.sample.expected, allowed, "those of the cached logits")


def _caller(job: _Job, folder: Path) -> Caller:
    return Caller.read(folder, job.run.spec.model.modality, job.options, job.pictures == "grey")


def _as_loaded(job: _Job, folder: Path, sample: Sample) -> Float64Array:
    """Return the probabilities of the checkpoint as it was written, loaded again."""
    from benchmark.models import load_trained_model

    model = load_trained_model(folder, job.run.spec.model)
    temperature = float(model.config.calibration["temperature"])
    return probabilities(model, _caller(job, folder), sample.rows, temperature)


def _write_graph(job: _Job, folder: Path, labels: list[str]) -> tuple[Float64Array, Float64Array]:
    """Write the graph; return its probabilities of the sample's rows, and torch's."""
    assert job.model is not None  # looked at before
    assert job.sample is not None
    run, rows, caller = job.run, job.sample.rows, _caller(job, folder)
    temperature = applied_temperature(run)
    single = [caller.inputs(rows, row) for row in range(len(rows))]
    batches = _batches(caller, run.spec.model.modality, single)
    path = folder / onnx_graph.FILE
    about = {calibration.KEY: calibration.describe(run), "labels": labels}
    onnx_graph.write_graph(path, job.model, batches[0], temperature, about)
    in_batches = onnx_graph.graph_probabilities(path, _arrays(batches))
    alone = onnx_graph.graph_probabilities(path, _arrays(single))
    expected = probabilities(job.model, caller, rows, temperature)
    worse = np.abs(in_batches - expected) > np.abs(alone - expected)
    return np.where(worse, in_batches, alone), expected


def _batches(
    caller: Caller, modality: Modality, single: list[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """Return single rows' inputs in batches, texts filled up as the tokenizer does it."""
    import torch

    parts = [single[start : start + _BATCH] for start in range(0, len(single), _BATCH)]
    if modality == "image":
        return [
            {name: torch.cat([one[name] for one in part]) for name in part[0]} for part in parts
        ]
    lists = [{name: [one[name][0] for one in part] for name in part[0]} for part in parts]
    return [dict(caller.processor.pad(rows, return_tensors="pt")) for rows in lists]


def _arrays(batches: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


def _write_words(folder: Path, run: FinishedRun, facts: card.Facts) -> None:
    """Write `calibration.json`, the figure and the README."""
    check = facts.check.described() if isinstance(facts.check, Check) else None
    graph = None if facts.graph_check is None else facts.graph_check.described()
    told = calibration.describe(run) | {
        "labels": list(facts.labels),
        "checked_against_cached_logits": check,
        **({} if graph is None else {"checked_against_torch": graph}),
    }
    text = json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / calibration.FILE).write_text(text + "\n", encoding="utf-8")
    (folder / card.FIGURE).write_text(run_diagram(run.folder, run.record), encoding="utf-8")
    (folder / card.FILE).write_text(card.model_card(run, facts), encoding="utf-8")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `target` when the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield fresh
        fresh.chmod(0o755)
        os.replace(fresh, target)  # also over an empty folder
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
