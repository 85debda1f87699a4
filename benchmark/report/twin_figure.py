"""One figure of twins: calibration error against accuracy, a line from twin to twin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from benchmark.claim import when
from benchmark.markup import plural
from benchmark.report.figure_style import (
    Drawing,
    draw_marks,
    mixer_legend,
    new_figure,
    shorten,
    styled,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmark.claim import ClaimResult, TwinPoint

COLUMNS = 3
MAX_DATASETS = 9
"""More panels than this are not looked at; the claim's tables have all."""


@styled
def twin_lines(result: ClaimResult, name: str) -> Drawing | None:
    """Draw accuracy and calibration error of every pair, by dataset; None without twins."""
    points = result.twin_points
    datasets = sorted({point.dataset for point in points})[:MAX_DATASETS]
    if not datasets:
        return None
    columns = min(COLUMNS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    figure, panels = new_figure(0.6 + 2.6 * rows, rows, columns)
    for axes, dataset in zip(panels, datasets, strict=False):
        shown = [point for point in points if point.dataset == dataset]
        _panel(axes, shown, result.contrast)
        axes.set_title(shorten(dataset, 30), fontsize=10)
    for axes in panels[len(datasets) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("calibration error (pp)")
    for axes in panels[(rows - 1) * columns :]:
        axes.set_xlabel("accuracy (%)")
    mixer_legend(figure, result.contrast, [Line2D([], [], color="0.6", label="twins")])
    first = result.contrast[0]
    pairs = plural(len({point.pair for point in points}), "pair of twins", "pairs of twins")
    better = sum(point.errors[0] < point.errors[1] for point in points)
    caption = (
        f"Debiased calibration error {when(points[0].map)} temperature scaling against accuracy:"
        f" {pairs}, each line joins two models that differ in the mixer. A line that falls"
        f" towards {first} is a pair in which {first} is better calibrated: {better} of"
        f" {len(points)}. Seeds are averaged; an error below zero cannot be told from zero."
    )
    alt = f"{pairs}: {first} has the lower error in {better} of {len(points)} comparisons."
    return Drawing(name, to_svg(figure), caption, alt)


def _panel(axes: Axes, points: Sequence[TwinPoint], contrast: tuple[str, str]) -> None:
    accuracy = 100 * np.array([point.accuracies for point in points])
    error = 100 * np.array([point.errors for point in points])
    axes.plot(accuracy.T, error.T, color="0.6", linewidth=1, zorder=1)
    axes.axhline(0, color="0.4", linewidth=0.8, zorder=0)
    for side, mixer in enumerate(contrast):
        mixers = np.full(len(points), mixer)
        draw_marks(axes, accuracy[:, side], error[:, side], mixers, size=7, zorder=2)
