"""The cross-model tables of a report, from the frame averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.markup import (
    MISSING,
    Cell,
    Column,
    Table,
    compact,
    decimals,
    estimate,
    file_name,
    percent,
)
from benchmark.report.data import MAPS, SHOWN, UNKNOWN, rows_of
from benchmark.statistics import METRICS, Debiased, Influence, Share

if TYPE_CHECKING:
    import pandas as pd

Row = Any
"""A named tuple of `data.rows_of`: its fields are the columns of `over_seeds`."""

_NOTHING = (MISSING, UNKNOWN)
"""A column in which no row says more is left out: imports have neither speed nor memory."""

Best = frozenset[tuple[str, str]]
"""(column, model) pairs that stand out."""


class Measure(NamedTuple):
    """A column that can have a best model."""

    column: str
    higher_is_better: bool


MEASURES = tuple(
    Measure(f"{metric.name}_{map_name}", metric.better == "higher")
    for metric in (METRICS[name] for name in SHOWN)
    if metric.better in ("higher", "lower")
    and isinstance(metric.interval, Share | Influence | Debiased)
    for map_name in MAPS
)
"""Measures with a valid interval. ECE has none, and latency is not compared by interval."""


def supported_best(rows: pd.DataFrame) -> Best:
    """Return which model is best at what, where the intervals leave no doubt.

    A model stands out if its interval, stretched over all its seeds, lies wholly on the better
    side of every other model's. This is stricter than a paired test on the same rows.

    Args:
        rows: one dataset's rows of `data.over_seeds`.
    """
    found = set()
    for column, higher in MEASURES:
        least, most = f"{column}_least", f"{column}_most"
        if least not in rows or len(rows) < 2:
            continue
        known = rows[rows[least].notna() & rows[most].notna()]
        if len(known) < 2 or len(known) < rows[column].notna().sum():
            continue
        ordered = known.sort_values(least if higher else most, ascending=not higher)
        best, rest = ordered.iloc[0], ordered.iloc[1:]
        clear = best[least] > rest[most].max() if higher else best[most] < rest[least].min()
        if clear:
            found.add((column, str(best["model"])))
    return frozenset(found)


class _Field(NamedTuple):
    """One column of a table and how its cell is made from a row."""

    column: Column
    cell: Callable[[Row, Best], Cell]


def _text(name: str) -> Callable[[Row, Best], Cell]:
    return lambda row, best: Cell(str(getattr(row, name)), str(getattr(row, name)))


def _model(row: Row, best: Best) -> Cell:
    return Cell(row.model, row.model, link=f"models/{file_name(row.model)}.md")


def _parameters(row: Row, best: Best) -> Cell:
    return Cell(compact(row.parameters), row.parameters)


def _accuracy(row: Row, best: Best) -> Cell:
    spread = row.accuracy_none_sd
    text = percent(row.accuracy_none)
    if not math.isnan(spread):
        text = f"{text} ± {100 * spread:.1f}"
    return Cell(text, row.accuracy_none, ("accuracy_none", row.model) in best)


def _before_after(metric: str, places: int, scale: float = 1) -> Callable[[Row, Best], Cell]:
    def cell(row: Row, best: Best) -> Cell:
        before = getattr(row, f"{metric}_none")
        after = getattr(row, f"{metric}_temperature")
        text = f"{decimals(scale * before, places)} → {decimals(scale * after, places)}"
        bold = (f"{metric}_temperature", row.model) in best
        return Cell(text, after, bold)

    return cell


def _noise(row: Row, best: Best) -> Cell:
    floor = row.ece_15_none_floor_mean
    return Cell(decimals(100 * floor, 2), floor)


def _with_interval(column: str, places: int, scale: float = 1) -> Callable[[Row, Best], Cell]:
    def cell(row: Row, best: Best) -> Cell:
        value, low, high = (getattr(row, column + end) for end in ("", "_low", "_high"))
        text = estimate(value, low, high, places, scale, why=getattr(row, f"{column}_no_interval"))
        return Cell(text, value, (column, row.model) in best)

    return cell


def _direction(row: Row, best: Best) -> Cell:
    """Say whether confidence exceeds accuracy, as far as the interval of the gap allows."""
    low, high = row.signed_gap_none_low, row.signed_gap_none_high
    if math.isnan(low) or math.isnan(high):
        reason = row.signed_gap_none_no_interval
        return Cell(reason if isinstance(reason, str) else MISSING, None)
    text = "over" if low > 0 else "under" if high < 0 else "unclear"
    return Cell(text, row.signed_gap_none)


def _latency(row: Row, best: Best) -> Cell:
    if math.isnan(row.latency_p50_ms):
        return Cell(MISSING, None)
    flag = " ⚠" if row.timing_reasons else ""
    p90 = decimals(row.latency_p90_ms, 2)
    return Cell(f"{decimals(row.latency_p50_ms, 2)} / {p90}{flag}", row.latency_p50_ms)


def _compact(name: str) -> Callable[[Row, Best], Cell]:
    return lambda row, best: Cell(compact(getattr(row, name)), getattr(row, name))


def _memory(row: Row, best: Best) -> Cell:
    return Cell(decimals(row.peak_memory_mb, 0), row.peak_memory_mb)


def _seeds(row: Row, best: Best) -> Cell:
    return Cell(str(row.seeds), row.seeds)


_MODEL = _Field(Column("model", "model", "left", "name in the registry"), _model)
_MIXER = _Field(
    Column("mixer", "mixer", "left", "what mixes information between positions"), _text("mixer")
)
QUALITY_FIELDS = (
    _MODEL,
    _MIXER,
    _Field(
        Column("accuracy", "accuracy", help="share right; ± is over seeds", by="the mean"),
        _accuracy,
    ),
    _Field(
        Column("ece", "ECE %", help="15 equal-width bins, before → after scaling", by="after"),
        _before_after("ece_15", 2, 100),
    ),
    _Field(
        Column("noise", "noise %", help="ECE that perfect calibration would show, before"), _noise
    ),
    _Field(
        Column(
            "debiased_before",
            "debiased % before",
            help="debiased error (95% interval)",
            by="the estimate",
        ),
        _with_interval("debiased_calibration_error_none", 2, 100),
    ),
    _Field(
        Column(
            "debiased_after",
            "debiased % after",
            help="the same after temperature scaling",
            by="the estimate",
        ),
        _with_interval("debiased_calibration_error_temperature", 2, 100),
    ),
    _Field(
        Column("temperature", "T", help="temperature (95% interval)", by="the estimate"),
        _with_interval("temperature", 2),
    ),
    _Field(
        Column(
            "confidence",
            "confidence",
            "left",
            "over or under accuracy, before scaling",
        ),
        _direction,
    ),
)
DETAIL_FIELDS = (
    _MODEL,
    _Field(Column("family", "family", "left", "architecture paper"), _text("family")),
    _Field(Column("parameters", "parameters", help="all weights"), _parameters),
    _Field(
        Column("nll", "NLL", help="negative log-likelihood (nats), before → after", by="after"),
        _before_after("nll", 3),
    ),
    _Field(
        Column("brier", "Brier", help="summed over classes (0 to 2), before → after", by="after"),
        _before_after("brier", 3),
    ),
    _Field(
        Column("latency_ms", "p50 / p90 ms", help="one row at a time; ⚠ unstable", by="p50"),
        _latency,
    ),
    _Field(Column("throughput", "rows/s", help="best batch size"), _compact("throughput")),
    _Field(Column("peak_memory_mb", "memory MB", help="peak, process or device"), _memory),
    _Field(Column("seeds", "seeds", help="runs averaged"), _seeds),
)


def _build(rows: pd.DataFrame, fields: Sequence[_Field]) -> Table:
    best = supported_best(rows)
    ordered = rows.sort_values(["accuracy_none", "model"], ascending=[False, True])
    cells = [[field.cell(row, best) for field in fields] for row in rows_of(ordered)]
    told = [k for k in range(len(fields)) if any(row[k].text not in _NOTHING for row in cells)]
    return Table(
        tuple(fields[k].column for k in told), [tuple(row[k] for k in told) for row in cells]
    )


def quality_table(rows: pd.DataFrame) -> Table:
    """Return one dataset's calibration table, most accurate model first.

    Args:
        rows: one dataset's test rows of `data.over_seeds`.
    """
    return _build(rows, QUALITY_FIELDS)


def detail_table(rows: pd.DataFrame) -> Table:
    """Return one dataset's table of likelihoods, speed and memory, in the same order."""
    return _build(rows, DETAIL_FIELDS)
