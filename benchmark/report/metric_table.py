"""Every metric that records hold, for one model: a row each, derived from the metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmark.markup import Cell, Column, Table, estimate
from benchmark.report.data import MAPS
from benchmark.statistics import METRICS, Metric

if TYPE_CHECKING:
    import pandas as pd


def metric_table(row: pd.Series[float]) -> Table:
    """Return the table of all metrics after none and after temperature scaling.

    Args:
        row: of `records.average_seeds`: one model on one split.
    """
    columns = (
        Column("metric", "metric", "left"),
        *(Column(name, title) for name, title in zip(MAPS, ("before", "after"), strict=True)),
        Column("unit", "unit", "left"),
        Column("name", "in tables/runs.csv", "left"),
    )
    rows = [
        (
            Cell(metric.title),
            *(_shown(row, metric, map_name) for map_name in MAPS),
            Cell(metric.unit.name),
            Cell(f"{metric.name}_<map>"),
        )
        for metric in METRICS.values()
        if not math.isnan(row.get(f"{metric.name}_none", math.nan))
        or isinstance(row.get(f"{metric.name}_none_no_interval"), str)
    ]
    return Table(columns, rows)


def _shown(row: pd.Series[float], metric: Metric, map_name: str) -> Cell:
    column, scale, places = f"{metric.name}_{map_name}", metric.unit.scale, metric.unit.places
    value, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
    why = row.get(f"{column}_no_interval")
    return Cell(estimate(value, low, high, places, scale, why=why), value)
