"""Figures of a report: frame -> matplotlib figure with caption and alternative text.

A mixer has one colour and one marker in every figure. Nothing here reads files.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.markup import compact, plural
from benchmark.report_data import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from benchmark.reliability import Reliability

_COLORBLIND = sns.color_palette("colorblind")
MIXER_COLORS = {
    "attention": _COLORBLIND[0],
    "convolution": _COLORBLIND[3],
    "hybrid": _COLORBLIND[2],
    "mlp": _COLORBLIND[4],
    "other": (0.35, 0.35, 0.35),
}
MIXER_MARKERS = {"attention": "o", "convolution": "s", "hybrid": "D", "mlp": "^", "other": "X"}
MUTED = "0.45"
WIDTH = 7.2
"""Inches. Figures are shown at this size or smaller, so their text stays readable."""

MAX_ROWS = 30
"""Rows of a dumbbell figure; with more models than that, families are shown."""

ERROR_NAME = "debiased calibration error"

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    # Text as paths looks the same everywhere; the salt makes element names reproducible.
    "svg.fonttype": "path",
    "svg.hashsalt": "calibration-benchmark",
    # A dollar sign in a family's name is a dollar sign, not mathematics.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with the text that goes with it.

    Attributes:
        name: file name without suffix.
        svg: the figure as SVG text, the same for the same data.
        caption: what to see, n, and how intervals were made; plain text.
        alt: one line for readers who cannot see the figure; plain text.
    """

    name: str
    svg: str
    caption: str
    alt: str


def to_svg(figure: Figure) -> str:
    """Render a figure as SVG text without date or random names."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :]


def new_figure(
    height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Sequence[Axes]]:
    """Return an empty figure of the report's width and its axes, flat, row by row."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def mixers_in(values: Iterable[str]) -> list[str]:
    """Return the mixers present, in the order every legend uses."""
    present = set(values)
    return [mixer for mixer in MIXER_COLORS if mixer in present]


def mixer_legend(figure: Figure, mixers: Sequence[str], extra: Sequence[Line2D] = ()) -> None:
    """Put one legend of the mixers (and of `extra` marks) above the figure's panels."""
    handles = [
        Line2D([], [], color=MIXER_COLORS[m], marker=MIXER_MARKERS[m], linestyle="", label=m)
        for m in mixers
    ]
    with mpl.rc_context(_STYLE):
        figure.legend(
            handles=[*handles, *extra],
            loc="outside upper left",
            ncols=8,
            handletextpad=0.3,
            columnspacing=1.2,
        )


def shorten(text: str, limit: int = 26) -> str:
    """Return `text` cut to `limit` characters with an ellipsis in the middle."""
    if len(text) <= limit:
        return text
    keep = limit - 1
    return f"{text[: math.ceil(keep / 2)]}…{text[len(text) - keep // 2 :]}"


