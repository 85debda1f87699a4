"""The figure of fitted temperatures by family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.markup import plural
from benchmark.report.data import UNKNOWN, rows_of
from benchmark.report.figure_style import (
    MIXER_COLORS,
    Drawing,
    draw_marks,
    mixer_legend,
    mixers_in,
    new_figure,
    short_names,
    styled,
    to_svg,
    use_log_axis,
)
from benchmark.report.figures import from_every_mixer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MAX_FAMILY_MARKS = 6
"""Temperatures of a family that are drawn one by one; of more, how they are spread."""


@styled
def temperature_by_family(table: pd.DataFrame, name: str) -> Drawing | None:
    """Draw the temperatures of each family, grouped by mixer: each, or where they are many a box.

    Temperatures at a bound (0 or infinity) are left out and counted. Returns None where no
    temperature of a known family is left.
    """
    known = table[table["temperature"].notna() & (table["family"] != UNKNOWN)]
    table = known[np.isfinite(known["temperature"]) & (known["temperature"] > 0)]
    if table.empty:
        return None
    bounds = len(known) - len(table)
    order = {mixer: index for index, mixer in enumerate(MIXER_COLORS)}
    counts = table.groupby(["mixer", "family"], observed=True).size().reset_index(name="models")
    shown = from_every_mixer(counts)
    shown = shown.sort_values(
        ["mixer", "family"], key=lambda c: c.map(order) if c.name == "mixer" else c, ascending=False
    )
    families = [(str(row.mixer), str(row.family)) for row in rows_of(shown)]
    figure, (axes,) = new_figure(1.3 + 0.28 * len(families))
    positions = {pair: position for position, pair in enumerate(families)}
    at = [positions.get((str(row.mixer), str(row.family)), -1) for row in rows_of(table)]
    drawn = table.assign(position=at)[np.array(at) >= 0]
    many = int(counts["models"].max()) > MAX_FAMILY_MARKS
    low, high = (_draw_boxes if many else _draw_temperatures)(axes, drawn)
    use_log_axis(axes, np.array([low, high]))
    axes.axvline(1, color="0.4", linewidth=1, zorder=0)
    labels = short_names([family for _, family in families])
    axes.set_yticks(range(len(families)), [labels[family] for _, family in families])
    axes.set_ylim(-0.6, len(families) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("temperature (logarithmic; over 1: the model was over-confident)")
    mixer_legend(figure, mixers_in(table["mixer"]))
    hidden = len(counts) - len(shown)
    more = f" {plural(hidden, 'more family', 'more families')} not drawn." if hidden else ""
    at_bound = f" {plural(bounds, 'temperature')} at a bound left out." if bounds else ""
    caption = (
        f"Fitted temperature by family: {plural(table['model'].nunique(), 'model')} on "
        f"{plural(table['dataset'].nunique(), 'dataset')}. At 1 scaling changes nothing."
    )
    method = f"Means over seeds. {_BOXES if many else _MARKS}.{more}{at_bound}"
    alt = f"Temperature of {plural(len(families), 'family', 'families')}, by mixer."
    return Drawing(name, to_svg(figure), caption, alt, method)


_MARKS = (
    "One mark a model and dataset (datasets from top to bottom, by name); bars: 95% interval from "
    "resampling the calibration rows"
)
_BOXES = (
    "Of a family's models on all datasets: the mark is the median, the thick line the middle half, "
    "the thin line the middle 95%; intervals of single temperatures are in the tables"
)


def _draw_temperatures(axes: Axes, table: pd.DataFrame) -> tuple[float, float]:
    """Draw the marks, datasets of a family below one another; return the range they need."""
    datasets = table.groupby("position")["dataset"]
    places = datasets.rank("dense") - 0.5
    heights = table["position"] - 0.6 * (places / datasets.transform("nunique") - 0.5)
    values, lows, highs = (
        table[name].to_numpy(float)
        for name in ("temperature", "temperature_low", "temperature_high")
    )
    known = np.isfinite(lows) & np.isfinite(highs) & (lows > 0)
    lows, highs = np.where(known, lows, values), np.where(known, highs, values)
    colors = [MIXER_COLORS[mixer] for mixer in table["mixer"]]
    axes.hlines(heights, lows, highs, colors=colors, linewidth=1.2)
    draw_marks(axes, values, heights, table["mixer"], size=5)
    return min(1.0, *lows), max(1.0, *highs)


def _draw_boxes(axes: Axes, table: pd.DataFrame) -> tuple[float, float]:
    """Draw median, middle half and middle 95% of each family; return the range they need."""
    groups = table.groupby(["position", "mixer"], observed=True)["temperature"]
    ends = groups.quantile(np.array([0.025, 0.25, 0.5, 0.75, 0.975])).unstack()
    heights = ends.index.get_level_values("position").to_numpy(float)
    mixers = ends.index.get_level_values("mixer")
    colors = [MIXER_COLORS[mixer] for mixer in mixers]
    least, lower, middle, upper, most = ends.to_numpy(float).T
    axes.hlines(heights, least, most, colors=colors, linewidth=1.2)
    axes.hlines(heights, lower, upper, colors=colors, linewidth=5, alpha=0.5)
    draw_marks(axes, middle, heights, mixers, size=6, zorder=3)
    return min(1.0, *least), max(1.0, *most)
