"""Which model to take: one joined row per model, the front, what is flagged, and one sentence.

The terminal, README.md, index.html and the JSON document all show what `choose` returns. What the
columns and rules mean: docs/choosing.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark.markup import plural
from benchmark.report.choice_advice import LATENCY_NOISE, advise
from benchmark.report.choice_flags import Flag, find_flags
from benchmark.report.data import UNKNOWN, ReportData, over_seeds, rows_of

if TYPE_CHECKING:
    import pandas as pd

Map = Literal["none", "temperature"]
Standing = Literal["front", "dominated", "chance level", "incomplete"]


class Figure(NamedTuple):
    """A number with the ends of its 95% interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def clearly_below(self, other: Figure) -> bool:
        """Say whether this interval lies wholly below the other; without both, it does not."""
        return self.high < other.low


@dataclass(frozen=True)
class Candidate:
    """One model's row: means over the seeds, then over the datasets that it was scored on.

    Attributes:
        model: its name.
        mixer: how it mixes tokens or pixels.
        family: of its architecture.
        datasets: those it was scored on.
        missing: datasets of the group that it was not scored on.
        seeds: fewest runs behind a dataset's mean.
        maps: by dataset, the best map by the calibration rows, see `best_map`.
        temperatures: by dataset, the mean fitted temperature, whether or not it is the best map.
        accuracy: share right.
        nll: nats, after the best map.
        error: debiased calibration error after the best map, a share of 1; below 0 by chance.
        error_before: the same without a map.
        gap: confidence minus accuracy after the best map, a share of 1.
        p50_ms: median latency of one row at a time; NaN: not timed.
        throughput: rows a second; NaN: not timed.
        parameters: of the model; NaN: unknown.
        rank: mean over its datasets of its rank by NLL after the best map; 1 is best.
        standing: on the front of accuracy, latency and calibration, or why not.
        dominated_by: a model that is better in one of the three and in none clearly worse.
        flags: kinds of what is flagged of it.
    """

    model: str
    mixer: str
    family: str
    datasets: tuple[str, ...]
    missing: tuple[str, ...]
    seeds: int
    maps: Mapping[str, Map]
    temperatures: Mapping[str, float]
    accuracy: Figure
    nll: Figure
    error: Figure
    error_before: Figure
    gap: Figure
    p50_ms: float
    throughput: float
    parameters: float
    rank: float
    standing: Standing = "front"
    dominated_by: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def on_front(self) -> bool:
        """Whether no other model is clearly better in one respect and in none clearly worse."""
        return self.standing == "front"

    @property
    def applied(self) -> dict[str, float]:
        """The temperatures to apply, by dataset: where scaling is the best map."""
        return {d: t for d, t in self.temperatures.items() if self.maps[d] == "temperature"}


@dataclass(frozen=True)
class Group:
    """Models that can be compared: those that share datasets, directly or through others.

    Attributes:
        title: such as "text: bbc-sentences".
        modality: of its models; `UNKNOWN` where records do not say or differ.
        datasets: sorted.
        candidates: complete ones first, then by rank, accuracy and name.
        advice: which model to take and what to apply to it, in one sentence.
        best: the model that the sentence names; None where there is none to name.
    """

    title: str
    modality: str
    datasets: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    advice: str
    best: str | None


@dataclass(frozen=True)
class Choice:
    """What the first screen says to whoever must choose a model.

    Attributes:
        groups: by modality and dataset; empty where no run has scores.
        flags: all that a reader must know before trusting a row, by kind.
        maps_by: how the best map was chosen.
    """

    groups: tuple[Group, ...] = ()
    flags: tuple[Flag, ...] = ()
    maps_by: str = ""
    datasets: tuple[str, ...] = field(default=())

    @property
    def advice(self) -> tuple[str, ...]:
        """One sentence a group."""
        return tuple(group.advice for group in self.groups)


def choose(data: ReportData) -> Choice:
    """Return the joined table, the front, the flags and the advice of one suite's runs.

    Nothing is chosen by looking at the test rows: the best map is the one of none and temperature
    with the lower cross-validated NLL on the calibration rows, averaged over seeds.

    Args:
        data: From `read_suite`; its shifted test sets are left aside.
    """
    runs = data.in_distribution
    if runs.empty:
        return Choice()
    table = over_seeds(runs)
    table = table.assign(best_map=[best_map(row) for row in rows_of(table)])
    table["rank"] = _after(table, "nll").groupby(table["dataset"], observed=True).rank()
    flags = find_flags(data, table)
    groups = tuple(_group(part, flags) for part in _components(table))
    return Choice(
        groups=tuple(sorted(groups, key=lambda group: (group.modality, group.datasets))),
        flags=flags,
        maps_by=_maps_by(table),
        datasets=tuple(sorted(map(str, table["dataset"].unique()))),
    )


def best_map(row: Any) -> Map:
    """Return the better map by cross-validated NLL on calibration rows; unknown: temperature.

    A temperature that has no interval rests on too few calibration rows, and is not taken.

    Args:
        row: of `data.over_seeds`, as a named tuple.
    """
    if isinstance(row.temperature_no_interval, str):
        return "none"
    before = getattr(row, "cross_validated_nll_none", math.nan)
    after = getattr(row, "cross_validated_nll_temperature", math.nan)
    return "none" if before <= after else "temperature"


def _maps_by(table: pd.DataFrame) -> str:
    column = "cross_validated_nll_temperature"
    unknown = len(table) if column not in table else int(table[column].isna().sum())
    if unknown == len(table):
        return "temperature scaling everywhere: these runs have no cross-validated NLL to choose by"
    rule = "none or temperature, by cross-validated NLL on the calibration rows"
    lacking = f"; temperature where there is none ({plural(unknown, 'row')})"
    return rule + (lacking if unknown else "")


