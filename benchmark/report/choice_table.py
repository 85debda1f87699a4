"""The choosing table as cells, for pages and the terminal, and as JSON values for machines."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from benchmark.markup import Cell, Column, Table, compact, decimals, file_name, percent, plural
from benchmark.report.choice import Candidate, Choice, Figure, Group
from benchmark.statistics import METRICS

COLUMNS = (
    Column("model", "model", "left", "name in the registry"),
    Column("accuracy", "accuracy", help="share right"),
    Column("nll", "NLL", help="negative log-likelihood after the best map, nats"),
    Column("error", "error pp", help="debiased calibration error after the best map"),
    Column("gap", "gap pp", help="confidence minus accuracy after the best map"),
    Column("map", "map", "left", "best by cross-validated NLL on the calibration rows"),
    Column("p50_ms", "p50 ms", help="median latency of one row at a time"),
    Column("throughput", "rows/s", help="best offline throughput"),
    Column("parameters", "params", help="parameters of the model"),
    Column("rank", "rank", help="by NLL after the best map; mean over datasets; 1 is best"),
    Column("standing", "front", "left", "of accuracy, latency and calibration"),
)
"""All columns of the choosing table; a narrow terminal shows fewer."""

FLAGGED = " !"
"""Ends the name of a model that has a flag."""

MAY_BE_UNKNOWN = ("p50_ms", "throughput", "parameters")
"""Columns that are left out where no model has them, as of imported logits."""

LEAST_NEEDED = ("gap", "parameters", "throughput", "map", "rank")
"""Columns that a narrow terminal goes without, in this order."""


def choosing_table(group: Group) -> Table:
    """Return a group's table, a row per model, best first, without columns that nobody has."""
    rows = [_cells(one, group.best) for one in group.candidates]
    kept = [
        place
        for place, column in enumerate(COLUMNS)
        if column.key not in MAY_BE_UNKNOWN
        or any(not math.isnan(getattr(one, column.key)) for one in group.candidates)
    ]
    return Table(
        tuple(COLUMNS[place] for place in kept),
        [tuple(row[place] for place in kept) for row in rows],
    )


def _cells(one: Candidate, best: str | None) -> tuple[Cell, ...]:
    link = f"models/{file_name(one.model)}.md"
    flag = FLAGGED if one.flags else ""
    return (
        Cell(f"{one.model}{flag}", one.model, one.model == best, link),
        Cell(percent(one.accuracy.value), one.accuracy.value),
        Cell(_shown(one.nll, "nll"), one.nll.value),
        Cell(_error(one.error), one.error.value),
        Cell(_gap(one.gap), one.gap.value),
        Cell(_map(one)),
        Cell(decimals(one.p50_ms, 2), one.p50_ms),
        Cell(compact(one.throughput), one.throughput),
        Cell(compact(one.parameters), one.parameters),
        Cell(f"{one.rank:.1f}{'*' if one.missing else ''}", one.rank),
        Cell(_standing(one), one.standing),
    )


def _shown(figure: Figure, metric: str) -> str:
    unit = METRICS[metric].unit
    return decimals(unit.scale * figure.value, unit.places)


def _error(error: Figure) -> str:
    """Return the error in points; an estimate below its own interval is not told from 0."""
    unit = METRICS["debiased_calibration_error"].unit
    if error.value < 0 or error.value < error.low:
        high = decimals(unit.scale * error.high, unit.places)
        return "~0" if math.isnan(error.high) else f"<{high}"
    return decimals(unit.scale * error.value, unit.places)


def _gap(gap: Figure) -> str:
    return "+" * (gap.value > 0) + _shown(gap, "signed_gap")


def _map(one: Candidate) -> str:
    applied = sorted(one.applied.values())
    if not applied:
        return "none"
    if len(one.datasets) == 1:
        return f"T = {decimals(applied[0], 2)}"
    least, most = decimals(applied[0], 2), decimals(applied[-1], 2)
    ends = f"T = {least}" if least == most else f"T {least}-{most}"
    return ends + (
        f" ({len(applied)}/{len(one.datasets)})" if len(applied) < len(one.datasets) else ""
    )


def _standing(one: Candidate) -> str:
    if one.standing == "dominated":
        return ""
    if one.standing == "incomplete":
        return f"lacks {plural(len(one.missing), 'dataset')}"
    return one.standing


def as_json(choice: Choice) -> dict[str, Any]:
    """Return what a choice says as JSON values; what is not known is null.

    Keys: docs/choosing.md.
    """
    groups = [
        {
            **_group_facts(group),
            "models": [asdict(one) | {"applied": one.applied} for one in group.candidates],
        }
        for group in choice.groups
    ]
    found = {
        "maps_by": choice.maps_by,
        "groups": groups,
        "flags": [asdict(flag) for flag in choice.flags],
    }
    cleaned: dict[str, Any] = _without_nan(found)
    return cleaned


def _group_facts(group: Group) -> dict[str, Any]:
    names = ("title", "modality", "datasets", "advice", "best")
    return {name: getattr(group, name) for name in names}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Figure):
        return {name: _without_nan(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"  # as records write it
    return None if isinstance(value, float) and math.isnan(value) else value
