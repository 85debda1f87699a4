"""Models by datasets: the debiased error of every pair, as a table and as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns

from benchmark.markup import MISSING, Cell, Column, Table, decimals, file_name, plural
from benchmark.report.drawings import Asked, Drawings
from benchmark.report.figure_style import Drawing, new_figure, short_names, styled, to_svg

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.report.choice import Choice, Group

ERROR = "debiased_calibration_error_temperature"
MAX_HEAT_MODELS = 60
"""Rows of the heat map: the models with the lowest mean rank."""

MAX_WRITTEN = 300
"""Cells of a heat map with their number in them; of more, only the table has the numbers."""


@dataclass(frozen=True)
class AcrossTable:
    """One group's models by its datasets.

    Attributes:
        title: of the group.
        table: a row per model, by mean rank; a column per dataset.
        shades: by row, the place of each cell of the table among its column's, from 0 (lowest
            error) to 1; None where the cell is no error.
        asked: the same as a heat map.
    """

    title: str
    table: Table
    shades: tuple[tuple[float | None, ...], ...]
    asked: Asked

    @property
    def drawing(self) -> Drawing:
        """The same as a heat map."""
        drawing = self.asked.drawing
        assert drawing is not None
        return drawing


def across_tables(
    table: pd.DataFrame, choice: Choice, drawings: Drawings
) -> tuple[AcrossTable, ...]:
    """Return a table of each group with several models on several datasets.

    Args:
        table: test rows of `data.over_seeds`.
        choice: of `choose`: what is compared with what.
        drawings: asked for the heat maps.
    """
    wanted = [g for g in choice.groups if len(g.datasets) > 1 and len(g.candidates) > 1]
    return tuple(
        _across(table, group, f"errors-across-{file_name(group.datasets[0])}", drawings)
        for group in wanted
    )


def _across(table: pd.DataFrame, group: Group, name: str, drawings: Drawings) -> AcrossTable:
    errors = (
        table[table["dataset"].isin(group.datasets)]
        .astype({"dataset": str, "model": str})
        .pivot(index="model", columns="dataset", values=ERROR)
        .astype(float)
    )
    ranks = errors.rank()
    mean_ranks = ranks.mean(axis=1)
    # A model that lacks datasets has a rank of others, so it stands below the complete ones.
    lacks = errors.isna().sum(axis=1)
    order = [m for *_, m in sorted(zip(lacks, mean_ranks, errors.index, strict=True))]
    errors, ranks = errors.loc[order], ranks.loc[order]
    shades = (ranks - 1) / (ranks.max() - 1).clip(lower=1)
    columns = (
        Column("model", "model", "left"),
        Column(
            "rank",
            "rank",
            help="by the debiased error after scaling, mean over datasets; 1 is best",
        ),
        *(Column(dataset, dataset, help="debiased error, pp") for dataset in errors.columns),
    )
    rows = [
        (
            Cell(model, model, link=f"models/{file_name(model)}.md"),
            Cell(decimals(mean_ranks[model], 1), mean_ranks[model]),
            *(_cell(error) for error in errors.loc[model]),
        )
        for model in order
    ]
    return AcrossTable(
        group.title,
        Table(columns, rows),
        tuple((None, None, *map(_shade, shades.loc[model])) for model in order),
        drawings.ask(_heat_map, errors, shades, name),
    )


def _cell(error: float) -> Cell:
    """Show an error in points; one below 0 by chance is not told from 0."""
    return Cell(MISSING) if math.isnan(error) else Cell(_text(error), error)


def _text(error: float) -> str:
    return "~0" if error < 0 else decimals(100 * error, 1)


def _shade(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@styled
def _heat_map(errors: pd.DataFrame, shades: pd.DataFrame, name: str) -> Drawing:
    shown = errors.index[:MAX_HEAT_MODELS]
    models, datasets = short_names(shown, 30), short_names(errors.columns, 20)
    figure, (axes,) = new_figure(1.6 + 0.2 * len(shown))
    texts = [["" if math.isnan(e) else _text(e) for e in errors.loc[model]] for model in shown]
    written = errors.loc[shown].size <= MAX_WRITTEN
    sns.heatmap(
        shades.loc[shown].to_numpy(float),
        annot=np.array(texts) if written else None,
        fmt="",
        annot_kws={"size": 7.5, "color": "0.1"},
        cmap=sns.light_palette(sns.color_palette("colorblind")[3], as_cmap=True),
        # The darkest shade stops where dark text is still easy to read on it.
        vmin=0,
        vmax=1.6,
        cbar=False,
        linewidths=0.5,
        xticklabels=[datasets[dataset] for dataset in errors.columns],
        yticklabels=[models[model] for model in shown],
        ax=axes,
    )
    axes.tick_params(length=0)
    _turn(axes.get_xticklabels())
    caption = (
        f"Debiased calibration error after temperature scaling of {plural(len(shown), 'model')} on "
        f"{plural(errors.shape[1], 'dataset')}, in percentage points; the stronger the shade, "
        "the worse among the models on that dataset."
    )
    rest = len(errors) - len(shown)
    method = (
        "Mean over seeds, lowest mean rank first; a model without all datasets comes last. ~0: not "
        "told from 0. The tables of each dataset have the 95% intervals."
        + (f" {plural(rest, 'more model')} not drawn." if rest else "")
    )
    alt = f"Heat map of calibration error, {len(shown)} models by {errors.shape[1]} datasets."
    return Drawing(name, to_svg(figure), caption, alt, method)


def _turn(labels: Sequence[object]) -> None:
    """Write the datasets' names aslant, so that long ones do not run into one another."""
    for label in labels:
        label.set(rotation=35, ha="right", rotation_mode="anchor")  # type: ignore[attr-defined]
