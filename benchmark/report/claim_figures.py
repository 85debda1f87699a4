"""Figures of the claim: forest plot, shares of variance, specification curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import seaborn as sns

from benchmark.claim import (
    covariate_list,
    estimator_name,
    range_text,
    ratio_text,
    size_text,
    total_text,
    when,
)
from benchmark.markup import plural
from benchmark.report.figure_style import (
    MIXER_COLORS,
    MUTED,
    Drawing,
    new_figure,
    short_names,
    shorten,
    styled,
    to_svg,
    use_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmark.claim import ClaimResult, Effect, RatioInterval, Specification, VarianceShares

MAX_FOREST_DATASETS = 20
WIDEST_RATIO = 20.0
"""Intervals are cut at this ratio and its inverse, with an arrow, so that others stay legible."""


class ForestRow(NamedTuple):
    """One line of a forest plot; no estimate is written out as such."""

    label: str
    estimate: RatioInterval | None
    strong: bool = False


@styled
def forest(result: ClaimResult, name: str) -> Drawing | None:
    """Draw the contrast per dataset and overall; None where there is no primary effect."""
    effect = result.primary
    if effect is None:
        return None
    rows = _forest_rows(result, effect)
    first, second = result.contrast
    figure, (axes,) = new_figure(1.25 + 0.34 * len(rows))
    margin = result.equivalence_ratio
    axes.axvspan(1 / margin, margin, color="0.92", zorder=0)
    axes.axvline(1, color="0.4", linewidth=1)
    shown = [row.estimate for row in rows if row.estimate is not None]
    low = max(1 / WIDEST_RATIO, min(1 / margin, *(e.low for e in shown)))
    high = min(WIDEST_RATIO, max(margin, *(e.high for e in shown)))
    use_log_axis(axes, np.array([low, high]))
    for position, row in enumerate(reversed(rows)):
        _forest_line(axes, position, row, low, high)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"ratio of calibration errors, {first} / {second} (logarithmic)")
    axes.set_title(f"\N{LEFTWARDS ARROW} {first} better", loc="left", fontsize=9)
    axes.set_title(f"{second} better \N{RIGHTWARDS ARROW}", loc="right", fontsize=9)
    given = f", at equal {covariate_list(effect.covariates)}" if effect.covariates else ""
    caption = (
        f"Ratio of calibration errors, {first} over {second}{given}; bars: "
        f"{100 * (1 - result.alpha):g}% intervals. "
        "One that holds 1 is compatible with no difference."
    )
    method = (
        f"{_capital(estimator_name(effect.metric))} of {plural(effect.checkpoints, 'checkpoint')}:"
        f" {size_text(effect.unit, effect.families)}. The overall estimate is of these datasets; a "
        f"new dataset's is a prediction. "
        f"An arrow: the interval goes on. Grey: ratios that count as equivalent (up to {margin:g})."
    )
    alt = (
        f"Forest plot: overall ratio {ratio_text(effect.estimate.ratio)}, interval "
        f"{range_text(effect.estimate)}."
    )
    return Drawing(name, to_svg(figure), caption, alt, method)


def _forest_rows(result: ClaimResult, effect: Effect) -> list[ForestRow]:
    shown = sorted(effect.datasets, key=lambda d: (-sum(d.families.values()), d.dataset))
    shown = shown[:MAX_FOREST_DATASETS]
    short = short_names([d.dataset for d in shown], 22)
    rows = [
        ForestRow(f"{short[d.dataset]} ({total_text(effect.unit, d.families)})", d.estimate)
        for d in shown
    ]
    rows.append(ForestRow("overall, these datasets", effect.estimate, strong=True))
    if effect.new_dataset is not None:
        rows.append(ForestRow("a new dataset (prediction)", effect.new_dataset))
    if result.unadjusted is not None:
        rows.append(ForestRow("overall, unadjusted", result.unadjusted.estimate))
    if result.adjusted is not None:
        rows.append(ForestRow("overall, accuracy adjusted", result.adjusted.estimate))
    if result.secondary is not None:
        label = f"overall, {when(result.secondary.map)} scaling"
        rows.append(ForestRow(label, result.secondary.estimate))
    return rows


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _forest_line(axes: Axes, position: int, row: ForestRow, low: float, high: float) -> None:
    if row.estimate is None:
        axes.text(1, position, " too few to tell", va="center", fontsize=8, color=MUTED)
        return
    estimate = row.estimate
    color = "black" if row.strong else "0.35"
    ends = [max(low, estimate.low), min(high, estimate.high)]
    axes.plot(ends, [position] * 2, color=color, linewidth=2 if row.strong else 1.2)
    if estimate.low < low:
        axes.plot(low, position, "<", color=color, markersize=6)
    if estimate.high > high:
        axes.plot(high, position, ">", color=color, markersize=6)
    marker, size = ("D", 7) if row.strong else ("s", 5)
    axes.plot(min(max(estimate.ratio, low), high), position, marker, color=color, markersize=size)
    axes.annotate(
        f"{ratio_text(estimate.ratio)} ({range_text(estimate)})",
        (1.01, position),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        annotation_clip=False,
    )


@styled
def variance_shares(shares: VarianceShares, name: str) -> Drawing | None:
    """Draw each factor's share of the variance; None where chance explains as much of all."""
    if not any(share.low > share.by_chance for share in shares.shares):
        return None
    ordered = sorted(shares.shares, key=lambda share: -share.share)
    figure, (axes,) = new_figure(1.1 + 0.36 * len(ordered))
    factors = [share.factor for share in ordered]
    sns.barplot(
        x=[100 * share.share for share in ordered],
        y=factors,
        hue=factors,
        palette=dict.fromkeys(factors, "0.6") | {"mixer": MIXER_COLORS["attention"]},
        saturation=1,
        width=0.55,
        legend=False,
        ax=axes,
    )
    for position, share in enumerate(ordered):
        ends = [100 * share.low, 100 * share.high]
        axes.plot(ends, [position] * 2, color="black", linewidth=1.2)
        axes.plot(100 * share.by_chance, position, "|", color="crimson", markersize=14, mew=2)
    axes.set_xlim(left=min(0, *(100 * share.low for share in ordered)))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the variance of log calibration error (%)")
    explained = f"{100 * shares.explained:.0f}% in all; " if shares.explained is not None else ""
    caption = (
        "How much of the variance of log calibration error within datasets each factor explains. "
        "A bar that does not clear its red mark, the share that noise would give, says nothing."
    )
    method = (
        f"Shapley shares over all orders of entry; {explained}"
        f"{plural(shares.families, 'family', 'families')}. Black lines: 95% interval from "
        f"{shares.resamples:,} bootstrap samples of families."
    )
    top = ordered[0]
    alt = (
        f"Shares of variance; the largest is {top.factor} with {100 * top.share:.0f}% "
        f"({100 * top.low:.0f} to {100 * top.high:.0f}%)."
    )
    return Drawing(name, to_svg(figure), caption, alt, method)


