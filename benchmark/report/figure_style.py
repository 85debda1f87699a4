"""The look of every figure: palette, size, legend, labels, and SVG that never changes by itself."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from benchmark.markup import compact
from benchmark.report.data import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORBLIND = sns.color_palette("colorblind")
MIXER_COLORS = {
    "attention": _COLORBLIND[0],
    "convolution": _COLORBLIND[3],
    "hybrid": _COLORBLIND[2],
    "mlp": _COLORBLIND[4],
    "other": (0.35, 0.35, 0.35),
    UNKNOWN: (0.6, 0.6, 0.6),
}
MIXER_MARKERS = {
    "attention": "o",
    "convolution": "s",
    "hybrid": "D",
    "mlp": "^",
    "other": "X",
    UNKNOWN: "P",
}
MUTED = "0.45"
WIDTH = 7.2
"""Inches. Figures are shown at this size or smaller, so their text stays readable."""

MAX_PANELS = 9
"""Datasets that get a panel in a figure across datasets."""

ERROR_NAME = "debiased calibration error"

STYLE: dict[Any, Any] = {
    **sns.plotting_context("paper"),
    **sns.axes_style("ticks"),
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "lines.markersize": 6,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "patch.force_edgecolor": False,
    # Text as paths looks the same everywhere; the salt makes element names reproducible.
    "svg.fonttype": "path",
    "svg.hashsalt": "calibration-benchmark",
    # A dollar sign in a family's name is a dollar sign, not mathematics.
    "text.parse_math": False,
}
styled = mpl.rc_context(STYLE)
"""Decorator of every function that draws: what is made outside of it has another look."""


@dataclass(frozen=True)
class Drawing:
    """A figure with the text that goes with it.

    Attributes:
        name: file name without suffix.
        svg: the figure as SVG text, the same for the same data.
        caption: what to see and of how many models, in a sentence or two; plain text.
        alt: one line for readers who cannot see the figure; plain text.
        method: what every mark is and how intervals were made, for a fold; plain text.
    """

    name: str
    svg: str
    caption: str
    alt: str
    method: str = ""


def to_svg(figure: Figure) -> str:
    """Render a figure as SVG text without date or random names."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"-?\d+\.\d{3,}", lambda number: _rounded(number[0]), text)
    return text[text.index("<svg") :]


def _rounded(number: str) -> str:
    """Round a coordinate to a hundredth of a point, and a factor below 1 to five digits."""
    value = float(number)
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.5g}"


def new_figure(
    height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options: Any
) -> tuple[Figure, Sequence[Axes]]:
    """Return an empty figure of that size (inches) and its axes, flat, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def mixers_in(values: Iterable[str]) -> list[str]:
    """Return the mixers present, in the order every legend uses."""
    present = set(values)
    return [mixer for mixer in MIXER_COLORS if mixer in present]


def mixer_legend(
    figure: Figure, mixers: Sequence[str], extra: Sequence[Line2D] = (), columns: int = 8
) -> None:
    """Put one legend of the mixers (and of `extra` marks) above the figure's panels."""
    handles = [
        Line2D([], [], color=MIXER_COLORS[m], marker=MIXER_MARKERS[m], linestyle="", label=m)
        for m in mixers
    ]
    figure.legend(
        handles=[*handles, *extra],
        loc="outside upper left",
        ncols=columns,
        handletextpad=0.4,
        handlelength=1.6,
        columnspacing=1.2,
    )


def draw_marks(
    axes: Axes, x: Any, y: Any, mixers: Any, *, size: float, hollow: bool = False, **options: Any
) -> None:
    """Draw one mark per point, with the colour and shape of its mixer.

    Args:
        axes: where to draw.
        x: [n] horizontal positions, in data units.
        y: [n] vertical positions.
        mixers: [n] what gives each mark its look.
        size: of the marks, points.
        hollow: draw outlines on white.
        options: passed on to the collection of marks, such as `alpha` or `zorder`.
    """
    x, y, mixers = np.asarray(x, float), np.asarray(y, float), np.asarray(mixers, str)
    # Mixer by mixer: an SVG draws marks of one look in half the bytes.
    for mixer in mixers_in(mixers):
        own = mixers == mixer
        sns.scatterplot(
            x=x[own],
            y=y[own],
            color="white" if hollow else MIXER_COLORS[mixer],
            marker=MIXER_MARKERS[mixer],
            s=size**2,
            linewidth=1.6 if hollow else 1,
            edgecolor=MIXER_COLORS[mixer],
            ax=axes,
            **options,
        )


def shorten(text: str, limit: int = 26) -> str:
    """Return `text` cut to `limit` characters with an ellipsis in the middle."""
    if len(text) <= limit:
        return text
    keep = limit - 1
    return f"{text[: math.ceil(keep / 2)]}…{text[len(text) - keep // 2 :]}"