def dumbbell(table: pd.DataFrame, dataset: str, name: str) -> Drawing:
    """Draw ECE before and after temperature scaling, one line per model (or family).

    Args:
        table: rows of one dataset's test split from `report_data.over_seeds`.
        dataset: its name, for the title.
        name: file name without suffix.
    """
    table = table[table["ece_15_before"].notna() & table["ece_15_after"].notna()]
    rows, unit = _rows_that_fit(table)
    rows = rows.sort_values("ece_15_before", ascending=True)
    figure, (axes,) = new_figure(1.5 + 0.3 * len(rows))
    for position, row in enumerate(rows_of(rows)):
        color, marker = MIXER_COLORS[row.mixer], MIXER_MARKERS[row.mixer]
        before, after = 100 * row.ece_15_before, 100 * row.ece_15_after
        if row.ece_15_after_floor_q95 > 0:
            axes.barh(position, 100 * row.ece_15_after_floor_q95, 0.6, color="0.88", zorder=1)
        axes.plot([before, after], [position] * 2, color=color, linewidth=1.6, zorder=2)
        axes.plot(before, position, marker, color=color, markersize=7, zorder=3)
        style: dict[str, Any] = {
            "markerfacecolor": "white",
            "markeredgewidth": 1.6,
            "markersize": 7,
        }
        axes.plot(after, position, marker, color=color, zorder=4, **style)
    axes.set_yticks(range(len(rows)), [shorten(str(label)) for label in rows["label"]])
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ECE, 15 equal-width bins (percentage points)")
    axes.set_title(f"{shorten(dataset, 60)}: ECE before and after temperature scaling", loc="left")
    extra = [
        Line2D([], [], color=MUTED, marker="o", linestyle="", label="before"),
        Line2D([], [], color=MUTED, marker="o", mfc="white", linestyle="", label="after"),
        Line2D([], [], color="0.85", linewidth=7, label="noise"),
    ]
    mixer_legend(figure, mixers_in(rows["mixer"]), extra)
    seeds = int(table["seeds"].max())
    caption = (
        f"Expected calibration error (ECE) on {dataset}, filled mark before and hollow mark after "
        f"temperature scaling; n = {_rows_text(table)} test rows, mean of {plural(seeds, 'seed')}. "
        "The grey bar ends at the 95% point of what a perfectly calibrated model with the same "
        "confidences would show after scaling: a hollow mark inside it is not distinguishable "
        "from perfect calibration. ECE has no valid interval; the table gives the debiased error, "
        f"which has. {unit}"
    )
    falls = int((table["ece_15_after"] < table["ece_15_before"]).sum())
    alt = f"ECE on {dataset} falls after temperature scaling for {falls} of {len(table)} models."
    return Drawing(name, to_svg(figure), caption.strip(), alt)


