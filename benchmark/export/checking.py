"""Whether an export gives the probabilities that its run stands for, tried on rows of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.data import Rows, load_corpus, resolve_data_revision
from benchmark.export.calibration import applied_temperature
from benchmark.export.errors import ExportError
from benchmark.export.finding import FinishedRun
from benchmark.failures import RunError
from benchmark.records import ResultsError, RevisionUnavailableError, read_split
from benchmark.statistics import log_probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from benchmark.arrays import Float64Array
    from benchmark.data import Corpus

ROWS = 48
"""Test rows that an export is tried on."""

SAME_MACHINE = 1e-5
"""Largest difference of a probability that float32 arithmetic on CPUs explains."""
OTHER_ARITHMETIC = 0.02
"""The same where the logits are of a GPU or of mixed precision."""


@dataclass(frozen=True)
class Sample:
    """Test rows of a run and what it made of them.

    Attributes:
        corpus: the run's data.
        rows: some of its test rows.
        expected: float64 [n, K]: softmax(logits / T) of the cached logits, in the data's order
            of classes.
    """

    corpus: Corpus
    rows: Rows
    expected: Float64Array


@dataclass(frozen=True)
class Check:
    """What a check has found: the largest difference of a probability, over rows and classes."""

    rows: int
    largest_difference: float
    allowed: float

    def described(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"rows": self.rows, "largest_difference": self.largest_difference}


def draw_sample(run: FinishedRun) -> Sample:
    """Return evenly spaced test rows of a run with the probabilities that it gave them.

    Raises:
        ExportError: the data are not to be had here, or are others than the run's.
        ResultsError: the logits are damaged or gone.
    """
    entry = run.spec.dataset
    split = read_split(run.folder, "test")
    try:
        if resolve_data_revision(entry) != run.spec.data_revision:
            raise ExportError(f"dataset {entry.name} is not the one that the run was scored on")
        corpus = load_corpus(entry, revision=run.spec.data_revision, limit=run.spec.limit)
    except ResultsError:
        raise
    except (RunError, RevisionUnavailableError, OSError) as error:
        raise ExportError(f"the rows of dataset {entry.name} cannot be read: {error}") from None
    known = {int(row_id): position for position, row_id in enumerate(split.ids)}
    told = corpus.test.texts
    usable = [
        row
        for row, row_id in enumerate(corpus.test.ids)
        if int(row_id) in known and (told is None or told[row].strip())
    ]
    if not usable:
        raise ExportError(f"dataset {entry.name} has none of the rows that the run was scored on")
    spread = np.linspace(0, len(usable) - 1, min(ROWS, len(usable))).round().astype(np.int64)
    rows = corpus.test.take(np.asarray(usable, dtype=np.int64)[spread])
    logits = split.logits[[known[int(row_id)] for row_id in rows.ids]]
    return Sample(corpus, rows, np.exp(log_probabilities(logits, applied_temperature(run))))


def in_data_order(
    found: Float64Array, run: FinishedRun, model: PreTrainedModel, sample: Sample
) -> Float64Array:
    """Return a head's probabilities with the classes in the order of the data."""
    from benchmark.models import label_columns

    if not run.spec.model.evaluate:
        return found
    return found[:, label_columns(model, sample.corpus, run.spec.model.labels)]


def compare(found: Float64Array, expected: Float64Array, allowed: float, against: str) -> Check:
    """Return the largest difference of a probability.

    Raises:
        ExportError: it is more than `allowed`.
    """
    largest = float(np.abs(found - expected).max())
    if not largest <= allowed:
        raise ExportError(
            f"the export's probabilities differ from {against} by up to {largest:.2g} on "
            f"{len(expected)} test rows, more than {allowed:g}: it is not what was scored, so "
            "nothing was written (--tolerance allows more)"
        )
    return Check(len(expected), largest, allowed)


def allowed_difference(run: FinishedRun, tolerance: float | None) -> float:
    """Return how far an export may be from the cached logits."""
    if tolerance is not None:
        return tolerance
    return SAME_MACHINE if run.is_exact else OTHER_ARITHMETIC
