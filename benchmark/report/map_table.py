"""Would more than a temperature help? Scores after none, temperature and the best other map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.markup import MISSING, Cell, Column, Table, decimals, file_name, interval, plural
from benchmark.report.data import MAP_METRICS, MAPS, rows_of
from benchmark.statistics import MAPS as ALL_MAPS
from benchmark.statistics import METRICS

if TYPE_CHECKING:
    import pandas as pd

OTHERS = tuple(name for name in ALL_MAPS if name not in MAPS)

NOT_FITTED = (
    "Of these runs no map but the temperature is known: they were scored before there were others. "
    "Delete their record.json and run again: the cached logits are scored anew in seconds."
)


def best_other_map(row: Any) -> str | None:
    """Return the map with the least cross-validated NLL, none and temperature aside.

    Args:
        row: of `data.over_seeds`, as a named tuple.
    """
    losses = {name: getattr(row, f"cross_validated_nll_{name}", math.nan) for name in OTHERS}
    known = {name: loss for name, loss in losses.items() if not math.isnan(loss)}
    return min(known, key=lambda name: known[name], default=None)


class MapFindings(NamedTuple):
    """What other maps win on one dataset: a sentence for a user, and the table behind it."""

    sentence: str
    table: Table


def map_findings(rows: pd.DataFrame) -> MapFindings | None:
    """Return what one dataset's runs gain by other maps; None where none has been scored so.

    Args:
        rows: one dataset's test rows of `data.over_seeds`.
    """
    ordered = rows.sort_values(["accuracy_none", "model"], ascending=[False, True])
    built = [_cells(row, best) for row in rows_of(ordered) if (best := best_other_map(row))]
    if not built:
        return None
    metrics = [METRICS[name] for name in MAP_METRICS]
    columns = (
        Column("model", "model", "left"),
        *(
            Column(
                metric.name,
                f"{metric.label} {metric.unit.name}".strip(),
                help=f"{metric.title}, after none → temperature → the best other map",
            )
            for metric in metrics
        ),
        Column("best_other_map", "best other map", "left", "by cross-validated NLL"),
        Column("finding", "against the temperature", "left", "NLL of the test rows"),
    )
    return MapFindings(
        _sentence(sum(line[-1].bold for line in built), len(built)), Table(columns, built)
    )


def _sentence(winners: int, models: int) -> str:
    if not winners:
        return "Temperature is enough: no other map wins anything on the test rows."
    kind = "error is not of the kind that one number mends"
    if winners == models:
        return f"Another map wins for every model: the {kind}."
    return (
        f"For {winners} of {plural(models, 'model')} another map wins: their {kind}. "
        "For the others temperature is enough."
    )


def _cells(row: Any, best: str) -> tuple[Cell, ...]:
    cells = [Cell(row.model, row.model, link=f"models/{file_name(row.model)}.md")]
    for name in MAP_METRICS:
        unit = METRICS[name].unit
        values = [getattr(row, f"{name}_{map_name}") for map_name in (*MAPS, best)]
        # A debiased error can fall below 0 by chance; without room for its interval it is cut.
        shown = [decimals(unit.scale * max(value, 0.0), unit.places) for value in values]
        cells.append(Cell(" → ".join(shown), values[-1]))
    return (*cells, Cell(ALL_MAPS[best].title), _finding(row, best))


def _finding(row: Any, best: str) -> Cell:
    """Say in words whether the best other map beats the temperature on the test rows."""
    gain, low, high = (
        getattr(row, f"nll_{best}_gain{end}", math.nan) for end in ("", "_low", "_high")
    )
    title = ALL_MAPS[best].title
    if math.isnan(low) or math.isnan(high):
        reason = getattr(row, f"nll_{best}_gain_no_interval", None)
        return Cell(reason if isinstance(reason, str) else MISSING)
    if high < 0:
        return Cell(f"{title} wins {-gain:.3f} nats {interval(-high, -low, 3)}", -gain, bold=True)
    if low > 0:
        return Cell(f"temperature wins {gain:.3f} nats {interval(low, high, 3)}", -gain)
    return Cell("temperature is enough", -gain)