@styled
def specification_curve(result: ClaimResult, name: str) -> Drawing | None:
    """Draw the contrast under every specification; None where none differs from another."""
    specifications = result.specification_curve.specifications
    choices = _choices(specifications)
    if not choices:
        return None
    lines = sum(len(options) for _, options in choices)
    figure, (top, bottom) = new_figure(
        2.9 + 0.19 * lines, 2, 1, sharex=True, height_ratios=[2.2, 0.19 * lines]
    )
    ranks = np.arange(1, len(specifications) + 1)
    ratios = np.array([s.estimate.ratio for s in specifications])
    lows = np.clip([s.estimate.low for s in specifications], 1 / WIDEST_RATIO, WIDEST_RATIO)
    highs = np.clip([s.estimate.high for s in specifications], 1 / WIDEST_RATIO, WIDEST_RATIO)
    clear = (lows > 1) | (highs < 1)
    colors = np.where(clear, "black", "0.6")
    top.vlines(ranks, lows, highs, colors=list(colors), linewidth=0.8)
    top.scatter(ranks, np.clip(ratios, 1 / WIDEST_RATIO, WIDEST_RATIO), 7, c=list(colors), zorder=3)
    top.axhline(1, color="0.4", linewidth=1)
    _log_ratio_axis(top, float(lows.min()), float(highs.max()))
    top.set_ylabel(f"{result.contrast[0]} /\n{result.contrast[1]}")
    _draw_choices(bottom, specifications, choices, ranks)
    bottom.set_xlabel("specification, from the smallest ratio to the largest")
    curve = result.specification_curve
    caption = (
        f"The contrast under {plural(len(specifications), 'specification')}: "
        f"{curve.below_one} ratios are below 1, {curve.above_one} above; "
        f"{curve.excluding_one_below} and {curve.excluding_one_above} of them with an interval "
        "that excludes 1 (black)."
    )
    method = (
        "Specifications differ in estimator, bins, before or after scaling, covariates, clean or "
        f"shifted rows: a mark below says which. Intervals: {100 * (1 - result.alpha):g}%. "
        f"{curve.not_estimable} more could not be estimated. The specifications share their data, "
        "so they are not independent tests."
    )
    alt = (
        f"Specification curve: {curve.below_one} of {len(specifications)} ratios are below 1, "
        f"{curve.excluding_one_below + curve.excluding_one_above} exclude 1."
    )
    return Drawing(name, to_svg(figure), caption, alt, method)


def _log_ratio_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    low, high = min(low, 0.9), max(high, 1.1)
    axes.set_ylim(low / 1.05, high * 1.05)
    wide = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    narrow = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2)
    ticks = [t for t in (wide if high / low > 5 else narrow) if low <= t <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


Choice = tuple[str, list[str]]


def _values(specification: Specification) -> dict[str, str]:
    """Return what a specification chose, by kind of choice."""
    covariates = covariate_list(specification.covariates, nothing="")
    return {
        "estimator": estimator_name(specification.metric),
        "scaling": f"{when(specification.map)} scaling",
        "covariates": f"given {covariates}" if covariates else "no covariates",
        "rows": "shifted rows" if specification.shifted else "clean rows",
    }


def _choices(specifications: Sequence[Specification]) -> list[Choice]:
    kinds: dict[str, dict[str, None]] = {}
    for specification in specifications:
        for kind, value in _values(specification).items():
            kinds.setdefault(kind, {})[value] = None
    return [(kind, sorted(values)) for kind, values in kinds.items() if len(values) > 1]


def _draw_choices(
    axes: Axes, specifications: Sequence[Specification], choices: Sequence[Choice], ranks: Any
) -> None:
    """Mark under each rank which options its specification chose."""
    chosen = [_values(specification) for specification in specifications]
    labels: list[str] = []
    for kind, options in choices:
        for option in options:
            used = [
                rank for rank, values in zip(ranks, chosen, strict=True) if values[kind] == option
            ]
            axes.plot(used, [len(labels)] * len(used), "|", color="0.25", markersize=5)
            labels.append(shorten(option, 40))
        axes.axhline(len(labels) - 0.5, color="0.8", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False)
