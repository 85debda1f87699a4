"""ECE with other numbers of bins than records hold, from the cached logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.records import ResultsError, RunFolder, read_split
from benchmark.statistics import Predictions, Scheme, expected_calibration_error

if TYPE_CHECKING:
    import pandas as pd

VARIANTS: dict[str, tuple[int, Scheme]] = {
    "ece_10": (10, "equal_width"),
    "ece_30": (30, "equal_width"),
    "ece_15_equal_mass": (15, "equal_mass"),
    "ece_30_equal_mass": (30, "equal_mass"),
}
MOST_ROWS = 500
"""Scored splits, at about 2 ms each; larger studies make do with the bins of their records."""


def with_bin_variants(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of runs with columns `<variant>_before` and `<variant>_after` added.

    Splits whose logits cannot be read have no value. The frame comes back as it is where
    no logits are kept or there are more than `MOST_ROWS` scored splits.
    """
    if "folder" not in frame.columns:
        return frame
    scored = frame[(frame["status"] == "completed") & (frame["folder"].fillna("") != "")]
    if scored.empty or len(scored) > MOST_ROWS:
        return frame
    temperatures = {"before": np.ones(len(scored)), "after": scored["temperature"].to_numpy(float)}
    columns = [f"{name}_{moment}" for name in VARIANTS for moment in temperatures]
    values = {column: np.full(len(frame), np.nan) for column in columns}
    positions = np.flatnonzero(frame.index.isin(scored.index))
    for row, (position, folder, split) in enumerate(
        zip(positions, scored["folder"], scored["split"], strict=True)
    ):
        try:
            stored = read_split(RunFolder(Path(folder)), split)
        except ResultsError:
            continue
        for moment, per_row in temperatures.items():
            predicted = Predictions.from_logits(stored.logits, stored.labels, per_row[row])
            for name, (bins, scheme) in VARIANTS.items():
                values[f"{name}_{moment}"][position] = expected_calibration_error(
                    predicted.confidence, predicted.correct, bins, scheme
                )
    return frame.assign(**values)
