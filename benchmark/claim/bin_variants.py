"""ECE with other numbers of bins than records hold, from the cached logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.records import ResultsError, RunFolder, read_split
from benchmark.statistics import Predictions, binned_ece

if TYPE_CHECKING:
    import pandas as pd

VARIANTS = (
    binned_ece("ece_10", 10, "equal_width"),
    binned_ece("ece_30", 30, "equal_width"),
    binned_ece("ece_15_equal_mass", 15, "equal_mass"),
    binned_ece("ece_30_equal_mass", 30, "equal_mass"),
)
MOST_ROWS = 500
"""Scored splits, at about 2 ms each; larger studies make do with the bins of their records."""


def with_bin_variants(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of runs with columns `<variant>_<map>` added.

    Splits whose logits cannot be read have no value. The frame comes back as it is where
    no logits are kept or there are more than `MOST_ROWS` scored splits.
    """
    if "folder" not in frame.columns:
        return frame
    scored = frame[(frame["status"] == "completed") & (frame["folder"].fillna("") != "")]
    if scored.empty or len(scored) > MOST_ROWS:
        return frame
    temperatures = {
        "none": np.ones(len(scored)),
        "temperature": scored["temperature"].to_numpy(float),
    }
    columns = [f"{metric.name}_{map_name}" for metric in VARIANTS for map_name in temperatures]
    values = {column: np.full(len(frame), np.nan) for column in columns}
    positions = np.flatnonzero(frame.index.isin(scored.index))
    for row, (position, folder, split) in enumerate(
        zip(positions, scored["folder"], scored["split"], strict=True)
    ):
        try:
            stored = read_split(RunFolder(Path(folder)), split)
        except ResultsError:
            continue
        for map_name, per_row in temperatures.items():
            predicted = Predictions.from_logits(stored.logits, stored.labels, per_row[row])
            for metric in VARIANTS:
                values[f"{metric.name}_{map_name}"][position] = metric(predicted)
    return frame.assign(**values)
