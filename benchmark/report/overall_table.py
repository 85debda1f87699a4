"""One table of all models on all datasets for a paper: narrower than those of the pages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from benchmark.markup import MISSING, Cell, Column, Table, decimals, plural
from benchmark.report.data import UNKNOWN, rows_of
from benchmark.report.tabulation import supported_best

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    Column("model", "model", "left"),
    Column("mixer", "mixer", "left"),
    Column("accuracy", "accuracy %"),
    Column("nll", "NLL"),
    Column("ece", "ECE pp"),
    Column("debiased_before", "debiased before"),
    Column("debiased_after", "debiased after"),
    Column("temperature", "T"),
    Column("p50_ms", "p50 ms"),
)
MAY_BE_UNKNOWN = ("mixer", "p50_ms")
"""Columns that are left out where no model has them, as of imported logits."""

CAPTION = (
    "Means over seeds{spread}; brackets hold 95% intervals over test rows; before and after are "
    "those of temperature scaling, the arrow leads from one to the other. NLL: after scaling, "
    "nats. ECE: 15 equal-width bins, and debiased: debiased calibration error, in percentage "
    "points; < its upper limit where it is not told from 0. T: temperature. p50: median latency of "
    "one row{disturbed}. Bold: best, where its interval is clear of every other model's."
)


def overall_table(table: pd.DataFrame) -> tuple[Table, dict[int, str]]:
    """Return the table, most accurate model of a dataset first, and what stands above each block.

    Args:
        table: test rows of `data.over_seeds`.

    Returns:
        The table; by the position of a dataset's first row, the dataset and its test rows.
    """
    rows: list[tuple[Cell, ...]] = []
    groups = {}
    for dataset, own in table.groupby("dataset", observed=True):
        groups[len(rows)] = f"{dataset} ({int(own['n'].max()):,} test rows)"
        best = {(column, model) for column, model in supported_best(own)}
        ordered = own.sort_values(["accuracy_none", "model"], ascending=[False, True])
        rows += [_cells(row, best) for row in rows_of(ordered)]
    kept = [
        place
        for place, column in enumerate(COLUMNS)
        if column.key not in MAY_BE_UNKNOWN
        or any(row[place].text not in (MISSING, UNKNOWN) for row in rows)
    ]
    picked = [tuple(row[place] for place in kept) for row in rows]
    return Table(tuple(COLUMNS[place] for place in kept), picked), groups


def caption(table: pd.DataFrame) -> str:
    """Return the words above it; arguments as of `overall_table`."""
    several = bool((table["seeds"] > 1).any())
    disturbed = bool(table["timing_reasons"].astype(bool).any())
    words = CAPTION.format(
        spread=", ± is the standard deviation over seeds" if several else "",
        disturbed=", ! where the timing was disturbed" if disturbed else "",
    )
    counts = (
        plural(table["model"].nunique(), "model"),
        plural(table["dataset"].nunique(), "data set"),
        plural(int(table["seeds"].max()), "seed"),
    )
    return f"Calibration: {', '.join(counts)}. {words}"


def _cells(row: Any, best: set[tuple[str, str]]) -> tuple[Cell, ...]:
    def is_best(column: str) -> bool:
        return (column, row.model) in best

    spread = "" if math.isnan(row.accuracy_none_sd) else f" ± {100 * row.accuracy_none_sd:.1f}"
    ece = f"{decimals(100 * row.ece_15_none, 2)} → {decimals(100 * row.ece_15_temperature, 2)}"
    slow = decimals(row.latency_p50_ms, 2)
    return (
        Cell(str(row.model)),
        Cell(str(row.mixer)),
        Cell(f"{decimals(100 * row.accuracy_none, 1)}{spread}", bold=is_best("accuracy_none")),
        Cell(decimals(row.nll_temperature, 3), bold=is_best("nll_temperature")),
        Cell(ece),
        _error(row, "debiased_calibration_error_none", best),
        _error(row, "debiased_calibration_error_temperature", best),
        Cell(decimals(row.temperature, 2)),
        Cell(f"{slow} !" if row.timing_reasons and slow != MISSING else slow),
    )


def _error(row: Any, column: str, best: set[tuple[str, str]]) -> Cell:
    """Show an error in points with its interval, or below which limit it lies."""
    value, low, high = (100 * getattr(row, column + end) for end in ("", "_low", "_high"))
    bold = (column, row.model) in best
    if math.isnan(low) or math.isnan(high):
        return Cell(decimals(value, 2), bold=bold)
    if value < low or value <= 0:
        return Cell(f"< {decimals(high, 2)}", bold=bold)
    return Cell(f"{decimals(value, 2)} ({decimals(low, 2)}, {decimals(high, 2)})", bold=bold)
