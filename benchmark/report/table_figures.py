"""The figure of a published table: calibration errors by mixer, a mark per family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim import when
from benchmark.markup import plural
from benchmark.report.figure_style import (
    MIXER_COLORS,
    Drawing,
    draw_marks,
    mixers_in,
    new_figure,
    styled,
    to_svg,
    use_log_axis,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SPREAD = 0.32
"""Half the height over which the marks of a mixer are strewn."""


@styled
def errors_by_mixer(
    families: pd.DataFrame, maps: Sequence[str], error: str, name: str
) -> Drawing | None:
    """Draw the error of each family, a line per mixer and a panel per calibration map.

    Args:
        families: a row per family and mixer with `mixer`, `family`, `models` and, in `error_<map>`,
            the geometric mean of its models' errors, as a fraction.
        maps: the calibration maps to show, in order.
        error: what the table calls its error.
        name: file name without suffix.

    Returns None where no family has a positive error.
    """
    values = families[[f"error_{map_name}" for map_name in maps]].to_numpy(float)
    shown = values[np.isfinite(values) & (values > 0)]
    if not len(shown):
        return None
    mixers = mixers_in(families["mixer"])
    figure, panels = new_figure(0.9 + 0.42 * len(mixers) * len(maps), len(maps), 1, sharex=True)
    for axes, map_name in zip(panels, maps, strict=True):
        _panel(axes, families, mixers, f"error_{map_name}")
        axes.set_title(f"{when_words(map_name)} temperature scaling", loc="left", fontsize=9)
    use_log_axis(panels[-1], 100 * shown)
    panels[-1].set_xlabel("calibration error of a family (percentage points, logarithmic)")
    models = plural(int(families["models"].sum()), "model")
    number = families["family"].nunique()
    count = plural(number, "family", "families")
    own = "" if number == len(families) else " and mixer"
    caption = (
        f"Calibration error by mixer: {models} of {count}, a mark each family{own}, the line their"
        " mean. How far families of one mixer lie apart is what a difference between mixers is"
        " judged by."
    )
    method = (
        f"{error[:1].upper() + error[1:]}, as published. A mark is the geometric mean of a family's"
        " models, the vertical line the geometric mean of a mixer's families, each counted once."
        " Nothing is adjusted for. Heights within a mixer mean nothing."
    )
    alt = f"Calibration error of {count} by mixer: {_means(families, mixers, maps[0])}."
    return Drawing(name, to_svg(figure), caption, alt, method)


def when_words(map_name: str) -> str:
    """Return Before or After."""
    return when("temperature" if map_name == "temperature" else "none").capitalize()


def _panel(axes: Axes, families: pd.DataFrame, mixers: Sequence[str], column: str) -> None:
    for position, mixer in enumerate(reversed(mixers)):
        errors = families.loc[families["mixer"] == mixer, column].to_numpy(float)
        errors = np.sort(errors[np.isfinite(errors) & (errors > 0)])
        # Neighbours in error lie apart in height, in turns that no pattern shows through.
        turns = (np.arange(len(errors)) * 0.618034) % 1
        heights = position + SPREAD * (2 * turns - 1)
        draw_marks(axes, 100 * errors, heights, [mixer] * len(errors), size=5, alpha=0.75)
        if len(errors):
            mean = 100 * float(np.exp(np.log(errors).mean()))
            ends = [position - 0.42, position + 0.42]
            axes.plot([mean] * 2, ends, color=MIXER_COLORS[mixer], linewidth=2.2, zorder=4)
    counts = families["mixer"].value_counts()
    labels = [f"{mixer} ({counts[mixer]})" for mixer in reversed(mixers)]
    axes.set_yticks(range(len(mixers)), labels)
    axes.set_ylim(-0.6, len(mixers) - 0.4)
    axes.grid(visible=False, axis="y")


def _means(families: pd.DataFrame, mixers: Sequence[str], map_name: str) -> str:
    """Say the mixers' means in words, for those who cannot see the figure."""
    logs = np.log(families[f"error_{map_name}"].where(families[f"error_{map_name}"] > 0))
    means = np.exp(logs.groupby(families["mixer"].astype(str)).mean())
    return ", ".join(f"{mixer} {100 * means[mixer]:.1f}" for mixer in mixers) + " points"
