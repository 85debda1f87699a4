"""Every row's prediction as parquet: one file a dataset, one row group a run and split.

Metrics computed from these columns are those of the records: the columns come from the same
`Predictions`. One split is in memory at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.arrays import Float32Array, IntArray
from benchmark.markup import file_name, visible
from benchmark.records import (
    LogitsSplit,
    RecordHead,
    ResultsError,
    RunFolder,
    read_split,
    runs_of_suite,
    split_names,
)
from benchmark.report.data import ReportError
from benchmark.report.reading import require_suite
from benchmark.statistics import Predictions, log_probabilities

if TYPE_CHECKING:
    import pyarrow as pa

TOP = 5
"""Most probable classes of each row that are kept; `logits.safetensors` has all."""

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("suite", "text", "the suite"),
    ("model", "text", "the model's name"),
    ("dataset", "text", "the dataset's name"),
    ("seed", "int32", "the run's seed"),
    ("split", "text", "calibration, test, or a shifted test set such as noise-2"),
    ("row_id", "int64", "id of the row in the dataset; shifted rows keep theirs"),
    ("label", "int32", "the true class, from 0"),
    ("label_name", "text", "its name"),
    ("prediction", "int32", "the class of the highest logit, the first of several"),
    ("prediction_name", "text", "its name"),
    ("correct", "bool", "whether they are the same"),
    ("confidence_none", "double", "probability of the prediction as the model gives it, 1/K to 1"),
    ("confidence_temperature", "double", "the same after temperature scaling"),
    ("log_likelihood_none", "double", "log probability of the label, nats, at most 0"),
    ("log_likelihood_temperature", "double", "the same after temperature scaling"),
    ("brier_none", "double", "squared distance of the probabilities to the label, 0 to 2"),
    ("brier_temperature", "double", "the same after temperature scaling"),
    ("temperature", "double", "that was fitted on the run's calibration split, 0 to infinity"),
    ("top_classes", "list<int32>", f"the {TOP} most probable classes or all, surest first"),
    ("top_log_probabilities", "list<float>", "their log probabilities before scaling, nats"),
)
"""Name, type and meaning of every column; docs/report.md shows them."""

_BLOCK = 4096


def write_samples(results: Path, reports: Path, suite: str) -> tuple[Path, list[str]]:
    """Write the rows of all completed runs of a suite to `reports/<suite>+samples`.

    No suite of a registry has such a name, so it is never the folder of a report.

    Returns:
        The folder, and a line for each run that has no rows, with the reason.

    Raises:
        ReportError: there is no such suite, no run has any, or the folder holds something else.
    """
    from benchmark.report.command import replaced_folder

    require_suite(results, suite)
    runs, left_out = _completed(results, suite)
    target = reports / f"{file_name(suite)}+samples"
    written = 0
    with replaced_folder(target) as folder:
        for dataset, own in runs.items():
            path = folder / f"{file_name(dataset)}.parquet"
            written += _write_dataset(path, suite, own, left_out)
        if not written:
            reasons = "".join(f"\n{line}" for line in left_out[:1])
            raise ReportError(f"{results / suite}: no completed run has logits{reasons}")
    return target, left_out


def _completed(
    results: Path, suite: str
) -> tuple[dict[str, list[tuple[RunFolder, RecordHead]]], list[str]]:
    """Return the completed runs of each dataset, and why others are not among them."""
    runs: dict[str, list[tuple[RunFolder, RecordHead]]] = defaultdict(list)
    left_out = []
    for folder in runs_of_suite(results, suite):
        try:
            head = folder.read_head()
        except ResultsError as error:
            left_out.append(str(error))
            continue
        if head is None:  # removed since the folder was listed
            continue
        if head.status == "completed" and head.temperature is not None:
            runs[head.dataset].append((folder, head))
        else:
            left_out.append(f"{head.name}: {head.status}")
    return runs, left_out


def _write_dataset(
    path: Path, suite: str, runs: Sequence[tuple[RunFolder, RecordHead]], left_out: list[str]
) -> int:
    """Write a dataset's file, if any of its runs has logits; return how many row groups it has."""
    from pyarrow import parquet

    written = 0
    with parquet.ParquetWriter(path, schema(), compression="zstd") as writer:
        for folder, head in runs:
            try:
                for split in split_names(folder):
                    columns = _columns(suite, head, split, read_split(folder, split))
                    writer.write_table(_table(columns))
                    written += 1
            except ResultsError as error:
                left_out.append(str(error))
    if not written:
        path.unlink()
    return written


