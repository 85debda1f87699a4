"""What a run of a published checkpoint would cost, before anything of it is fetched.

Rough on purpose: from the entry's parameters, the data set's rows and a few constants, so that a
suite's hours are known within a factor of about three. docs/study.md has the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.hub import data_size, weights_size
from benchmark.plan import RunSpec

OPERATIONS_PER_SECOND = 10e12
"""Sustained in float32: about half of the peak of an A100, a sixth of an H100's."""
TOKENS_OF_AN_IMAGE = 200
"""Uses of each parameter for 224 x 224 pixels: 196 patches of 16 x 16, as in ViT-B/16."""
TOKENS_OF_A_TEXT = 48
"""Of a sentence or two, padded to the longest of its batch; a data set's max_length may be less."""
LONGEST_TEXT = 512
"""Where a data set gives no max_length; memory has to hold a batch of the longest."""
PASSES_OF_TRAINING = 3
"""A step is a forward pass and a backward pass of twice its cost."""
BYTES_OF_TRAINING = 16
"""For each parameter in float32: itself, its gradient and AdamW's two moments."""
ACTIVATION_BYTES = 20_000
"""Kept for the backward pass: for each row, times the root of the parameters, at 200 tokens."""
USUAL_PIXELS = 224


@dataclass(frozen=True)
class Cost:
    """Hours on one GPU, and its memory in GB with a whole batch at once."""

    hours: float
    memory_gb: float


def estimate_cost(spec: RunSpec) -> Cost | None:
    """Return what the run costs on one GPU; None where parameters or rows are not known."""
    parameters, rows = spec.model.parameters, split_rows(spec)
    if parameters is None or rows is None:
        return None
    tokens = _tokens(spec, TOKENS_OF_A_TEXT)
    passes = float(rows["calibration"] + rows["test"] + _shifted_rows(spec, rows["test"]))
    memory = 4.0 * parameters
    if spec.recipe is not None:
        passes += PASSES_OF_TRAINING * spec.recipe.epochs * rows["train"]
        memory = BYTES_OF_TRAINING * parameters
        longest = _tokens(spec, LONGEST_TEXT)
        row = ACTIVATION_BYTES * math.sqrt(parameters) * longest / TOKENS_OF_AN_IMAGE
        memory += spec.recipe.batch_size * row
    operations = 2 * parameters * tokens * passes
    return Cost(operations / OPERATIONS_PER_SECOND / 3600, memory / 1e9)


def split_rows(spec: RunSpec) -> dict[str, int] | None:
    """Return the rows of train, calibration and test as the entry's splits and `rows` say.

    None where the data set's rows are not stated.
    """
    source, splits = spec.dataset.rows, spec.dataset.splits
    if source is None:
        return None
    if spec.dataset.embedded is not None:  # they come in these splits
        return {name: min(count, spec.limit or count) for name, count in source.items()}
    left = 0 if splits.train is None else source.get(splits.train, 0)
    rows = {}
    for name, split in (("test", splits.test), ("calibration", splits.calibration)):
        if isinstance(split, str):
            rows[name] = source.get(split, 0)
        elif splits.train is None:
            rows[name] = round(rows["test"] * split)
            rows["test"] -= rows[name]
        else:
            rows[name] = round(left * split)
            left -= rows[name]
    rows["train"] = left
    return {name: min(count, spec.limit or count) for name, count in rows.items()}


def _shifted_rows(spec: RunSpec, test: int) -> int:
    """Return the rows of all shifted test sets: three severities of each kind."""
    return 3 * len(spec.dataset.shifts) * min(test, spec.dataset.shift_rows or test)


def _tokens(spec: RunSpec, of_a_text: int) -> float:
    """Return how often each parameter is used for a row."""
    if spec.model.modality == "text":
        return min(of_a_text, spec.dataset.max_length or LONGEST_TEXT)
    pixels = spec.dataset.image_size or spec.model.evaluation_resolution or USUAL_PIXELS
    return TOKENS_OF_AN_IMAGE * (pixels / USUAL_PIXELS) ** 2


def cost_table(specs: Sequence[RunSpec]) -> str:
    """Return what runs of published checkpoints cost: a line a model, a data set, and in all.

    Args:
        specs: the runs that have something to do, with their inputs' identities where they are
            known; the hub is asked how large these are.
    """
    from tabulate import tabulate

    specs = [spec for spec in specs if spec.model.hub is not None]
    if not specs:
        return ""
    models = tabulate(_model_rows(specs), headers=_MODEL_HEADERS, disable_numparse=True)
    datasets = tabulate(_dataset_rows(specs), headers=("dataset", "download"))
    return f"{models}\n\n{datasets}\n\n{_in_all(specs)}"


_MODEL_HEADERS = ("model", "runs", "GPU hours", "GPU GB", "download")


def _model_rows(specs: Sequence[RunSpec]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(spec.model.name for spec in specs):
        runs = [spec for spec in specs if spec.model.name == name]
        costs = [cost for cost in map(estimate_cost, runs) if cost is not None]
        known = len(costs) == len(runs)
        hours = f"{sum(cost.hours for cost in costs):.1f}" if known else "?"
        memory = f"{max(cost.memory_gb for cost in costs):.1f}" if known else "?"
        download = next((size for size in map(_weights, runs) if size is not None), None)
        rows.append((name, str(len(runs)), hours, memory, _in_units(download)))
    return rows


def _dataset_rows(specs: Sequence[RunSpec]) -> list[tuple[str, str]]:
    sizes: dict[str, int | None] = {}
    for spec in specs:
        if spec.dataset.hub is not None:
            sizes[spec.dataset.name] = sizes.get(spec.dataset.name) or _data(spec)
    return [(name, _in_units(size)) for name, size in sizes.items()]


def _in_all(specs: Sequence[RunSpec]) -> str:
    costs = [cost for cost in map(estimate_cost, specs) if cost is not None]
    sizes: dict[object, int | None] = {}
    for spec in specs:  # of runs with one input, one may lack its other input
        data = spec.dataset
        selection = (data.hub, data.config, str(data.files))
        sizes[spec.model.hub] = sizes.get(spec.model.hub) or _weights(spec)
        if data.hub is not None:
            sizes[selection] = sizes.get(selection) or _data(spec)
    told = [size for size in sizes.values() if size is not None]
    hours = f"about {sum(cost.hours for cost in costs):,.0f} GPU hours"
    silent = len(sizes) - len(told)
    unknown = f" ({silent} of {len(sizes)} repositories not told)" if silent else ""
    download = f"{_in_units(sum(told))} to download{unknown}" if told else "download not told"
    return (
        f"In all {hours} at {OPERATIONS_PER_SECOND / 1e12:.0f} TFLOP/s in float32, within a factor "
        f"of three; {download}. How this is reckoned: docs/study.md"
    )


def _weights(spec: RunSpec) -> int | None:
    if spec.model.hub is None or spec.model_revision is None:
        return None
    return weights_size(spec.model.hub, spec.model_revision)


def _data(spec: RunSpec) -> int | None:
    data = spec.dataset
    if data.hub is None or spec.data_revision is None:
        return None
    patterns = None if data.files is None else tuple(data.files.values())
    return data_size(data.hub, spec.data_revision, data.config, patterns)


def _in_units(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
