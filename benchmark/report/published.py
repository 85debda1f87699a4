"""Figures of an earlier publication beside ours, and why the temperatures differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.markup import MISSING, Cell, Column, Table, decimals, file_name, interval, plural
from benchmark.records import ResultsError, RunFolder, read_split
from benchmark.registry import Published, did_you_mean
from benchmark.report.drawings import Asked, Drawings
from benchmark.report.figure_style import MIXER_COLORS, MUTED, Drawing, new_figure, styled, to_svg
from benchmark.statistics import (
    METRICS,
    StochasticFit,
    TemperatureFit,
    fit_by_gradient_descent,
    fit_temperature,
    log_probabilities,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from benchmark.records import LogitsSplit
    from benchmark.report.data import ReportData

PLACES = 4
"""Decimals of every figure here: a publication seldom has more."""

CLOSE = 0.05
"""A fit that ends within this share of the way from 1 to the optimum has reached it."""


@dataclass(frozen=True)
class PublishedSection:
    """One publication's figures beside those of our runs."""

    title: str
    sentences: tuple[str, ...]
    metrics: Table | None = None
    temperatures: Table | None = None
    asked: Asked | None = None

    @property
    def drawing(self) -> Drawing | None:
        """How the publication's fit went on our rows."""
        return None if self.asked is None else self.asked.drawing


@dataclass(frozen=True)
class RepeatedFit:
    """A run's temperature fitted exactly, and again as the publication fitted its own.

    Attributes:
        split: the calibration split.
        exact: the optimum.
        descent: the publication's way.
        descent_nll: mean negative log-likelihood where that ended, nats; NaN if it ran off.
    """

    split: LogitsSplit
    exact: TemperatureFit
    descent: StochasticFit
    descent_nll: float

    @property
    def share(self) -> float:
        """Share of the way from T = 1 to the optimum that the publication's fit covers."""
        way = self.exact.temperature - 1
        return (self.descent.temperature - 1) / way if way else math.nan


def published_sections(
    data: ReportData, published: Sequence[Published], drawings: Drawings
) -> list[PublishedSection]:
    """Return a section for each publication."""
    return [_section(data, entry, drawings) for entry in published]