def schema() -> pa.Schema:
    """Return the columns as Arrow types."""
    import pyarrow as pa

    return pa.schema([(name, _type(kind)) for name, kind, _ in COLUMNS])


def _type(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind == "text":  # parquet stores a text that repeats once
        return pa.string()
    if kind.startswith("list"):
        return pa.list_(pa.type_for_alias(kind.removeprefix("list<").rstrip(">")))
    return pa.type_for_alias(kind)


def _table(columns: dict[str, Any]) -> pa.Table:
    import pyarrow as pa

    length, types = len(columns["row_id"]), schema()
    arrays = []
    for field in types:
        value = columns[field.name]
        if isinstance(value, str | int | float):  # the same for all rows
            value = pa.repeat(pa.scalar(value, field.type), length)
        # A label is a class of the logits, so it fits where it is made smaller.
        arrays.append(pa.array(value).cast(field.type) if isinstance(value, np.ndarray) else value)
    return pa.Table.from_arrays(arrays, schema=types)


def _columns(suite: str, head: RecordHead, split: str, stored: LogitsSplit) -> dict[str, Any]:
    assert head.temperature is not None  # callers have picked those
    temperature = head.temperature.value
    before = Predictions.from_logits(stored.logits, stored.labels)
    after = Predictions.from_logits(stored.logits, stored.labels, temperature)
    names = [visible(name) for name in (head.data.label_names if head.data else ())]
    classes, scores = _most_probable(stored.logits)
    return {
        "suite": visible(suite),
        "model": visible(head.model),
        "dataset": visible(head.dataset),
        "seed": head.seed,
        "split": visible(split),
        "row_id": stored.ids,
        "label": stored.labels,
        "label_name": _named(stored.labels, names),
        "prediction": before.predicted,
        "prediction_name": _named(before.predicted, names),
        "correct": before.correct,
        "confidence_none": before.confidence,
        "confidence_temperature": after.confidence,
        "log_likelihood_none": -before.nll,
        "log_likelihood_temperature": -after.nll,
        "brier_none": before.brier,
        "brier_temperature": after.brier,
        "temperature": temperature,
        "top_classes": _lists(classes),
        "top_log_probabilities": _lists(scores),
    }


def _named(classes: IntArray, names: Sequence[str]) -> pa.Array:
    """Return the name of each class; of one without a name, its number."""
    import pyarrow as pa

    most = int(classes.max(initial=-1)) + 1
    known = [*names, *(f"class {number}" for number in range(len(names), most))]
    return pa.array(known, pa.string()).take(pa.array(classes))


def _lists(values: IntArray | Float32Array) -> pa.ListArray:
    """Return an array [n, k] as n lists."""
    import pyarrow as pa

    rows, width = values.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def _most_probable(logits: Float32Array) -> tuple[IntArray, Float32Array]:
    """Return the most probable classes [n, k] of each row and their log probabilities."""
    width = min(TOP, logits.shape[1])
    classes = np.empty((len(logits), width), np.int32)
    scores = np.empty((len(logits), width), np.float32)
    for rows in _blocks(len(logits)):
        block = logits[rows]
        # Stable, so that of equal logits the first class comes first, as the prediction is.
        order = np.argsort(-block, axis=1, kind="stable")[:, :width]
        classes[rows] = order
        scores[rows] = np.take_along_axis(log_probabilities(block), order, axis=1)
    return classes, scores


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK))
