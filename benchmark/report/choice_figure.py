"""The figure of the first screen: accuracy, latency and calibration, with the front named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from benchmark.markup import plural
from benchmark.report.figure_style import (
    MIXER_COLORS,
    MUTED,
    Drawing,
    draw_marks,
    label_points,
    mixer_legend,
    mixers_in,
    new_figure,
    short_names,
    styled,
    to_svg,
    use_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmark.report.choice import Candidate, Choice, Figure, Group

MAX_GROUPS = 3
"""Groups that are drawn: those with most models."""

PANEL_WIDTH, PANEL_HEIGHT = 3.1, 1.9
"""Inches."""


class _Spot(NamedTuple):
    """A model's place in one panel."""

    candidate: Candidate
    x: float
    y: Figure


@styled
def front_figure(choice: Choice, name: str) -> Drawing | None:
    """Draw accuracy and calibration error after the best map against latency, a column per group.

    A group without any timing has one panel, of error against accuracy. Models at chance level
    are left out: they would set the scale of all others.

    Args:
        choice: of `choose`.
        name: file name without suffix.

    Returns None where no group has two models to choose from.
    """
    groups = [group for group in choice.groups if len(_drawn(group)) > 1]
    shown = sorted(groups, key=lambda group: -len(group.candidates))[:MAX_GROUPS]
    shown = [group for group in groups if group in shown]
    if not shown:
        return None
    width = max(PANEL_WIDTH * len(shown), 1.8 * PANEL_WIDTH)
    figure, axes = new_figure(2 * PANEL_HEIGHT + 0.5, 2, len(shown), width=width)
    titles = short_names([group.title for group in shown], 13 * round(width / len(shown)))
    panels = []
    for column, group in enumerate(shown):
        top, bottom = axes[column], axes[len(shown) + column]
        top.set_title(titles[group.title], loc="left", fontsize=9)
        panels += _draw_group(group, top, bottom)
    drawn = [candidate for group in shown for candidate in _drawn(group)]
    extra = [
        Line2D([], [], color=MUTED, marker="o", linestyle="", label="on the front"),
        Line2D([], [], color="0.75", marker="o", ms=4, linestyle="", label="not"),
    ]
    mixer_legend(figure, mixers_in([candidate.mixer for candidate in drawn]), extra, columns=4)
    figure.draw_without_rendering()
    for panel, spots in panels:
        _name_front(panel, spots)
    return _described(name, to_svg(figure), choice, shown, drawn)


def _drawn(group: Group) -> list[Candidate]:
    """Return the models that have a place in the group's panels."""
    timed = any(not math.isnan(candidate.p50_ms) for candidate in group.candidates)
    return [
        candidate
        for candidate in group.candidates
        if candidate.standing != "chance level"
        and not (timed and math.isnan(candidate.p50_ms))
        and not math.isnan(candidate.error.value)
    ]


def _draw_group(group: Group, top: Axes, bottom: Axes) -> list[tuple[Axes, list[_Spot]]]:
    drawn = _drawn(group)
    bottom.set_ylabel("error (pp)")
    if all(math.isnan(candidate.p50_ms) for candidate in drawn):
        top.set_axis_off()
        spots = [_Spot(one, 100 * one.accuracy.value, one.error) for one in drawn]
        _draw_panel(bottom, spots)
        bottom.set_xlabel("accuracy (%)")
        return [(bottom, spots)]
    above = [_Spot(one, one.p50_ms, one.accuracy) for one in drawn]
    below = [_Spot(one, one.p50_ms, one.error) for one in drawn]
    for panel, spots in ((top, above), (bottom, below)):
        use_log_axis(panel, np.array([spot.x for spot in spots]))
        _draw_panel(panel, spots)
    top.set_ylabel("accuracy (%)")
    bottom.set_xlabel("median latency (ms)")
    return [(top, above), (bottom, below)]


def _draw_panel(axes: Axes, spots: Sequence[_Spot]) -> None:
    """Draw the front strong, with its intervals, and the others faint."""
    for on_front, size, alpha in ((False, 4, 0.5), (True, 7, 1.0)):
        own = [spot for spot in spots if spot.candidate.on_front == on_front]
        if not own:
            continue
        x, y = [spot.x for spot in own], [_points(spot.y.value) for spot in own]
        mixers = [spot.candidate.mixer for spot in own]
        if on_front:
            colors = [MIXER_COLORS[mixer] for mixer in mixers]
            lows, highs = zip(*(_ends(spot.y) for spot in own), strict=True)
            axes.vlines(x, lows, highs, colors=colors, linewidth=1.2)
        draw_marks(axes, x, y, mixers, size=size, alpha=alpha)
    axes.margins(y=0.12)


def _points(share: float) -> float:
    """Return a share in points; an error that is below 0 by chance is drawn at 0."""
    return 100 * max(share, 0.0)


def _ends(figure: Figure) -> tuple[float, float]:
    ends = (figure.low, figure.high)
    known = not any(math.isnan(end) for end in ends)
    low, high = ends if known else (figure.value, figure.value)
    return _points(low), _points(high)


def _name_front(axes: Axes, spots: Sequence[_Spot]) -> None:
    ordered = sorted(spots, key=lambda spot: not spot.candidate.on_front)
    front = [spot for spot in ordered if spot.candidate.on_front]
    heights = [_points(spot.y.value) for spot in ordered]
    # The others have no bars, only marks.
    ends = [_ends(spot.y) for spot in front] + [(y, y) for y in heights[len(front) :]]
    label_points(
        axes,
        [spot.x for spot in ordered],
        heights,
        [spot.candidate.model for spot in front] + [""] * (len(ordered) - len(front)),
        [end[0] for end in ends],
        [end[1] for end in ends],
        limit=24,
        insist=len(front),
    )


def _described(
    name: str, svg: str, choice: Choice, shown: Sequence[Group], drawn: Sequence[Candidate]
) -> Drawing:
    front = [candidate.model for candidate in drawn if candidate.on_front]
    caption = (
        f"Upper left of the top row and lower left of the bottom row are better. On the front, of "
        f"{plural(len(drawn), 'model')}: {', '.join(front[:8])}"
        f"{f' and {len(front) - 8} more' if front[8:] else ''}. No model is clearly better than "
        "one of these in accuracy, latency or calibration and clearly worse in none."
    )
    models = sum(len(group.candidates) for group in choice.groups)
    rest = (
        f" Not drawn: {plural(models - len(drawn), 'model')} at chance level, without timing, or "
        f"of other groups than the {plural(len(shown), 'group')} shown."
        if models > len(drawn)
        else ""
    )
    method = (
        "Error: debiased calibration error after the best map, in percentage points (pp). Means "
        "over seeds and datasets; bars: 95% interval over test rows. Clearly: the intervals do "
        f"not overlap, the latencies differ by more than a timing may drift.{rest}"
    )
    alt = f"Accuracy and calibration error against latency; {len(front)} models on the front."
    return Drawing(name, svg, caption, alt, method)
