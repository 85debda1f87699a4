"""Accuracy on the calibration split: adjusts for accuracy without sharing rows with the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.records import ResultsError, RunFolder, read_split

if TYPE_CHECKING:
    import pandas as pd

COLUMN = "calibration_rows_error"


def with_calibration_rows_error(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of runs with the error rate on each run's calibration rows added.

    A calibration error and the error rate of the same rows share their noise, which biases the
    one adjusted for the other (`docs/claim.md`). Runs whose logits cannot be read have no value.
    """
    if "folder" not in frame.columns:
        return frame
    folders = frame["folder"].fillna("").where(frame["status"] == "completed", "")
    rates = {folder: _error_rate(folder) for folder in folders.unique() if folder}
    return frame.assign(**{COLUMN: folders.map(rates).astype(float)})


def _error_rate(folder: str) -> float:
    try:
        split = read_split(RunFolder(Path(folder)), "calibration")
    except ResultsError:
        return float("nan")
    return float(np.mean(np.asarray(split.logits).argmax(axis=1) != split.labels))


def accuracy_column(clean: pd.DataFrame) -> str:
    """Return the covariate that stands for accuracy: of the calibration rows where all have it."""
    known = COLUMN in clean.columns and bool(clean[COLUMN].notna().all())
    return COLUMN if known else "test_error"