def _after(table: pd.DataFrame, metric: str, end: str = "") -> pd.Series[float]:
    """Return a metric after each row's best map."""
    scaled = table[f"{metric}_temperature{end}"].astype(float)
    return scaled.where(table["best_map"] == "temperature", table[f"{metric}_none{end}"])


# --- who can be compared ------------------------------------------------------------------------


def _components(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each set of models that share datasets, directly or through others."""
    label = {str(dataset): str(dataset) for dataset in table["dataset"]}
    for _, rows in table.groupby("model", observed=True):
        merged = {label[str(dataset)] for dataset in rows["dataset"]}
        kept = min(merged)
        label = {dataset: kept if own in merged else own for dataset, own in label.items()}
    keys = table["dataset"].map(lambda dataset: label[str(dataset)])
    return [rows for _, rows in table.groupby(keys, observed=True)]


def _group(rows: pd.DataFrame, flags: Sequence[Flag]) -> Group:
    datasets = tuple(sorted(map(str, rows["dataset"].unique())))
    modalities = set(rows["modality"])
    modality = str(modalities.pop()) if len(modalities) == 1 else UNKNOWN
    found = [
        _candidate(str(model), own, datasets, flags)
        for model, own in rows.groupby("model", observed=True)
    ]
    placed = sorted(
        place_on_front(found),
        key=lambda c: (bool(c.missing), c.rank, -c.accuracy.value, c.model),
    )
    advice = advise(placed)
    named = ", ".join(datasets[:3]) + (f" and {len(datasets) - 3} more" if datasets[3:] else "")
    title = named if modality == UNKNOWN else f"{modality}: {named}"
    return Group(title, modality, datasets, tuple(placed), advice.sentence, advice.best)


def _candidate(
    model: str, rows: pd.DataFrame, datasets: Sequence[str], flags: Sequence[Flag]
) -> Candidate:
    first = rows.iloc[0]
    names = [str(dataset) for dataset in rows["dataset"]]
    kinds = dict.fromkeys(flag.kind for flag in flags if flag.model == model)
    seconds_a_row = (1 / rows["throughput"].astype(float)).mean(skipna=False)
    return Candidate(
        model=model,
        mixer=str(first["mixer"]),
        family=str(first["family"]),
        datasets=tuple(names),
        missing=tuple(dataset for dataset in datasets if dataset not in names),
        seeds=int(rows["seeds"].min()),
        maps=dict(zip(names, rows["best_map"], strict=True)),
        temperatures=dict(zip(names, rows["temperature"].astype(float), strict=True)),
        accuracy=_mean(rows, "accuracy"),
        nll=_mean(rows, "nll"),
        error=_mean(rows, "debiased_calibration_error", rooted=True),
        error_before=_mean(rows.assign(best_map="none"), "debiased_calibration_error", rooted=True),
        gap=_mean(rows, "signed_gap"),
        p50_ms=float(rows["latency_p50_ms"].astype(float).mean(skipna=False)),
        throughput=float(1 / seconds_a_row),
        parameters=float(rows["parameters"].astype(float).max()),
        rank=float(rows["rank"].mean()),
        flags=tuple(kinds),
    )


def _mean(rows: pd.DataFrame, metric: str, *, rooted: bool = False) -> Figure:
    """Average a metric and its ends over datasets; errors by their signed squares.

    The mean of the ends takes the datasets' errors as fully correlated, so it is conservative.
    """
    ends = []
    for end in ("", "_low", "_high"):
        values = _after(rows, metric, end).to_numpy(float)
        signed = values * abs(values) if rooted else values
        mean = float(signed.mean())
        ends.append(math.copysign(math.sqrt(abs(mean)), mean) if rooted else mean)
    return Figure(*ends)


# --- the front ----------------------------------------------------------------------------------


def place_on_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates, each with its standing.

    A model is dominated if another is clearly better in accuracy, latency or calibration and in
    none of them clearly worse. Clearly: intervals do not overlap, medians differ by more than
    `LATENCY_NOISE`. So a model is not on the front for a difference that is noise.
    """
    everyone = list(candidates)
    eligible = [c for c in everyone if not c.missing and "chance level" not in c.flags]
    dominators = {c.model: _dominator(c, eligible) for c in eligible}
    if all(dominators.values()):  # "clearly better" can run in a circle: then nobody is beaten
        dominators = dict.fromkeys(dominators)
    placed = []
    for one in everyone:
        standing: Standing = "dominated" if dominators.get(one.model) else "front"
        if one.missing:
            standing = "incomplete"
        elif one.model not in dominators:
            standing = "chance level"
        placed.append(replace(one, standing=standing, dominated_by=dominators.get(one.model)))
    return placed


def _dominator(one: Candidate, others: Iterable[Candidate]) -> str | None:
    """Return the most accurate model that dominates this one, or None."""
    found = [other for other in others if dominates(other, one)]
    best = max(found, key=lambda other: (other.accuracy.value, other.model), default=None)
    return None if best is None else best.model


def dominates(first: Candidate, second: Candidate) -> bool:
    """Say whether the first is clearly better in one respect and in none clearly worse."""
    if math.isnan(first.p50_ms) and not math.isnan(second.p50_ms):
        return False  # nobody knows that it is not slower
    better = (
        second.accuracy.clearly_below(first.accuracy),
        first.error.clearly_below(second.error),
        first.p50_ms * LATENCY_NOISE < second.p50_ms,
    )
    worse = (
        first.accuracy.clearly_below(second.accuracy),
        second.error.clearly_below(first.error),
        second.p50_ms * LATENCY_NOISE < first.p50_ms,
    )
    return any(better) and not any(worse)
