"""Figures of calibration error against accuracy, size and latency, a panel per dataset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.claim import when
from benchmark.markup import plural
from benchmark.report.figure_style import (
    ERROR_NAME,
    MAX_PANELS,
    MIXER_COLORS,
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
    import pandas as pd
    from matplotlib.axes import Axes

MAX_NAMED = 16
MAX_BARS = 30
"""Models in a panel; with more, bars are left out."""

MAX_MARKS = 60
"""Models in a panel; with more, families are averaged."""

ALIKE_SIZES = 4.0
"""Where sizes differ by less than this factor, error against size is not drawn: it says nothing."""

FIT_MODELS = 4
"""Fewer models than this get no fitted line."""

ERROR = "debiased_calibration_error_none"


@dataclass(frozen=True)
class Axis:
    """What a scatter figure puts on its horizontal axis."""

    column: str
    label: str
    scale: float = 1.0
    logarithmic: bool = False


ACCURACY = Axis("accuracy_none", "accuracy (%)", 100)
PARAMETERS = Axis("parameters", "parameters", 1, logarithmic=True)
LATENCY = Axis("latency_p50_ms", "median latency (ms)", 1, logarithmic=True)

Panel = tuple["Axes", str, "pd.DataFrame"]
"""Axes, dataset, and the dataset's rows."""


@styled
def scatter(
    table: pd.DataFrame,
    axis: Axis,
    name: str,
    error: str = ERROR,
    error_name: str = ERROR_NAME,
) -> Drawing | None:
    """Draw an error before (or after) scaling against `axis`, one panel per dataset.

    Args:
        table: test rows of several datasets from `data.over_seeds`.
        axis: the horizontal axis.
        name: file name without suffix.
        error: the error's column.
        error_name: what it is.

    Returns None where no model has both numbers, or all are alike in the one on a logarithmic axis.
    """
    table = table[table[error].notna() & table[axis.column].notna()]
    if table.empty or (axis.logarithmic and _range(table, axis) < ALIKE_SIZES):
        return None
    models = table["model"].nunique()
    table, averaged = _family_means(table, axis, error)
    figure, panels = _dataset_panels(table)
    fitted: set[str] = set()
    for panel, _, rows in panels:
        fitted |= _scatter_panel(panel, rows, axis, error)
    _finish(panels, axis, f"{error_name} (pp)")
    mixer_legend(figure, mixers_in(table["mixer"]))
    _name_marks(figure, panels, axis, error)
    word = when("temperature" if error.endswith("_temperature") else "none")
    what = "size" if axis is PARAMETERS else axis.label.split(" (")[0]
    caption = (
        f"{error_name[:1].upper() + error_name[1:]} {word} temperature scaling against {what}, "
        f"{plural(models, 'model')}. If {what} explained everything, mixers would lie on one curve."
    )
    method = (
        f"Errors in percentage points (pp), mean over seeds; "
        f"{averaged or _about_bars(table, error)} {_about_lines(fitted)}{_left_out(table, panels)}"
    )
    alt = f"Calibration error against {what} for {plural(models, 'model')}, by mixer."
    return Drawing(name, to_svg(figure), caption, alt, method)


def _about_lines(fitted: set[str]) -> str:
    if not fitted:
        return f"No line is fitted: no mixer has {FIT_MODELS} models in a panel."
    return (
        f"Lines: least squares for mixers with at least {FIT_MODELS} models in a panel, shaded: "
        "95% interval of the fitted mean, treating models as independent."
    )


def _range(table: pd.DataFrame, axis: Axis) -> float:
    """Return how many times its least value the axis' greatest is."""
    return float(table[axis.column].max() / table[axis.column].min())


def _finish(panels: Sequence[Panel], axis: Axis, error: str) -> None:
    """Name the panels and their axes."""
    titles = short_names([dataset for _, dataset, _ in panels], 26)
    for panel, dataset, _ in panels:
        panel.set_title(titles[dataset], loc="left", fontsize=9)
    figure = panels[0][0].get_figure(root=True)
    assert figure is not None
    figure.supxlabel(axis.label, fontsize=10)
    figure.supylabel(error, fontsize=10)


