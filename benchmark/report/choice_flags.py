"""What must be known before a row of the choosing table is trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from benchmark.markup import decimals, percent, plural
from benchmark.report.data import ReportData, rows_of
from benchmark.report.scaling_harm import before_and_after, harm

if TYPE_CHECKING:
    import pandas as pd

FlagKind = Literal[
    "chance level",
    "scaling hurts",
    "temperature at a limit",
    "too few calibration rows",
    "disturbed timing",
]
KINDS: tuple[FlagKind, ...] = get_args(FlagKind)

_LIMITS = {
    "at_zero": "is at its limit 0: sharper logits always fit the calibration rows better",
    "at_infinity": "is at its limit \N{INFINITY}: on the calibration rows the logits help nobody",
    "flat": "has no optimum: the logits are constant",
}


@dataclass(frozen=True)
class Flag:
    """One thing to know of one model on one dataset."""

    kind: FlagKind
    model: str
    dataset: str
    text: str


def find_flags(data: ReportData, table: pd.DataFrame) -> tuple[Flag, ...]:
    """Return all flags, by kind, then model and dataset.

    Args:
        data: the suite's runs.
        table: its unshifted test rows of `over_seeds`.
    """
    runs = {
        (str(model), str(dataset)): rows
        for (model, dataset), rows in data.in_distribution.groupby(
            ["model", "dataset"], observed=True
        )
    }
    reads_logits = data.reads_logits  # a walk over all runs: not once more for every row
    found = []
    for row in rows_of(table):
        own = runs[row.model, row.dataset]
        texts: tuple[tuple[FlagKind, str], ...] = (
            ("chance level", _chance(row, data.majority.get(row.dataset, math.nan))),
            ("scaling hurts", harm(row, own, reads_logits=reads_logits)),
            ("temperature at a limit", _limit(own)),
            ("too few calibration rows", _few_rows(row, own)),
            ("disturbed timing", _disturbed(row)),
        )
        found += [Flag(kind, row.model, row.dataset, text) for kind, text in texts if text]
    return tuple(sorted(found, key=lambda flag: (KINDS.index(flag.kind), flag.model, flag.dataset)))


def _chance(row: Any, majority: float) -> str:
    """Say that the accuracy's interval includes what the most frequent class alone gives."""
    low = row.accuracy_none_low
    if not low <= majority:
        return ""
    told = "is below" if row.accuracy_none_high < majority else "is not told from"
    bounds = f"{percent(low)} to {percent(row.accuracy_none_high)}"
    return (
        f"accuracy {percent(row.accuracy_none)} ({bounds}) {told} always answering the most "
        f"frequent class, {percent(majority)}"
    )


def _limit(runs: pd.DataFrame) -> str:
    bad = runs[runs["temperature_status"].isin(list(_LIMITS))]
    if bad.empty:
        return ""
    return f"T {_LIMITS[bad['temperature_status'].iloc[0]]}{_of_seeds(bad, runs)}"


def _few_rows(row: Any, runs: pd.DataFrame) -> str:
    bad = runs[runs["temperature_no_interval"].notna()]
    if bad.empty:
        return ""
    count = getattr(row, "calibration_rows", math.nan)
    rows = "" if math.isnan(count) else f" from {plural(int(count), 'calibration row')}"
    reason = bad["temperature_no_interval"].iloc[0]
    temperature = decimals(float(bad["temperature"].iloc[0]), 2)
    worse = row.debiased_calibration_error_temperature > row.debiased_calibration_error_none
    change = before_and_after(row, "debiased_calibration_error")
    doubt = f"; debiased error on the test rows {change}" if worse else ""
    return f"T = {temperature}{rows} has no interval: {reason}{_of_seeds(bad, runs)}{doubt}"


def _disturbed(row: Any) -> str:
    first, *others = row.timing_reasons.split("; ") if row.timing_reasons else ("",)
    return f"{first} (and {len(others)} more)" if others else first


def _of_seeds(some: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return which seeds, where not all of several."""
    if len(some) == len(runs):
        return ""
    return f" (seed {', '.join(str(seed) for seed in sorted(some['seed']))})"


def by_kind(flags: tuple[Flag, ...]) -> Iterator[tuple[FlagKind, tuple[Flag, ...]]]:
    """Yield each kind that there is with its flags, the most serious kind first."""
    for kind in KINDS:
        some = tuple(flag for flag in flags if flag.kind == kind)
        if some:
            yield kind, some
