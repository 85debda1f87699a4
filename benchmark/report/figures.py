"""Figures of a report: frame -> SVG with caption and alternative text. Nothing here reads files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from benchmark.markup import plural
from benchmark.report.data import rows_of
from benchmark.report.figure_style import (
    ERROR_NAME,
    MIXER_COLORS,
    MIXER_MARKERS,
    MUTED,
    Drawing,
    draw_marks,
    mixer_legend,
    mixers_in,
    new_figure,
    short_names,
    shorten,
    styled,
    to_svg,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from benchmark.report.reliability import Reliability

MAX_ROWS = 30
"""Rows of a dumbbell figure; with more models than that, families are shown."""

MAX_LINES = 30
MAX_SHIFTS = 12


@styled
def dumbbell(table: pd.DataFrame, dataset: str, name: str) -> Drawing:
    """Draw ECE before and after temperature scaling, one line per model (or family).

    Args:
        table: rows of one dataset's test split from `data.over_seeds`.
        dataset: its name, for the title.
        name: file name without suffix.
    """
    table = table[table["ece_15_none"].notna() & table["ece_15_temperature"].notna()]
    rows, unit = _rows_that_fit(table)
    rows = rows.sort_values("ece_15_none", ascending=True)
    figure, (axes,) = new_figure(1.5 + 0.3 * len(rows))
    _draw_dumbbells(axes, rows)
    labels = short_names(rows["label"].astype(str))
    axes.set_yticks(range(len(rows)), [labels[str(label)] for label in rows["label"]])
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ECE, 15 equal-width bins (percentage points)")
    axes.set_title(f"{shorten(dataset, 60)}: ECE before and after temperature scaling", loc="left")
    extra = [
        Line2D([], [], color=MUTED, marker="o", linestyle="", label="before"),
        Line2D([], [], color=MUTED, marker="o", mfc="white", linestyle="", label="after"),
        Line2D([], [], color="0.85", marker="s", markersize=9, linestyle="", label="noise"),
    ]
    mixer_legend(figure, mixers_in(rows["mixer"]), extra)
    caption = (
        f"Expected calibration error (ECE) on {dataset}: filled before, hollow after temperature "
        "scaling. A hollow mark inside its grey bar is not told from perfect calibration."
    )
    method = (
        f"n = {_rows_text(table)} test rows, mean over seeds. The bar ends at the 95% point of "
        "what a perfectly calibrated model with the same confidences would show after scaling. "
        "ECE has no valid interval; the table gives the debiased error, which has. "
        f"{unit}"
    )
    falls = int((table["ece_15_temperature"] < table["ece_15_none"]).sum())
    alt = f"ECE on {dataset} falls after temperature scaling for {falls} of {len(table)} models."
    return Drawing(name, to_svg(figure), caption, alt, method.strip())


def _draw_dumbbells(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw a line a row, from its filled mark before to its hollow one after, over its noise."""
    heights = np.arange(len(rows))
    before, after = 100 * rows["ece_15_none"], 100 * rows["ece_15_temperature"]
    sns.barplot(
        x=100 * rows["ece_15_temperature_floor_q95"].to_numpy(float),
        y=heights,
        orient="h",
        native_scale=True,
        width=0.6,
        color="0.88",
        saturation=1,
        zorder=1,
        ax=axes,
    )
    colors = [MIXER_COLORS[mixer] for mixer in rows["mixer"]]
    axes.hlines(heights, before, after, colors=colors, linewidth=1.6, zorder=2)
    draw_marks(axes, before, heights, rows["mixer"], size=7, zorder=3)
    draw_marks(axes, after, heights, rows["mixer"], size=7, hollow=True, zorder=4)