def _family_means(table: pd.DataFrame, axis: Axis, error: str) -> tuple[pd.DataFrame, str]:
    """Average the models of a family on a dataset where a panel would be too crowded."""
    if table["dataset"].value_counts().max() <= MAX_MARKS:
        return table, ""
    keys = ["dataset", "family", "mixer"]
    means = table.groupby(keys, observed=True)[[axis.column, error]].mean().reset_index()
    empty = {f"{error}_low": float("nan"), f"{error}_high": float("nan")}
    note = "so many that each mark is the mean of a family on a dataset, without interval."
    return means.assign(model=means["family"], **empty), note


def _dataset_panels(table: pd.DataFrame) -> tuple[Figure, list[Panel]]:
    """Return a figure with one panel per dataset: the `MAX_PANELS` with most models."""
    counts = table["dataset"].value_counts().sort_index(kind="stable")
    datasets = sorted(counts.nlargest(MAX_PANELS).index)
    columns = min(2 if len(datasets) <= 4 else 3, len(datasets))
    lines = math.ceil(len(datasets) / columns)
    figure, axes = new_figure(0.8 + (3.1 if columns < 3 else 2.3) * lines, lines, columns)
    for spare in axes[len(datasets) :]:
        spare.set_axis_off()
    panels = [
        (spot, str(dataset), table[table["dataset"] == dataset])
        for spot, dataset in zip(axes, datasets, strict=False)
    ]
    return figure, panels


def _about_bars(table: pd.DataFrame, error: str) -> str:
    if table[f"{error}_low"].isna().all():
        return "without intervals, for none are known."
    few = table["dataset"].value_counts().min() <= MAX_BARS
    crowded = f" where a panel has at most {MAX_BARS} models; others are in the tables"
    if not few:
        return "95% intervals are in the tables."
    most = table["dataset"].value_counts().max()
    return f"bars: 95% interval over test rows{crowded if most > MAX_BARS else ''}."


def _left_out(table: pd.DataFrame, panels: Sequence[Panel]) -> str:
    rest = table["dataset"].nunique() - len(panels)
    return f" {plural(rest, 'more dataset')} not drawn; see the tables." if rest else ""


def _name_marks(
    figure: Figure,
    panels: Sequence[Panel],
    axis: Axis,
    error: str,
    first: Sequence[Sequence[int]] | None = None,
) -> None:
    """Name the models: in crowded panels those whose positions are in `first`, if any."""
    figure.draw_without_rendering()
    for index, (panel, _, rows) in enumerate(panels):
        front = list(first[index]) if first else []
        order = front + [position for position in range(len(rows)) if position not in front]
        named = len(rows) if len(rows) <= MAX_NAMED else len(front)
        models = [str(model) for model in rows["model"].iloc[order]]
        low, high = _bounds(rows, error)
        label_points(
            panel,
            axis.scale * rows[axis.column].iloc[order],
            100 * rows[error].iloc[order],
            models[:named] + [""] * (len(rows) - named),
            low[order] if len(rows) <= MAX_BARS else None,
            high[order] if len(rows) <= MAX_BARS else None,
            insist=len(front),
        )


def _bounds(rows: pd.DataFrame, error: str) -> tuple[Any, Any]:
    """Return the ends of the bars in percentage points; the value itself without interval."""
    low = rows[f"{error}_low"].fillna(rows[error]).to_numpy(float)
    high = rows[f"{error}_high"].fillna(rows[error]).to_numpy(float)
    return 100 * low, 100 * high


def _draw_models(axes: Axes, rows: pd.DataFrame, axis: Axis, error: str) -> None:
    """Draw one mark with its bar per model, coloured by mixer."""
    crowded = len(rows) > MAX_BARS
    if axis.logarithmic:
        use_log_axis(axes, rows[axis.column].to_numpy(float) * axis.scale)
    x, y = axis.scale * rows[axis.column], 100 * rows[error]
    alpha, size = (0.4, 3) if crowded else (0.9, 6)
    ends = y.to_numpy(float)
    if not crowded:
        ends, high = _bounds(rows, error)
        colors = [MIXER_COLORS[mixer] for mixer in rows["mixer"]]
        axes.vlines(x, np.minimum(ends, y), np.maximum(high, y), colors, alpha=alpha, lw=0.9)
    draw_marks(axes, x, y, rows["mixer"], size=size, alpha=alpha)
    # A debiased error may be negative, below the interval that is cut at 0.
    lowest = float(np.nanmin([0, *ends, *y]))
    if lowest < 0:
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_ylim(bottom=1.15 * lowest)


