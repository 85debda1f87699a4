"""Where temperature scaling makes a model worse on the test rows, beyond noise, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.markup import decimals
from benchmark.records import ResultsError, RunFolder, read_split
from benchmark.report.data import rows_of
from benchmark.statistics import METRICS

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.statistics import Estimate

LEAST = {"nll": 0.01, "debiased_calibration_error": 0.005}
"""By metric, what a difference must come to to be told: nats, and half a percentage point. A
temperature near 1 changes all rows alike, so that far less is beyond noise, and of no matter."""


class _Worse(NamedTuple):
    """A metric that is worse after scaling: a mean difference over seeds with its interval."""

    metric: str
    difference: float
    low: float
    high: float


def harm(row: Any, runs: pd.DataFrame, *, reads_logits: bool) -> str:
    """Return what temperature scaling makes worse, with figures; empty: nothing beyond noise.

    What is worse on average by at least `LEAST` is judged in pairs of the same test rows, with the
    temperature as it was fitted, and intervals averaged over seeds. Without logits, or with too
    many runs to read them, only what is so much worse that the two intervals do not overlap is
    told.

    Args:
        row: a model on a dataset, of `over_seeds`, as a named tuple.
        runs: its runs, one row a seed.
        reads_logits: whether the report reads the logits of every run.
    """
    suspects = [m for m, least in LEAST.items() if _after(row, m) - _before(row, m) >= least]
    if not suspects:
        return ""
    effects = _effects(runs) if reads_logits else None
    if effects is None:
        worse = [metric for metric in suspects if _apart(row, metric)]
        return _sentence(row, [(metric, "") for metric in worse])
    judged = [_judge(metric, effects[metric]) for metric in suspects]
    return _sentence(row, [(one.metric, _difference(one)) for one in judged if one.low > 0])


def before_and_after(row: Any, metric: str) -> str:
    """Return a metric before and after scaling, such as '7.50 → 17.10 pp'."""
    unit = METRICS[metric].unit
    ends = (_before(row, metric), _after(row, metric))
    told = " → ".join(decimals(unit.scale * end, unit.places) for end in ends)
    return f"{told} {unit.name}".strip()


def _before(row: Any, metric: str) -> float:
    return float(getattr(row, f"{metric}_none"))


def _after(row: Any, metric: str) -> float:
    return float(getattr(row, f"{metric}_temperature"))


def _apart(row: Any, metric: str) -> bool:
    low = float(getattr(row, f"{metric}_temperature_low"))
    return low > float(getattr(row, f"{metric}_none_high"))


def _effects(runs: pd.DataFrame) -> dict[str, list[Estimate]] | None:
    """Return by metric what the temperature does to each run; None where logits are not there."""
    from benchmark.statistics import scaling_effect

    found = []
    for run in rows_of(runs):
        try:
            test = read_split(RunFolder(Path(run.folder)), "test")
            found.append(scaling_effect(test.logits, test.labels, float(run.temperature)))
        except (OSError, ResultsError, ValueError):
            return None
    return {
        "nll": [effect.nll for effect in found],
        "debiased_calibration_error": [effect.error for effect in found],
    }


def _judge(metric: str, effects: list[Estimate]) -> _Worse:
    def mean(values: Iterator[float | None]) -> float:
        known = [math.nan if value is None else value for value in values]
        return sum(known) / len(known)

    return _Worse(
        metric,
        mean(effect.value for effect in effects),
        mean(effect.low for effect in effects),
        mean(effect.high for effect in effects),
    )


def _difference(worse: _Worse) -> str:
    unit = METRICS[worse.metric].unit
    low, high = (decimals(unit.scale * end, unit.places) for end in (worse.low, worse.high))
    what = (
        "of the difference" if worse.metric == "nll" else "of the root of the squares' difference"
    )
    return f" (95% {what} {low} to {high})"


def _sentence(row: Any, worse: list[tuple[str, str]]) -> str:
    if not worse:
        return ""
    told = [
        f"{METRICS[metric].title} {before_and_after(row, metric)}{difference}"
        for metric, difference in worse
    ]
    return f"T = {decimals(row.temperature, 2)} makes it worse: {', '.join(told)}"