def _section(data: ReportData, entry: Published, drawings: Drawings) -> PublishedSection:
    title = f"{entry.model} on {entry.dataset}"
    scored = data.in_distribution
    runs = scored[(scored["model"] == entry.model) & (scored["dataset"] == entry.dataset)]
    opening = [f"Source: {entry.source}.", *([_sentence(entry.note)] if entry.note else [])]
    if runs.empty:
        return PublishedSection(title, (*opening, "No run of ours has completed."))
    opening.append(f"Ours: {plural(len(runs), 'run')}, {_splits_text(data, runs)}.")
    fits, unreadable = _repeated_fits(runs, entry)
    return PublishedSection(
        title,
        (*opening, *_unknown_metrics(entry), *unreadable, *_why_sentences(entry, runs, fits)),
        metrics=_metric_table(entry, runs),
        temperatures=_temperature_table(entry, runs, fits),
        asked=drawings.ask(_draw, entry, fits[0]) if fits else None,
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _splits_text(data: ReportData, runs: pd.DataFrame) -> str:
    return f"{int(runs['n'].max()):,} test rows, in {data.relative(runs['folder'].iloc[0])}" + (
        "" if len(runs) == 1 else " and beside it; means over seeds"
    )


def _unknown_metrics(entry: Published) -> list[str]:
    named = dict.fromkeys([*entry.before, *entry.after])
    told = "The registry names a metric that records do not hold"
    return [
        f"{told}: '{name}'{did_you_mean(name, METRICS)}" for name in named if name not in METRICS
    ]


# --- tables ---------------------------------------------------------------------------------------


def _metric_table(entry: Published, runs: pd.DataFrame) -> Table | None:
    names = dict.fromkeys([*entry.before, *entry.after])
    if not names:
        return None
    columns = (
        Column("metric", "metric", "left"),
        Column("published_before", "published before"),
        Column("ours_before", "ours before"),
        Column("published_after", "published after"),
        Column("ours_after", "ours after"),
    )
    rows = [
        (
            Cell(name),
            _figure(entry.before.get(name)),
            _ours(runs, f"{name}_none"),
            _figure(entry.after.get(name)),
            _ours(runs, f"{name}_temperature"),
        )
        for name in names
    ]
    return Table(columns, rows)


def _temperature_table(
    entry: Published, runs: pd.DataFrame, fits: Sequence[RepeatedFit]
) -> Table | None:
    if entry.temperature is None:
        return None
    columns = (
        Column("how", "temperature", "left"),
        Column("temperature", "T"),
        Column("nll", "NLL, our calibration rows"),
    )
    rows = [
        (Cell("published"), _figure(entry.temperature), Cell(MISSING)),
        (
            Cell("ours: the optimum"),
            _ours(runs, "temperature"),
            _figure(_mean([fit.exact.nll_after for fit in fits])),
        ),
    ]
    if fits:
        rows.append(
            (
                Cell(f"ours, fitted as published: {_how(entry)}"),
                _figure(_mean([fit.descent.temperature for fit in fits])),
                _figure(_mean([fit.descent_nll for fit in fits])),
            )
        )
    return Table(columns, rows)


def _figure(value: float | None) -> Cell:
    return Cell(decimals(value, PLACES), value)


def _ours(runs: pd.DataFrame, column: str) -> Cell:
    """Return the mean over seeds with the mean of the seeds' 95% bounds."""
    if column not in runs:
        return Cell(MISSING)
    low, high = (
        float(runs[name].mean()) if name in runs else math.nan
        for name in (f"{column}_low", f"{column}_high")
    )
    value = float(runs[column].mean())
    bounds = f" {interval(low, high, PLACES)}" if math.isfinite(low + high) else ""
    return Cell(decimals(value, PLACES) + bounds, value)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _how(entry: Published) -> str:
    fit = entry.temperature_fit
    assert fit is not None
    return (
        f"{plural(fit.epochs, 'epoch')} of SGD from T = 1, batch {fit.batch_size}, "
        f"learning rate {fit.learning_rate:g}"
    )


# --- the temperature's fit, repeated --------------------------------------------------------------


def _repeated_fits(runs: pd.DataFrame, entry: Published) -> tuple[list[RepeatedFit], list[str]]:
    """Repeat the publication's fit on every run's calibration logits; say what cannot be read."""
    if entry.temperature_fit is None:
        return [], []
    fits, problems = [], []
    for folder in runs["folder"]:
        try:
            fits.append(_repeat(read_split(RunFolder(Path(folder)), "calibration"), entry))
        except ResultsError as error:
            problems.append(f"The temperature's fit could not be repeated: {error}")
    return fits, problems


def _repeat(split: LogitsSplit, entry: Published) -> RepeatedFit:
    assert entry.temperature_fit is not None
    descent = fit_by_gradient_descent(
        split.logits, split.labels, **entry.temperature_fit.model_dump()
    )
    return RepeatedFit(
        split,
        fit_temperature(split.logits, split.labels),
        descent,
        calibration_nll(split, descent.temperature),
    )


def calibration_nll(split: LogitsSplit, temperature: float) -> float:
    """Return the mean negative log-likelihood at a temperature, nats; NaN at none above 0."""
    if not temperature > 0:
        return math.nan
    return -float(
        log_probabilities(split.logits, temperature)[
            np.arange(len(split.labels)), split.labels
        ].mean()
    )


def _why_sentences(
    entry: Published, runs: pd.DataFrame, fits: Sequence[RepeatedFit]
) -> tuple[str, ...]:
    """Say whether the publication's way of fitting explains its temperature."""
    if entry.temperature is None or not fits:
        return ()
    optimum = float(runs["temperature"].mean())
    reached = float(np.mean([fit.descent.temperature for fit in fits]))
    share = float(np.mean([fit.share for fit in fits]))
    cost = float(np.mean([fit.descent_nll - fit.exact.nll_after for fit in fits]))
    if not math.isfinite(optimum + reached + share):
        return ("On our logits the publication's way of fitting has no end to compare with.",)
    outcome = _outcome(share)
    sentences = [
        f"Why T differs: on our logits {_how(entry)} {outcome} T = {decimals(reached, PLACES)}, "
        f"where the optimum is {decimals(optimum, PLACES)}, which costs {cost:.2g} nats."
    ]
    if abs(share - 1) <= CLOSE:
        sentences.append(
            f"So how T was fitted does not explain why {entry.temperature:g} was published: other "
            "weights and rows do."
        )
    else:
        sentences.append(
            f"The published T lies {_by(entry.temperature - optimum)} our optimum: the way of "
            f"fitting alone puts it {_by(reached - optimum)}, other weights and rows "
            f"{_by(entry.temperature - reached)} that."
        )
    return tuple(sentences)


def _by(difference: float) -> str:
    return f"{decimals(abs(difference), PLACES)} {'above' if difference > 0 else 'below'}"


def _outcome(share: float) -> str:
    if abs(share - 1) <= CLOSE:
        return "reaches the optimum: it ends at"
    if share < 0:
        return "goes the other way, to"
    if share > 1:
        return f"goes too far ({share:.0%} of the way from 1 to the optimum), to"
    return f"stops early, after {share:.0%} of the way from 1 to the optimum: at"


# --- figure ---------------------------------------------------------------------------------------


@styled
def _draw(entry: Published, fit: RepeatedFit) -> Drawing | None:
    """Draw the fit's way over its epochs, and where on the curve of the loss it ends."""
    assert entry.temperature_fit is not None
    optimum, reached = fit.exact.temperature, fit.descent.temperature
    marks = [value for value in (1.0, reached, optimum, entry.temperature) if value is not None]
    if not all(math.isfinite(value) and value > 0 for value in marks):
        return None
    figure, (way, loss) = new_figure(3.3, 1, 2)
    _draw_way(way, entry, fit)
    _draw_loss(loss, fit, min(marks), max(marks))
    name = f"published-{file_name(entry.model)}-{file_name(entry.dataset)}"
    caption = (
        f"Left: temperature during {_how(entry)}, on the {fit.exact.n_rows:,} calibration rows of "
        f"our first run of {entry.model} on {entry.dataset}; dashed: the optimum of these rows, "
        f"{decimals(optimum, PLACES)}"
        + (f"; dotted: the published T, {entry.temperature:g}" if entry.temperature else "")
        + f". Right: mean negative log-likelihood of these rows against T; hollow: where the fit "
        f"ends, {decimals(reached, PLACES)}; filled: the optimum."
    )
    alt = f"SGD ends at T = {decimals(reached, 3)}, the optimum is {decimals(optimum, 3)}."
    return Drawing(name, to_svg(figure), caption, alt)


def _draw_way(axes: Axes, entry: Published, fit: RepeatedFit) -> None:
    epochs = np.arange(len(fit.descent.path)) / fit.descent.steps_per_epoch
    axes.plot(epochs, fit.descent.path, color=MIXER_COLORS["attention"], linewidth=1.6)
    optimum = fit.exact.temperature
    axes.axhline(optimum, color="0.1", linestyle="--", linewidth=1.2)
    published = optimum if entry.temperature is None else entry.temperature
    if entry.temperature is not None:
        axes.axhline(published, color=MUTED, linestyle=":", linewidth=1.6)
        _name_line(axes, "published", published, above=published > optimum)
    _name_line(axes, "optimum", optimum, above=published <= optimum)
    axes.set_xlabel("epoch")
    axes.set_ylabel("temperature")
    axes.margins(y=0.12)
    axes.set_title("Fitted by stochastic gradient descent", loc="left")


def _name_line(axes: Axes, name: str, height: float, *, above: bool) -> None:
    side = "bottom" if above else "top"
    where = axes.get_yaxis_transform()
    axes.text(0.03, height, name, transform=where, va=side, fontsize=9, color="0.2")


def _draw_loss(axes: Axes, fit: RepeatedFit, least: float, most: float) -> None:
    margin = max(0.1 * (most - least), 0.02)
    grid = np.linspace(max(least - margin, 0.5 * least), most + margin, 81)
    axes.plot(grid, [calibration_nll(fit.split, t) for t in grid], color="0.35", linewidth=1.6)
    color = MIXER_COLORS["attention"]
    ends = (fit.descent.temperature, fit.descent_nll)
    hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.6}
    axes.plot(*ends, "o", color=color, markersize=8, label="end of SGD", **hollow)
    optimum = (fit.exact.temperature, fit.exact.nll_after)
    axes.plot(*optimum, "o", color=color, markersize=8, label="optimum")
    axes.legend(loc="upper center", fontsize=9, frameon=False)
    axes.set_xlabel("temperature")
    axes.set_ylabel("NLL (nats)")
    axes.set_title("Where it ends", loc="left")