def _scatter_panel(axes: Axes, rows: pd.DataFrame, axis: Axis, error: str) -> set[str]:
    """Draw one dataset's models; return the mixers that got a fitted line."""
    _draw_models(axes, rows, axis, error)
    fitted = set()
    for mixer in mixers_in(rows["mixer"]):
        own = rows[rows["mixer"] == mixer]
        x = axis.scale * own[axis.column].to_numpy(float)
        y = 100 * own[error].to_numpy(float)
        if len(own) >= FIT_MODELS and np.ptp(x) > 0:
            _fit_line(axes, x, y, MIXER_COLORS[mixer], axis.logarithmic)
            fitted.add(mixer)
    return fitted


def _fit_line(axes: Axes, x: Any, y: Any, color: Any, logarithmic: bool) -> None:
    """Draw a least-squares line with the 95% interval of its mean."""
    from scipy.stats import t as student

    x = np.log(x) if logarithmic else x
    centre = x.mean()
    slope, intercept = np.polyfit(x - centre, y, 1)
    grid = np.linspace(x.min(), x.max(), 50)
    mean = slope * (grid - centre) + intercept
    residual = math.sqrt(((y - slope * (x - centre) - intercept) ** 2).sum() / (len(x) - 2))
    spread = ((x - centre) ** 2).sum()
    error = residual * np.sqrt(1 / len(x) + (grid - centre) ** 2 / spread)
    half = student.ppf(0.975, len(x) - 2) * error
    shown = np.exp(grid) if logarithmic else grid
    axes.plot(shown, mean, color=color, linewidth=1.2)
    axes.fill_between(shown, mean - half, mean + half, color=color, alpha=0.08, linewidth=0)


@styled
def pareto(table: pd.DataFrame, name: str) -> Drawing | None:
    """Draw error after scaling against median latency, with the front of undominated models.

    Returns None where nothing was timed.
    """
    error = "debiased_calibration_error_temperature"
    table = table[table[error].notna() & table["latency_p50_ms"].notna()]
    if table.empty:
        return None
    figure, panels = _dataset_panels(table)
    fronts = [undominated(rows["latency_p50_ms"], rows[error]) for _, _, rows in panels]
    for (panel, _, rows), front in zip(panels, fronts, strict=True):
        _draw_models(panel, rows, LATENCY, error)
        x = rows["latency_p50_ms"].to_numpy(float)[front]
        y = 100 * rows[error].to_numpy(float)[front]
        panel.step(x, y, where="post", color="0.5", linewidth=1, linestyle="--", zorder=1)
    _finish(panels, LATENCY, f"{ERROR_NAME} after (pp)")
    extra = [Line2D([], [], color="0.5", linewidth=1, linestyle="--", label="Pareto front")]
    mixer_legend(figure, mixers_in(table["mixer"]), extra)
    _name_marks(figure, panels, LATENCY, error, fronts)
    models = plural(table["model"].nunique(), "model")
    unstable = table.loc[table["timing_reasons"] != "", "model"].nunique()
    doubt = f" {plural(unstable, 'model')} had a disturbed timing (⚠ in the tables)."
    caption = (
        f"{ERROR_NAME.capitalize()} after temperature scaling against median latency of one row "
        f"at a time, {models}; lower left is better. Accuracy is not on this figure: the "
        "figure at the top has all three."
    )
    method = (
        f"Mean over seeds; {_about_bars(table, error)} On the dashed front no model is both faster "
        "and better calibrated; where intervals overlap, the order on the front is not settled."
        f"{doubt if unstable else ''}{_left_out(table, panels)}"
    )
    alt = f"Calibration error after scaling against latency for {models}."
    return Drawing(name, to_svg(figure), caption, alt, method)


def undominated(costs: Iterable[float], errors: Iterable[float]) -> list[int]:
    """Return positions of the points that no other point beats in both, cheapest first."""
    pairs = [(cost, error, i) for i, (cost, error) in enumerate(zip(costs, errors, strict=True))]
    front: list[int] = []
    lowest = math.inf
    for _, error, index in sorted(pairs):
        if error < lowest:
            front.append(index)
            lowest = error
    return front
