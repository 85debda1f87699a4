"""Figures of a report: frame -> SVG with caption and alternative text. Nothing here reads files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.figure_style import (
    MIXER_COLORS,
    MIXER_MARKERS,
    MUTED,
    Drawing,
    label_points,
    mixer_legend,
    mixers_in,
    new_figure,
    shorten,
    to_svg,
    use_log_axis,
)
from benchmark.markup import plural
from benchmark.report_data import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from benchmark.reliability import Reliability

MAX_ROWS = 30
"""Rows of a dumbbell figure; with more models than that, families are shown."""

MAX_PANELS = 8
MAX_NAMED = 16
MAX_MARKS = 60
"""Models in a panel; with more, bars are left out or families are averaged."""

MAX_LINES = 30
MAX_SHIFTS = 12
FIT_MODELS = 4
"""Fewer models than this get no fitted line."""

ERROR = "debiased_calibration_error_before"
ERROR_NAME = "debiased calibration error"


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
        Line2D([], [], color="0.85", marker="s", markersize=9, linestyle="", label="noise"),
    ]
    mixer_legend(figure, mixers_in(rows["mixer"]), extra)
    caption = (
        f"Expected calibration error (ECE) on {dataset}, filled mark before and hollow mark after "
        f"temperature scaling; n = {_rows_text(table)} test rows, mean over seeds. "
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
    largest = _from_every_mixer(families)
    labels = [f"{shorten(str(f.family), 20)} ({f.models})" for f in rows_of(largest)]
    shown = f"{MAX_ROWS} of " if len(families) > MAX_ROWS else ""
    note = (
        f"With {len(table):,} models each line is the mean of a family, with its number of models "
        f"in brackets: {shown}{plural(len(families), 'family', 'families')}"
        f"{', the largest of every mixer in turn' if shown else ''}."
    )
    return largest.assign(label=labels), note


def _from_every_mixer(families: pd.DataFrame) -> pd.DataFrame:
    """Return at most `MAX_ROWS` families, the largest of every mixer in turn."""
    ordered = families.sort_values(["models", "family"], ascending=[False, True])
    turn = ordered.groupby("mixer", observed=True).cumcount()
    return ordered.iloc[np.argsort(turn, kind="stable")[:MAX_ROWS]]


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
LATENCY = Axis("latency_p50_ms", "median latency (ms)", 1, logarithmic=True)

Panel = tuple["Axes", str, "pd.DataFrame"]
"""Axes, dataset, and the dataset's rows."""


def scatter(table: pd.DataFrame, axis: Axis, name: str) -> Drawing | None:
    """Draw the debiased error before scaling against `axis`, one panel per dataset.

    Args:
        table: test rows of several datasets from `report_data.over_seeds`.
        axis: the horizontal axis.
        name: file name without suffix.

    Returns None where no model has both numbers.
    """
    table = table[table[ERROR].notna() & table[axis.column].notna()]
    if table.empty:
        return None
    models = len(table)
    table, averaged = _family_means(table, axis)
    figure, panels = _dataset_panels(table)
    fitted: set[str] = set()
    for panel, dataset, rows in panels:
        fitted |= _scatter_panel(panel, rows, axis)
        panel.set_title(shorten(dataset, 34), loc="left")
        panel.set_xlabel(axis.label)
    panels[0][0].set_ylabel(f"{ERROR_NAME} (pp)")
    mixer_legend(figure, mixers_in(table["mixer"]))
    _label_panels(figure, panels, axis, ERROR)
    lines = (
        f"Lines: least squares for mixers with at least {FIT_MODELS} models in a panel, shaded: "
        "95% interval of the fitted mean, treating models as independent."
        if fitted
        else f"No line is fitted: no mixer has {FIT_MODELS} models in a panel."
    )
    what = axis.label.split(" (")[0]
    caption = (
        f"{ERROR_NAME.capitalize()} before temperature scaling (percentage points, pp) against "
        f"{what}: {plural(models, 'model')}, mean over seeds; "
        f"{averaged or 'bars: 95% interval over test rows. '}If size or accuracy explained "
        f"everything, mixers would lie on one curve. {lines}{_left_out(table, panels)}"
    )
    alt = f"Calibration error against {what} for {plural(models, 'model')}, by mixer."
    return Drawing(name, to_svg(figure), caption, alt)