def _rows_that_fit(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the table with a `label`; too many models are averaged within their families."""
    if len(table) <= MAX_ROWS:
        return table.assign(label=table["model"]), ""
    values = ["ece_15_before", "ece_15_after", "ece_15_after_floor_q95"]
    groups = table.groupby(["family", "mixer"], observed=True)
    families = groups[values].mean().assign(models=groups.size()).reset_index()
    largest = families.nlargest(MAX_ROWS, ["models", "ece_15_before"])
    labels = [f"{shorten(str(f.family), 20)} ({f.models})" for f in rows_of(largest)]
    shown = f"the {MAX_ROWS} largest of " if len(families) > MAX_ROWS else ""
    note = (
        f"With {len(table):,} models each line is the mean of a family, with its number of models "
        f"in brackets: {shown}{plural(len(families), 'family', 'families')}."
    )
    return largest.assign(label=labels), note


def _rows_text(table: pd.DataFrame) -> str:
    least, most = int(table["n"].min()), int(table["n"].max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


@dataclass(frozen=True)
class Axis:
    """What a scatter figure puts on its horizontal axis."""

    column: str
    label: str
    scale: float = 1.0
    logarithmic: bool = False


ACCURACY = Axis("accuracy_before", "accuracy (%)", 100)
PARAMETERS = Axis("parameters", "parameters", 1, logarithmic=True)


def scatter(table: pd.DataFrame, axis: Axis, name: str) -> Drawing:
    """Draw the debiased error before scaling against `axis`, one panel per dataset.

    Args:
        table: test rows of several datasets from `report_data.over_seeds`.
        axis: the horizontal axis.
        name: file name without suffix.
    """
    error = "debiased_calibration_error_before"
    table = table[table[error].notna() & table[axis.column].notna()]
    datasets = panel_datasets(table)
    columns = min(2, len(datasets))
    figure, panels = new_figure(
        0.6 + 3.1 * math.ceil(len(datasets) / columns), math.ceil(len(datasets) / columns), columns
    )
    fitted: set[str] = set()
    for panel, dataset in zip(panels, datasets, strict=False):
        rows = table[table["dataset"] == dataset]
        fitted |= _scatter_panel(panel, rows, axis)
        panel.set_title(shorten(dataset, 34), loc="left")
        panel.set_xlabel(axis.label)
    for panel in panels[len(datasets) :]:
        panel.set_axis_off()
    for panel in panels[::columns]:
        panel.set_ylabel(f"{ERROR_NAME} (pp)")
    mixer_legend(figure, mixers_in(table["mixer"]))
    figure.draw_without_rendering()
    for panel, dataset in zip(panels, datasets, strict=False):
        rows = table[table["dataset"] == dataset]
        if len(rows) <= 16:
            x, y = axis.scale * rows[axis.column], 100 * rows[error]
            label_points(panel, x, y, [str(model) for model in rows["model"]])
    lines = (
        "Lines are least-squares fits for mixers with at least four models in a panel, shaded: "
        "95% interval of the fitted mean, treating models as independent."
        if fitted
        else "No line is fitted where a mixer has fewer than four models in a panel."
    )
    what = axis.label.split(" (")[0]
    caption = (
        f"{ERROR_NAME.capitalize()} before temperature scaling (percentage points, pp) against "
        f"{what}: one mark per model, {plural(len(table), 'mark')} in all, mean over seeds; "
        "bars: 95% bootstrap interval over test rows. If size or accuracy explained everything, "
        f"mixers would lie on one curve. {lines}{_left_out(table, datasets)}"
    )
    alt = f"Calibration error against {what} for {plural(len(table), 'model')}, by mixer."
    return Drawing(name, to_svg(figure), caption, alt)


MAX_PANELS = 8


def panel_datasets(table: pd.DataFrame) -> list[str]:
    """Return the datasets that get a panel: at most `MAX_PANELS`, those with most models."""
    counts = table["dataset"].value_counts()
    return sorted(counts.sort_index(kind="stable").nlargest(MAX_PANELS).index)


def _left_out(table: pd.DataFrame, datasets: Sequence[str]) -> str:
    rest = table["dataset"].nunique() - len(datasets)
    return f" {plural(rest, 'more dataset')} not drawn; see the tables." if rest else ""


def _scatter_panel(axes: Axes, rows: pd.DataFrame, axis: Axis) -> set[str]:
    """Draw one dataset's models; return the mixers that got a fitted line."""
    error = "debiased_calibration_error_before"
    fitted = set()
    if axis.logarithmic:
        _use_log_axis(axes, rows[axis.column].to_numpy(float) * axis.scale)
    for mixer in mixers_in(rows["mixer"]):
        own = rows[rows["mixer"] == mixer]
        x = own[axis.column].to_numpy(float) * axis.scale
        y = own[error].to_numpy(float) * 100
        color = MIXER_COLORS[mixer]
        low = y - 100 * own[f"{error}_low"].fillna(own[error]).to_numpy(float)
        high = 100 * own[f"{error}_high"].fillna(own[error]).to_numpy(float) - y
        bars = np.clip([low, high], 0, None)
        style: dict[str, Any] = {
            "markersize": 6 if len(rows) <= 60 else 3,
            "elinewidth": 0.9,
            "capsize": 0,
        }
        alpha = 0.9 if len(rows) <= 60 else 0.4
        marker = MIXER_MARKERS[mixer]
        axes.errorbar(x, y, bars, fmt=marker, color=color, alpha=alpha, **style)
        if _fit_line(axes, x, y, color, axis.logarithmic):
            fitted.add(mixer)
    axes.set_ylim(bottom=0)
    return fitted


def _use_log_axis(axes: Axes, values: Any) -> None:
    """Scale x by logarithm, with up to four labelled ticks at round numbers."""
    axes.set_xscale("log")
    low, high = values.min() / 1.15, values.max() * 1.15
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) >= 3:
            break
    ticks = ticks[:: math.ceil(len(ticks) / 4)]
    axes.set_xticks(ticks, [compact(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _fit_line(axes: Axes, x: Any, y: Any, color: Any, logarithmic: bool) -> bool:
    """Draw a least-squares line with the 95% interval of its mean; False when x is too poor."""
    from scipy.stats import t as student

    x = np.log(x) if logarithmic else x
    if len(x) < 4 or np.ptp(x) == 0:
        return False
    slope, intercept = np.polyfit(x, y, 1)
    grid = np.linspace(x.min(), x.max(), 50)
    centre, spread = x.mean(), ((x - x.mean()) ** 2).sum()
    residual = math.sqrt(((y - slope * x - intercept) ** 2).sum() / (len(x) - 2))
    error = residual * np.sqrt(1 / len(x) + (grid - centre) ** 2 / spread)
    half = student.ppf(0.975, len(x) - 2) * error
    mean = slope * grid + intercept
    shown = np.exp(grid) if logarithmic else grid
    axes.plot(shown, mean, color=color, linewidth=1.2)
    axes.fill_between(shown, mean - half, mean + half, color=color, alpha=0.12, linewidth=0)
    return True


def label_points(axes: Axes, x: Any, y: Any, labels: Sequence[str]) -> None:
    """Name points where there is room: a name covers no other name, no mark, no edge.

    The figure's layout must be final, because room is measured in pixels.
    """
    from matplotlib.transforms import Bbox

    with mpl.rc_context(_STYLE):
        figure = axes.get_figure(root=True)
        assert figure is not None
        points = axes.transData.transform(np.column_stack([x, y]))
        inside = axes.get_window_extent()
        taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in points]
        for position, label in zip(points, labels, strict=True):
            for dx, dy, side in _LABEL_PLACES:
                text = axes.annotate(
                    shorten(label, 18),
                    axes.transData.inverted().transform(position),
                    (dx, dy),
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=7.5,
                    color="0.25",
                )
                text.set_in_layout(False)
                box = text.get_window_extent()
                fits = inside.x0 <= box.x0 and box.x1 <= inside.x1
                fits &= inside.y0 <= box.y0 and box.y1 <= inside.y1
                if fits and not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    break
                text.remove()


_LABEL_PLACES = (
    *((6, 0, "left"), (-6, 0, "right"), (5, 7, "left"), (-5, 7, "right")),
    *((5, -7, "left"), (-5, -7, "right"), (0, 10, "center"), (0, -10, "center")),
)
"""Offsets in points and the side of the name that is nearest to its point, in order of trial."""


@dataclass(frozen=True)
class ReliabilityPanel:
    """One model's reliability before and after temperature scaling."""

    title: str
    mixer: str
    n: int
    before: Reliability
    after: Reliability


def reliability_grid(panels: Sequence[ReliabilityPanel], dataset: str, name: str) -> Drawing:
    """Draw reliability diagrams side by side, with consistency bands and counts."""
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = new_figure(0.7 + 2.05 * lines, lines, columns, sharex=True, sharey=True)
    for panel, spot in zip(panels, axes, strict=False):
        _draw_reliability(spot, panel)
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
    rows = sorted({panel.n for panel in panels})
    size = f"{rows[0]:,}" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,}"
    caption = (
        f"Reliability on {dataset} (n = {size} predictions a panel, seeds pooled): a point below "
        "the diagonal is over-confident. Solid: before; dotted, hollow: after temperature scaling. "
        "Grey band: where 95% of samples of this size would fall if the model before scaling were "
        "perfectly calibrated (binomial at the bin's mean confidence). Bars at the foot: share of "
        "rows per confidence bin before scaling. Bins with fewer than 5 rows are not drawn."
    )
    alt = f"Reliability diagrams of {plural(len(panels), 'model')} on {dataset}."
    return Drawing(name, to_svg(figure), caption, alt)


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
    axes.set_title(shorten(panel.title, 20), loc="left", fontsize=9)
