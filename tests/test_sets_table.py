"""The table of sets and selection."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmark.report.sets_table import sets_table


def row(model, **values):
    return {"model": model, "accuracy_none": 0.9, **values}


def test_values_intervals_and_reasons():
    rows = pd.DataFrame(
        [
            row(
                "a", accuracy_at_90_none=0.95, accuracy_at_90_none_low=0.93,
                accuracy_at_90_none_high=0.97, aps_set_size_90_none=1.234,
                aps_set_size_90_none_low=1.2, aps_set_size_90_none_high=1.3,
            ),
            row(
                "b", accuracy_at_90_none=0.91, aps_coverage_90_none=np.nan,
                aps_coverage_90_none_no_interval="too few calibration rows: 8, sets need 9",
            ),
            row("older"),
        ]
    )  # fmt: skip
    table = sets_table(rows)
    assert [line[0].text for line in table.rows] == ["a", "b"]
    assert table.text(0, "accuracy_at_90_none") == "95.0 (93.0, 97.0)"
    assert table.text(0, "aps_set_size_90_none") == "1.23 (1.20, 1.30)"
    assert table.text(1, "aps_coverage_90_none") == "too few calibration rows: 8, sets need 9"


def test_runs_scored_before_there_were_any():
    assert sets_table(pd.DataFrame([row("older")])) is None