def _family_means(table: pd.DataFrame, axis: Axis) -> tuple[pd.DataFrame, str]:
    """Average the models of a family on a dataset where a panel would be too crowded."""
    if table["dataset"].value_counts().max() <= MAX_MARKS:
        return table, ""
    keys = ["dataset", "family", "mixer"]
    means = table.groupby(keys, observed=True)[[axis.column, ERROR]].mean().reset_index()
    empty = {f"{ERROR}_low": float("nan"), f"{ERROR}_high": float("nan")}
    note = "so many that each mark is the mean of a family on a dataset, without interval. "
    return means.assign(model=means["family"], **empty), note


def _dataset_panels(table: pd.DataFrame, height: float = 3.1) -> tuple[Figure, list[Panel]]:
    """Return a figure with one panel per dataset: the `MAX_PANELS` with most models."""
    counts = table["dataset"].value_counts().sort_index(kind="stable")
    datasets = sorted(counts.nlargest(MAX_PANELS).index)
    columns = min(2, len(datasets))
    lines = math.ceil(len(datasets) / columns)
    figure, axes = new_figure(0.6 + height * lines, lines, columns)
    for spare in axes[len(datasets) :]:
        spare.set_axis_off()
    panels = [
        (spot, str(dataset), table[table["dataset"] == dataset])
        for spot, dataset in zip(axes, datasets, strict=False)
    ]
    return figure, panels


def _left_out(table: pd.DataFrame, panels: Sequence[Panel]) -> str:
    rest = table["dataset"].nunique() - len(panels)
    return f" {plural(rest, 'more dataset')} not drawn; see the tables." if rest else ""


def _label_panels(figure: Figure, panels: Sequence[Panel], axis: Axis, error: str) -> None:
    """Name the models in panels that are not crowded."""
    figure.draw_without_rendering()
    for panel, _, rows in panels:
        if len(rows) > MAX_NAMED:
            continue
        low, high = _bounds(rows, error)
        names = [str(model) for model in rows["model"]]
        x, y = axis.scale * rows[axis.column], 100 * rows[error]
        label_points(panel, x, y, names, low, high)


def _bounds(rows: pd.DataFrame, error: str) -> tuple[Any, Any]:
    """Return the ends of the bars in percentage points; the value itself without interval."""
    low = rows[f"{error}_low"].fillna(rows[error]).to_numpy(float)
    high = rows[f"{error}_high"].fillna(rows[error]).to_numpy(float)
    return 100 * low, 100 * high


def _draw_marks(axes: Axes, rows: pd.DataFrame, axis: Axis, error: str) -> None:
    """Draw one mark with its bar per model, coloured by mixer."""
    crowded = len(rows) > MAX_MARKS
    if axis.logarithmic:
        use_log_axis(axes, rows[axis.column].to_numpy(float) * axis.scale)
    for mixer in mixers_in(rows["mixer"]):
        own = rows[rows["mixer"] == mixer]
        y = 100 * own[error].to_numpy(float)
        low, high = _bounds(own, error)
        axes.errorbar(
            axis.scale * own[axis.column].to_numpy(float),
            y,
            None if crowded else np.clip([y - low, high - y], 0, None),
            fmt=MIXER_MARKERS[mixer],
            color=MIXER_COLORS[mixer],
            alpha=0.4 if crowded else 0.9,
            markersize=3 if crowded else 6,
            elinewidth=0.9,
        )
    ends = 100 * rows[error].to_numpy(float) if crowded else _bounds(rows, error)[0]
    lowest = float(np.nanmin([0, *ends]))
    axes.set_ylim(bottom=1.05 * lowest)


def _scatter_panel(axes: Axes, rows: pd.DataFrame, axis: Axis) -> set[str]:
    """Draw one dataset's models; return the mixers that got a fitted line."""
    _draw_marks(axes, rows, axis, ERROR)
    fitted = set()
    for mixer in mixers_in(rows["mixer"]):
        own = rows[rows["mixer"] == mixer]
        x = axis.scale * own[axis.column].to_numpy(float)
        y = 100 * own[ERROR].to_numpy(float)
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
    axes.fill_between(shown, mean - half, mean + half, color=color, alpha=0.12, linewidth=0)