def short_names(names: Iterable[str], limit: int = 26) -> dict[str, str]:
    """Return what each name is called where there is room for `limit` characters.

    What all begin with tells none apart and is left out first, up to a hyphen or the like. No two
    are called alike: where cutting their middle out leaves the same, they are cut around the place
    where they part.
    """
    kinds = list(dict.fromkeys(names))
    left_out = _common_words(kinds) if any(len(name) > limit for name in kinds) else 0
    shown = {
        name: shorten(f"…{name[left_out:]}" if left_out and name else name, limit) for name in kinds
    }
    head = limit // 4
    for _ in range(_ROUNDS):
        groups: dict[str, list[str]] = {}
        for name, text in shown.items():
            groups.setdefault(text, []).append(name)
        alike = [group for group in groups.values() if len(group) > 1]
        if not alike:
            return shown
        for group in alike:
            common = os.path.commonprefix(group)  # noqa: RUF071 (of characters, not folders)
            start = max(head, len(common) - 2)
            for name in group:
                rest = shorten(name[start:], limit - head - 1)
                shown[name] = f"{name[:head]}…{rest}"
    return {name: name for name in shown}


def _common_words(names: Iterable[str]) -> int:
    """Return how many characters of whole words all names begin with; 0 for few, or one name."""
    written = [name for name in names if name]
    common = os.path.commonprefix(written) if len(written) > 1 else ""  # noqa: RUF071 (no folders)
    length = max(common.rfind(mark) for mark in "-_/ ") + 1
    return length if length >= _WORTH_LEAVING_OUT else 0


_WORTH_LEAVING_OUT = 4
_ROUNDS = 8
"""Names that are still alike after this many cuts are written out."""


def use_log_axis(axes: Axes, values: Any) -> None:
    """Scale x by logarithm, with a few labelled ticks at round numbers."""
    low, high = float(np.min(values)) / 1.15, float(np.max(values)) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in _TICK_STEPS:
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: math.ceil(len(ticks) / 6)]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    # A round tick needs no zeros after its point: 10M, not 10.0M.
    names = [
        re.sub(r"\.0+(?=[kMG])", "", compact(tick)) if tick >= 1e3 else f"{tick:g}"
        for tick in ticks
    ]
    axes.set_xticks(ticks, names)
    axes.set_xticks([], minor=True)


_TICK_STEPS: tuple[tuple[float, ...], ...] = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)


def label_points(
    axes: Axes,
    x: Any,
    y: Any,
    labels: Sequence[str],
    low: Any = None,
    high: Any = None,
    limit: int = 18,
    insist: int = 0,
) -> None:
    """Name points where there is room: a name covers no other name, no mark, no bar, no edge.

    The figure's layout must be final, because room is measured in pixels.

    Args:
        axes: where the points are.
        x: their horizontal positions, in data units.
        y: their vertical positions.
        labels: their names, the most important first; an empty one is not written.
        low: lower ends of their vertical bars; None without bars.
        high: upper ends.
        limit: characters of a name.
        insist: so many of the first names are written in any case, on other marks if need be.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    points = axes.transData.transform(np.column_stack([x, y]))
    inside = axes.get_window_extent()
    taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in points]
    bars = [] if low is None or high is None else _bars(axes, x, low, high)
    short = short_names(labels, limit)
    unnamed = [(px, py, short[name]) for px, py, name in zip(x, y, labels, strict=True) if name]
    # A name across a bar is better than no name, once the free places are taken.
    for obstacles in (bars, []):
        waiting, unnamed = unnamed, []
        for px, py, label in waiting:
            box = _place(axes, (px, py), label, [*taken, *obstacles], inside)
            if box is None:
                unnamed.append((px, py, label))
            else:
                taken.append(box)
    must, names = {short[name] for name in labels[:insist]}, taken[len(points) :]
    for px, py, label in (one for one in unnamed if one[2] in must):
        box = _place(axes, (px, py), label, names, inside)
        names += [] if box is None else [box]


def _bars(axes: Axes, x: Any, low: Any, high: Any) -> list[Bbox]:
    """Return the places of vertical bars, in pixels."""
    feet = axes.transData.transform(np.column_stack([x, low]))
    tops = axes.transData.transform(np.column_stack([x, high]))
    return [Bbox([foot - 1, top + 1]) for foot, top in zip(feet, tops, strict=True)]


def _place(
    axes: Axes, point: tuple[float, float], label: str, taken: Sequence[Bbox], inside: Bbox
) -> Bbox | None:
    """Write `label` at the first free place around `point`; None where there is none."""
    for dx, dy, side in _LABEL_PLACES:
        text = axes.annotate(
            label,
            point,
            (dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=7.5,
            color="0.25",
            # A white rim keeps a name legible on a line.
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        text.set_in_layout(False)
        box = text.get_window_extent()
        fits = inside.x0 + 3 <= box.x0 and box.x1 <= inside.x1 - 3
        fits &= inside.y0 <= box.y0 and box.y1 <= inside.y1
        if fits and not any(box.overlaps(other) for other in taken):
            return box
        text.remove()
    return None


_LABEL_PLACES = (
    *((6, 0, "left"), (-6, 0, "right"), (5, 7, "left"), (-5, 7, "right")),
    *((5, -7, "left"), (-5, -7, "right"), (0, 10, "center"), (0, -10, "center")),
)
"""Offsets in points and the side of the name that is nearest to its point, in order of trial."""
