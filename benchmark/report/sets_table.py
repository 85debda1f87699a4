"""Sets and selection: accuracy of the rows that one keeps, and prediction sets, of every model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from benchmark.markup import Cell, Column, Table, estimate, file_name
from benchmark.report.data import MAPS, rows_of
from benchmark.statistics import METRICS, Metric

if TYPE_CHECKING:
    import pandas as pd

_BEFORE, _AFTER = MAPS
_COLUMNS = (
    ("accuracy", _BEFORE, "accuracy %"),
    ("accuracy_at_90", _BEFORE, "of the surest 90%"),
    ("accuracy_at_80", _BEFORE, "of the surest 80%"),
    ("aps_coverage_90", _BEFORE, "sets hold the label %"),
    ("aps_set_size_90", _BEFORE, "classes in a set"),
    ("aps_coverage_90", _AFTER, "hold it, after %"),
    ("aps_set_size_90", _AFTER, "classes, after"),
)
"""Metric, calibration map and header. Before and after, the same rows are the surest ones of two
classes, and nearly the same of more."""


def sets_table(rows: pd.DataFrame) -> Table | None:
    """Return the table of one dataset; None where no run has been scored so.

    Args:
        rows: the dataset's test rows of `data.over_seeds`.
    """
    ordered = rows.sort_values(["accuracy_none", "model"], ascending=[False, True])
    built = [
        (
            Cell(row.model, row.model, link=f"models/{file_name(row.model)}.md"),
            *(_cell(row, METRICS[name], map_name) for name, map_name, _ in _COLUMNS),
        )
        for row in rows_of(ordered)
        if _is_known(row)
    ]
    if not built:
        return None
    columns = (
        Column(
            f"{name}_{map_name}",
            header,
            help=METRICS[name].title + ("" if name == "accuracy" else f", after {map_name}"),
        )
        for name, map_name, header in _COLUMNS
    )
    return Table((Column("model", "model", "left"), *columns), built)


def _is_known(row: Any) -> bool:
    """Say whether a run was scored when there were such metrics."""
    return not math.isnan(getattr(row, f"accuracy_at_90_{_BEFORE}", math.nan))


def _cell(row: Any, metric: Metric, map_name: str) -> Cell:
    column, unit = f"{metric.name}_{map_name}", metric.unit
    value, low, high = (getattr(row, column + end, math.nan) for end in ("", "_low", "_high"))
    why = getattr(row, f"{column}_no_interval", None)
    return Cell(estimate(value, low, high, unit.places, unit.scale, why), value)