def pareto(table: pd.DataFrame, name: str) -> Drawing | None:
    """Draw error after scaling against median latency, with the front of undominated models.

    Returns None where nothing was timed.
    """
    error = "debiased_calibration_error_after"
    table = table[table[error].notna() & table["latency_p50_ms"].notna()]
    if table.empty:
        return None
    figure, panels = _dataset_panels(table)
    for panel, dataset, rows in panels:
        _draw_marks(panel, rows, LATENCY, error)
        front = undominated(rows["latency_p50_ms"], rows[error])
        x = rows["latency_p50_ms"].to_numpy(float)[front]
        y = 100 * rows[error].to_numpy(float)[front]
        panel.step(x, y, where="post", color="0.5", linewidth=1, linestyle="--", zorder=1)
        panel.set_title(shorten(dataset, 34), loc="left")
        panel.set_xlabel(LATENCY.label)
    panels[0][0].set_ylabel(f"{ERROR_NAME} after (pp)")
    extra = [Line2D([], [], color="0.5", linewidth=1, linestyle="--", label="Pareto front")]
    mixer_legend(figure, mixers_in(table["mixer"]), extra)
    _label_panels(figure, panels, LATENCY, error)
    unstable = int((table["timing_reasons"] != "").sum())
    doubt = f" {plural(unstable, 'model')} had a disturbed timing (⚠ in the tables)."
    caption = (
        f"{ERROR_NAME.capitalize()} after temperature scaling against median latency of one row "
        f"at a time, {plural(len(table), 'mark')}, mean over seeds; bars (where there are at most "
        f"{MAX_MARKS} models): 95% interval over test rows. Lower left is better. On the dashed "
        "front no model is both faster and better calibrated; where bars overlap, the order on "
        "the front is not settled. Accuracy is not "
        f"on this figure.{doubt if unstable else ''}{_left_out(table, panels)}"
    )
    alt = f"Calibration error after scaling against latency for {plural(len(table), 'model')}."
    return Drawing(name, to_svg(figure), caption, alt)


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


