"""Twins: pairs of models that differ in the mixer and little else, and what they show.

Between families everything differs; between twins the mixer does. So pairs of twins are what is
replicated: the contrast is taken within them, labels are exchanged within them, and whatever two
twins share, measured or not, drops out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.claim.result import ClaimMap, TwinPoint, Unit

if TYPE_CHECKING:
    import pandas as pd

FEWEST_PAIRS = 3
"""Pairs without which nothing is said of twins: two cannot show how pairs differ."""


def paired_rows(averaged: pd.DataFrame, contrast: tuple[str, str]) -> pd.DataFrame:
    """Return the rows of twins that met their twin on the same split, `family` naming the pair.

    Args:
        averaged: rows from `checkpoints`, with `twin` where models have one.
        contrast: the two mixers; twins of another mixer are left out.
    """
    import pandas as pd

    if "twin" not in averaged.columns:
        return averaged.iloc[:0]
    chosen = averaged[averaged["mixer"].isin(contrast) & averaged["twin"].notna()]
    keys = ["dataset", "split", "model"]
    there = pd.MultiIndex.from_frame(chosen[keys])
    wanted = pd.MultiIndex.from_frame(chosen[["dataset", "split", "twin"]])
    paired = chosen[wanted.isin(there)]
    names = [" / ".join(sorted(pair)) for pair in zip(paired["model"], paired["twin"], strict=True)]
    return paired.assign(family=names).reset_index(drop=True)


def unit_of(averaged: pd.DataFrame, paired: pd.DataFrame, contrast: tuple[str, str]) -> Unit:
    """Return what a study replicates: pairs of twins where all models of the contrast have one."""
    count = int(averaged["mixer"].isin(contrast).sum())
    return "twins" if has_enough(paired) and len(paired) == count else "family"


def has_enough(paired: pd.DataFrame) -> bool:
    """Say whether there are pairs enough to speak of."""
    return int(paired["family"].nunique()) >= FEWEST_PAIRS


def twin_points(
    paired: pd.DataFrame, metric: str, map_name: ClaimMap, contrast: tuple[str, str]
) -> tuple[TwinPoint, ...]:
    """Return accuracy and calibration error of every pair on every dataset, for the figure.

    Args:
        paired: unshifted rows from `paired_rows`.
        metric: the outcome.
        map_name: the calibration map.
        contrast: the two mixers, in this order in the points.
    """
    points = []
    for (pair, dataset), rows in paired.groupby(["family", "dataset"]):
        sides = [rows[rows["mixer"] == mixer].iloc[0] for mixer in contrast]
        points.append(
            TwinPoint(
                pair=str(pair),
                dataset=str(dataset),
                map=map_name,
                models=(str(sides[0]["model"]), str(sides[1]["model"])),
                accuracies=tuple(float(side[f"accuracy_{map_name}"]) for side in sides),
                errors=tuple(float(side[f"{metric}_{map_name}"]) for side in sides),
            )
        )
    return tuple(points)