def _rows_that_fit(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the table with a `label`; too many models are averaged within their families."""
    if len(table) <= MAX_ROWS:
        return table.assign(label=table["model"]), ""
    values = ["ece_15_none", "ece_15_temperature", "ece_15_temperature_floor_q95"]
    groups = table.groupby(["family", "mixer"], observed=True)
    families = groups[values].mean().assign(models=groups.size()).reset_index()
    largest = from_every_mixer(families)
    short = short_names(largest["family"].astype(str), 20)
    labels = [f"{short[str(f.family)]} ({f.models})" for f in rows_of(largest)]
    shown = f"{MAX_ROWS} of " if len(families) > MAX_ROWS else ""
    note = (
        f"With {len(table):,} models each line is the mean of a family, with its number of models "
        f"in brackets: {shown}{plural(len(families), 'family', 'families')}"
        f"{', the largest of every mixer in turn' if shown else ''}."
    )
    return largest.assign(label=labels), note


def from_every_mixer(families: pd.DataFrame) -> pd.DataFrame:
    """Return at most `MAX_ROWS` families, the largest of every mixer in turn."""
    ordered = families.sort_values(["models", "family"], ascending=[False, True])
    turn = ordered.groupby("mixer", observed=True).cumcount()
    return ordered.iloc[np.argsort(turn, kind="stable")[:MAX_ROWS]]


def _rows_text(table: pd.DataFrame) -> str:
    least, most = int(table["n"].min()), int(table["n"].max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


@styled
def under_shift(table: pd.DataFrame, name: str) -> Drawing | None:
    """Draw error after scaling against the severity of a shift, a line per model.

    Args:
        table: all splits from `data.over_seeds`; shifted ones are `<kind>-<severity>`.
        name: file name without suffix.

    Returns None where there is no shifted split.
    """
    error = "debiased_calibration_error_temperature"
    table = table[table[error].notna()]
    parts = table["split"].str.extract(r"^(?P<kind>.+)-(?P<severity>\d+)$")
    table = table.assign(kind=parts["kind"], severity=parts["severity"].astype(float))
    kinds = table[["dataset", "kind"]].dropna().drop_duplicates().sort_values(["dataset", "kind"])
    pairs = [(str(dataset), str(kind)) for dataset, kind in kinds.to_numpy()]
    if not pairs:
        return None
    shown = pairs[:MAX_SHIFTS]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, axes = new_figure(0.8 + 2.2 * lines, lines, columns)
    for spare in axes[len(shown) :]:
        spare.set_axis_off()
    titles = short_names([f"{dataset}: {kind}" for dataset, kind in shown])
    for spot, (dataset, kind) in zip(axes, shown, strict=False):
        rows = table[table["dataset"] == dataset]
        _shift_panel(spot, rows[(rows["split"] == "test") | (rows["kind"] == kind)], error)
        spot.set_title(titles[f"{dataset}: {kind}"], loc="left", fontsize=9)
    figure.supxlabel("severity of the shift (0: clean test rows)", fontsize=10)
    figure.supylabel("debiased error after (pp)", fontsize=10)
    mixer_legend(figure, mixers_in(table["mixer"]))
    models = table["model"].nunique()
    rest = len(pairs) - len(shown)
    more = f" {plural(rest, 'more shift')} not drawn." if rest else ""
    caption = (
        f"{ERROR_NAME.capitalize()} after temperature scaling on corrupted test rows, "
        f"{plural(models, 'model')}; the temperature is always fitted on clean rows."
    )
    method = (
        f"Mean over seeds. Thin lines: models (with more than {MAX_LINES}, shaded: the middle 80% "
        f"of a mixer's); thick: mean of a mixer's models.{more} Intervals are in tables/runs.csv."
    )
    alt = f"Calibration error after scaling against shift severity, {plural(models, 'model')}."
    return Drawing(name, to_svg(figure), caption, alt, method)


def _shift_panel(axes: Axes, rows: pd.DataFrame, error: str) -> None:
    rows = rows.assign(severity=rows["severity"].fillna(0), error=100 * rows[error])
    rows = rows.astype({"mixer": str, "model": str})
    mixers = mixers_in(rows["mixer"])
    line = partial(
        sns.lineplot,
        rows,
        x="severity",
        y="error",
        hue="mixer",
        hue_order=mixers,
        palette=MIXER_COLORS,
        legend=False,
        ax=axes,
    )
    crowded = rows["model"].nunique() > MAX_LINES
    if not crowded:
        line(units="model", estimator=None, linewidth=0.7, alpha=0.5)
    line(
        errorbar=("pi", 80) if crowded else None,
        err_kws={"alpha": 0.15},
        style="mixer",
        style_order=mixers,
        markers=MIXER_MARKERS,
        dashes=False,
        linewidth=2,
        markersize=5,
        markeredgewidth=0,
    )
    axes.set(xlabel="", ylabel="")
    axes.set_xticks(sorted(rows["severity"].unique()))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


@dataclass(frozen=True)
class ReliabilityPanel:
    """One model's reliability before and after temperature scaling."""

    title: str
    mixer: str
    n: int
    before: Reliability
    after: Reliability


@styled
def reliability_grid(
    panels: Sequence[ReliabilityPanel], dataset: str, models: int, name: str
) -> Drawing:
    """Draw reliability diagrams side by side, with consistency bands and counts.

    Args:
        panels: what is drawn.
        dataset: the dataset's name.
        models: how many models there are; the caption says when not all are drawn.
        name: file name without suffix.
    """
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = new_figure(0.7 + 2.05 * lines, lines, columns, sharex=True, sharey=True)
    titles = short_names([panel.title for panel in panels], 20)
    for panel, spot in zip(panels, axes, strict=False):
        _draw_reliability(spot, panel)
        spot.set_title(titles[panel.title], loc="left", fontsize=9)
    for spot in axes[len(panels) :]:
        spot.set_axis_off()
    for index, spot in enumerate(axes):
        # The last panel of each column carries the axis, also above an empty place.
        if index < len(panels) <= index + columns:
            spot.tick_params(labelbottom=True)
    figure.supxlabel("confidence (probability of the predicted class)", fontsize=10)
    figure.supylabel("share predicted right", fontsize=10)
    extra = [
        Line2D([], [], color=MUTED, marker="o", markersize=4, label="before"),
        Line2D([], [], color=MUTED, marker="o", markersize=4, mfc="white", ls=":", label="after"),
    ]
    mixer_legend(figure, mixers_in([panel.mixer for panel in panels]), extra)
    alt = f"Reliability diagrams of {plural(len(panels), 'model')} on {dataset}."
    caption, method = _about_reliability(panels, dataset, models)
    return Drawing(name, to_svg(figure), caption, alt, method)


def _about_reliability(
    panels: Sequence[ReliabilityPanel], dataset: str, models: int
) -> tuple[str, str]:
    """Return the caption and the method."""
    rows = sorted({panel.n for panel in panels})
    size = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    some = (
        f" {len(panels)} of {models:,} models, evenly spaced from the lowest calibration error to "
        "the highest."
        if len(panels) < models
        else ""
    )
    caption = (
        f"Reliability on {dataset}, solid before and dotted after temperature scaling: a point "
        f"below the diagonal is over-confident.{some}"
    )
    method = (
        f"n = {size} predictions a panel, seeds pooled. Grey band: where 95% of samples of this "
        "size would fall if the model before scaling were perfectly calibrated (binomial at the "
        "bin's mean confidence). Bars at the foot: share of rows per confidence bin before "
        "scaling. Bins with fewer than 5 rows are not drawn."
    )
    return caption, method


def _draw_reliability(axes: Axes, panel: ReliabilityPanel) -> None:
    color = MIXER_COLORS[panel.mixer]
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    share = panel.before.counts / max(1, panel.before.counts.sum())
    width = 1 / len(share)
    axes.bar(
        (np.arange(len(share)) + 0.5) * width, 0.25 * share, width * 0.9, color=color, alpha=0.3
    )
    enough = panel.before.counts >= 5
    x = panel.before.confidence[enough]
    axes.fill_between(
        x, panel.before.band_low[enough], panel.before.band_high[enough], color="0.85", linewidth=0
    )
    axes.plot(x, panel.before.accuracy[enough], "o-", color=color, markersize=3, linewidth=1.2)
    enough = panel.after.counts >= 5
    axes.plot(
        panel.after.confidence[enough],
        panel.after.accuracy[enough],
        "o:",
        color=color,
        markersize=3,
        markerfacecolor="white",
        linewidth=1.2,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(["0", ".5", "1"])