def temperature_by_family(table: pd.DataFrame, name: str) -> Drawing | None:
    """Draw each model's temperature with its interval, families grouped by mixer.

    Temperatures at a bound (0 or infinity) are left out and counted. Returns None where no
    temperature is left.
    """
    known = table[table["temperature"].notna()]
    table = known[np.isfinite(known["temperature"]) & (known["temperature"] > 0)]
    if table.empty:
        return None
    bounds = len(known) - len(table)
    order = {mixer: index for index, mixer in enumerate(MIXER_COLORS)}
    counts = table.groupby(["mixer", "family"], observed=True).size().reset_index(name="models")
    shown = _from_every_mixer(counts)
    shown = shown.sort_values(
        ["mixer", "family"], key=lambda c: c.map(order) if c.name == "mixer" else c, ascending=False
    )
    families = [(str(row.mixer), str(row.family)) for row in rows_of(shown)]
    figure, (axes,) = new_figure(1.3 + 0.28 * len(families))
    datasets = sorted(table["dataset"].unique())
    low, high = _draw_temperatures(axes, table, families)
    use_log_axis(axes, np.array([low, high]))
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set_yticks(range(len(families)), [shorten(family) for _, family in families])
    axes.set_ylim(-0.6, len(families) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("temperature (logarithmic; over 1: the model was over-confident)")
    mixer_legend(figure, mixers_in(table["mixer"]))
    hidden = len(counts) - len(shown)
    more = f" {plural(hidden, 'more family', 'more families')} not drawn." if hidden else ""
    at_bound = (
        f" {plural(bounds, 'model')} with a temperature at a bound left out." if bounds else ""
    )
    caption = (
        f"Fitted temperature by family: {plural(len(table), 'model')} on "
        f"{plural(len(datasets), 'dataset')}, one mark each (within a family from top to bottom: "
        f"{', '.join(shorten(str(d)) for d in datasets[:MAX_PANELS])}), mean over seeds; bars: 95% "
        "interval from resampling the calibration rows. A temperature of 1 means that scaling "
        f"changes nothing.{more}{at_bound}"
    )
    alt = f"Temperature of {plural(len(families), 'family', 'families')}, by mixer."
    return Drawing(name, to_svg(figure), caption, alt)


def _draw_temperatures(
    axes: Axes, table: pd.DataFrame, families: Sequence[tuple[str, str]]
) -> tuple[float, float]:
    """Draw the marks, datasets of a family below one another; return the range they need."""
    low, high = 1.0, 1.0
    for position, (mixer, family) in enumerate(families):
        own = table[(table["mixer"] == mixer) & (table["family"] == family)]
        own = own.sort_values(["dataset", "model"])
        places = own["dataset"].astype("category").cat.codes.to_numpy(float)
        heights = position - 0.6 * ((places + 0.5) / (places.max() + 1) - 0.5)
        values = own["temperature"].to_numpy(float)
        lows, highs = (
            own["temperature_low"].to_numpy(float),
            own["temperature_high"].to_numpy(float),
        )
        known = np.isfinite(lows) & np.isfinite(highs) & (lows > 0)
        lows, highs = np.where(known, lows, values), np.where(known, highs, values)
        color = MIXER_COLORS[mixer]
        axes.hlines(heights, lows, highs, color=color, linewidth=1.2)
        axes.plot(values, heights, MIXER_MARKERS[mixer], color=color, markersize=5)
        low, high = min(low, *lows), max(high, *highs)
    return low, high


def under_shift(table: pd.DataFrame, name: str) -> Drawing | None:
    """Draw error after scaling against the severity of a shift, a line per model.

    Args:
        table: all splits from `report_data.over_seeds`; shifted ones are `<kind>-<severity>`.
        name: file name without suffix.

    Returns None where there is no shifted split.
    """
    error = "debiased_calibration_error_after"
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
    for spot, (dataset, kind) in zip(axes, shown, strict=False):
        rows = table[table["dataset"] == dataset]
        _shift_panel(spot, rows[(rows["split"] == "test") | (rows["kind"] == kind)], error)
        spot.set_title(shorten(f"{dataset}: {kind}", 26), loc="left", fontsize=9)
    figure.supxlabel("severity of the shift (0: clean test rows)", fontsize=10)
    figure.supylabel("debiased error after (pp)", fontsize=10)
    mixer_legend(figure, mixers_in(table["mixer"]))
    models = table["model"].nunique()
    rest = len(pairs) - len(shown)
    more = f" {plural(rest, 'more shift')} not drawn." if rest else ""
    caption = (
        f"{ERROR_NAME.capitalize()} after temperature scaling on corrupted test rows; the "
        f"temperature is always fitted on clean rows. {plural(models, 'model')}, mean over seeds. "
        f"Thin lines: models (with more than {MAX_LINES}, shaded: the middle 80% of a mixer's); "
        f"thick: mean of a mixer's models.{more} Intervals are in tables/runs.csv."
    )
    alt = f"Calibration error after scaling against shift severity, {plural(models, 'model')}."
    return Drawing(name, to_svg(figure), caption, alt)


def _shift_panel(axes: Axes, rows: pd.DataFrame, error: str) -> None:
    rows = rows.assign(severity=rows["severity"].fillna(0))
    for mixer in mixers_in(rows["mixer"]):
        color = MIXER_COLORS[mixer]
        grid = rows[rows["mixer"] == mixer].pivot_table(
            index="severity", columns="model", values=error, observed=True
        )
        if len(rows["model"].unique()) > MAX_LINES:
            low, high = 100 * grid.quantile(0.1, axis=1), 100 * grid.quantile(0.9, axis=1)
            axes.fill_between(grid.index, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            axes.plot(grid.index, 100 * grid.to_numpy(), color=color, linewidth=0.7, alpha=0.5)
        mean = 100 * grid.mean(axis=1)
        axes.plot(
            grid.index, mean, MIXER_MARKERS[mixer] + "-", color=color, linewidth=2, markersize=4
        )
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
    some = (
        f" {len(panels)} of {models:,} models, evenly spaced from the lowest calibration error to "
        "the highest."
        if len(panels) < models
        else ""
    )
    caption = (
        f"Reliability on {dataset} (n = {size} predictions a panel, seeds pooled): a point below "
        "the diagonal is over-confident. Solid: before; dotted, hollow: after temperature scaling. "
        "Grey band: where 95% of samples of this size would fall if the model before scaling were "
        "perfectly calibrated (binomial at the bin's mean confidence). Bars at the foot: share of "
        "rows per confidence bin before scaling. Bins with fewer than 5 rows are not drawn."
        f"{some}"
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
