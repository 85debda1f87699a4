"""What comparisons in pairs need of one run: its squared calibration error, row by row."""

from __future__ import annotations

from typing import NamedTuple

from benchmark.arrays import IntArray
from benchmark.records import RunFolder, read_split
from benchmark.statistics import (
    ErrorParts,
    Predictions,
    TemperaturePath,
    check_rows,
    fit_temperature,
    refit_temperatures,
    too_few,
)


class RunErrors(NamedTuple):
    """A run's test rows in the order of their ids.

    Attributes:
        ids: [n].
        labels: [n].
        parts: Of the debiased squared error.
        too_few: What the rows have too little of for an interval; None if they do not.
    """

    ids: IntArray
    labels: IntArray
    parts: ErrorParts
    too_few: str | None


def run_errors(folder: RunFolder, *, after_scaling: bool, resamples: int) -> RunErrors:
    """Score a run's test rows; after scaling also refit its temperature on resampled rows.

    Resamples draw the same calibration rows of every run on a dataset, so that what runs have in
    common cancels in their difference.

    Raises:
        ResultsError: the logits cannot be read.
        ValueError: logits or labels are invalid.
    """
    test = read_split(folder, "test").sorted_by_id()
    rows = check_rows(test.logits, test.labels)
    if after_scaling:
        calibration = read_split(folder, "calibration").sorted_by_id()
        fit = fit_temperature(calibration.logits, calibration.labels)
        refitted = refit_temperatures(
            calibration.logits, calibration.labels, fit, resamples=resamples
        )
        path = TemperaturePath.build(rows, fit.temperature, refitted.resampled)
    else:
        path = TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), resamples)
    return RunErrors(test.ids, test.labels, path.parts(), too_few(path.center.correct))
