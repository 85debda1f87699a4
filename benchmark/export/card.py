"""The README of an export: a model card of the hub, with its figures as `model-index` metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.export import calibration
from benchmark.export.checking import Check
from benchmark.export.finding import FinishedRun
from benchmark.export.privacy import without_private_parts
from benchmark.export.usage import Form
from benchmark.markup import (
    MISSING,
    Cell,
    Column,
    Markdown,
    Table,
    compact,
    decimals,
    estimate,
    markdown_environment,
    tidy_markdown,
)
from benchmark.statistics import METRICS, Estimate

FILE, FIGURE = "README.md", "reliability.svg"
SHOWN = ("accuracy", "nll", "brier", "ece_15", "debiased_calibration_error")
_MAPS = {"none": "before", "temperature": "temperature-scaled"}
_LICENCES = frozenset(
    [
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "unlicense", "openrail"),
        *("cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    ]
)
"""Identifiers that the hub takes as they are; another licence is told in words only."""


@dataclass(frozen=True)
class Facts:
    """What a card tells of an export beside the run's record.

    Attributes:
        form: of the export.
        lines: of Python that use it.
        labels: names of the classes, in the order of the outputs.
        check: against the cached logits; or why there was none.
        graph_check: of an ONNX graph against torch.
        has_own_code: whether the checkpoint comes with code of its own.
        is_fixed: whether all texts are filled up to one length.
    """

    form: Form
    lines: Sequence[str]
    labels: Sequence[str]
    check: Check | str
    graph_check: Check | None = None
    has_own_code: bool = False
    is_fixed: bool = False


def fill_in(template: str, **values: Any) -> str:
    """Return a template of this package, every value escaped but tables and `Markdown`."""
    text = markdown_environment("benchmark.export").get_template(template).render(**values)
    return tidy_markdown(text)


def model_card(run: FinishedRun, facts: Facts) -> str:
    """Return the card, metadata and text.

    Raises:
        ValueError: the library does not read back what was written.
    """
    from huggingface_hub import ModelCard

    fit = run.temperature
    text = fill_in(
        "model.md.jinja",
        run=run,
        facts=facts,
        record=run.record,
        temperature=estimate(fit.value, fit.low, fit.high, 3, why=fit.no_interval),
        notes=calibration.notes(run),
        test=run.record.scores["test"],
        metrics=_metric_table(run),
        shifted=_worst_shift(run),
        made=[(name, without_private_parts(value)) for name, value in _making(run)],
        code=Markdown("```python\n" + "\n".join(facts.lines) + "\n```"),
        classes=", ".join(facts.labels[:30]) + (", ..." if len(facts.labels) > 30 else ""),
        figure=FIGURE,
        compact=compact,
    )
    card = ModelCard(f"---\n{_metadata(run, facts).to_yaml()}\n---\n\n{text}")
    written = str(card)
    data: Any = ModelCard(written).data
    read_back = data.eval_results or []
    if len(read_back) != len(list(_results(run))):
        raise ValueError("the card's metadata cannot be read back")
    return written


def _metadata(run: FinishedRun, facts: Facts) -> Any:
    from huggingface_hub import ModelCardData

    model, dataset = run.spec.model, run.spec.dataset
    licence = (model.licence or "").lower().replace(" ", "-")
    return ModelCardData(
        model_name=f"{model.name}-{dataset.name}-seed-{run.spec.seed}",
        license=licence if licence in _LICENCES else None,
        library_name=facts.form,
        pipeline_tag=f"{model.modality}-classification",
        tags=["calibration", "temperature-scaling", "uncertainty"],
        base_model=model.hub,
        datasets=None if dataset.hub is None else [dataset.hub],
        metrics=["accuracy"],
        eval_results=list(_results(run)),
    )


def _results(run: FinishedRun) -> Iterator[Any]:
    """Yield every shown metric before and after scaling, as the hub's metadata hold them."""
    from huggingface_hub import EvalResult

    dataset = run.spec.dataset
    for map_name, words in _MAPS.items():
        for name, found in _shown(run, map_name):
            has_interval = found.low is not None and found.high is not None
            yield EvalResult(
                task_type=f"{run.spec.model.modality}-classification",
                dataset_type=dataset.hub or dataset.name,
                dataset_name=dataset.name,
                dataset_config=dataset.config,
                dataset_split="test",
                dataset_revision=run.spec.data_revision if dataset.hub else None,
                metric_type=name,
                metric_name=f"{METRICS[name].title}, {words}",
                metric_value=found.value,
                metric_args={"low": found.low, "high": found.high, "level": 0.95}
                if has_interval
                else None,
            )


def _shown(run: FinishedRun, map_name: str) -> Iterator[tuple[str, Estimate]]:
    estimates = run.record.scores["test"].maps[map_name]
    for name in SHOWN:
        if name in estimates and math.isfinite(estimates[name].value):
            yield name, estimates[name]


def _metric_table(run: FinishedRun) -> Table:
    columns = (
        Column("metric", "metric", "left"),
        Column("before", "before"),
        Column("after", "temperature-scaled"),
        Column("floor", "noise floor"),
        Column("unit", "unit", "left"),
    )
    before, after = dict(_shown(run, "none")), dict(_shown(run, "temperature"))
    rows = []
    for name in (name for name in SHOWN if name in before):
        unit = METRICS[name].unit
        texts = [_estimate(found.get(name), name) for found in (before, after)]
        floor = after.get(name, before[name])
        told = MISSING
        if floor.floor_mean is not None and floor.floor_q95 is not None:
            mean, high = (unit.scale * x for x in (floor.floor_mean, floor.floor_q95))
            told = f"{decimals(mean, unit.places)}, 95% below {decimals(high, unit.places)}"
        cells = (METRICS[name].title, *texts, told, unit.name)
        rows.append(tuple(Cell(text) for text in cells))
    return Table(columns, rows)


def _estimate(found: Estimate | None, name: str) -> str:
    unit = METRICS[name].unit
    if found is None:
        return MISSING
    return estimate(
        found.value, found.low, found.high, unit.places, unit.scale, why=found.no_interval
    )


def _worst_shift(run: FinishedRun) -> tuple[int, str, str, str] | None:
    """Return how many shifted test sets there are, the worst, and its ECE before and after."""
    shifted = {name: one for name, one in run.record.scores.items() if one.shifted}
    if not shifted:
        return None
    worst = max(shifted, key=lambda name: shifted[name].maps["temperature"]["ece_15"].value)
    ends = (shifted[worst].maps[map_name]["ece_15"].value for map_name in _MAPS)
    before, after = (decimals(100 * value, 1) for value in ends)
    return len(shifted), worst, before, after


def _making(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """Yield how the model came about: a name and a text each."""
    model, dataset, record = run.spec.model, run.spec.dataset, run.record
    rows = ", ".join(f"{count:,} {name}" for name, count in run.data.rows.items())
    yield "Checkpoint", _starting_point(run)
    source = calibration.describe(run)["fitted_on"]["source"]
    told = source if source.startswith(dataset.name) else f"{dataset.name}: {source}"
    yield "Data", f"{told} ({rows})"
    if run.spec.data_revision is not None:
        yield "Data revision", run.spec.data_revision
    for note in run.data.notes:
        yield "Rows", note
    if run.spec.limit is not None:
        yield "Limit", f"at most {run.spec.limit:,} rows of each split"
    if run.spec.recipe is not None:
        recipe = run.spec.recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        yield "Recipe", ", ".join(f"{name} {_plain(value)}" for name, value in recipe.items())
    if run.spec.recipe is not None and run.spec.recipe.lora is not None:
        yield "Adapters", "low-rank, merged into the weights"
    yield "Seed", str(run.spec.seed)
    if model.scratch is None:
        yield "Licence of the checkpoint", model.licence or "not stated"
    yield "Licence of the data", dataset.licence or "not stated"
    packages = record.provenance.get("packages", {})
    versions = [f"{one} {packages[one]}" for one in ("torch", "transformers") if one in packages]
    commit = record.provenance.get("git_commit")
    yield (
        "Made with",
        ", ".join([f"calibration-benchmark (commit {commit or 'unknown'})", *versions]),
    )
    yield "Run", f"{run.name}, finished {record.finished_at:%Y-%m-%d}"


def _starting_point(run: FinishedRun) -> str:
    model = run.spec.model
    if model.hub is not None:
        head = "as published" if model.evaluate else "fine-tuned"
        return f"{model.hub} at {run.spec.model_revision}, {head}"
    if model.path is not None:
        return f"{model.path.name} (a local folder), fine-tuned"
    kind = (model.scratch or {}).get("model_type", "unknown")
    return f"{kind}, trained from random weights"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
