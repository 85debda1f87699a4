"""Scores after the maps that are neither none nor temperature, and what they gain over it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmark.statistics.calibrators import NONE, TEMPERATURE, FittedMaps
from benchmark.statistics.comparison import paired_difference
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.intervals import replicates_of
from benchmark.statistics.logit_arrays import Labels, Logits
from benchmark.statistics.metrics import metrics_for
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import RESAMPLES, TemperaturePath


class MapScores(NamedTuple):
    """Scores of one split after other maps.

    Attributes:
        estimates: By map and metric, values without intervals.
        differences: By map and metric, the map's value minus that after temperature scaling, with
            the normal 95% interval of a paired bootstrap of the rows. Maps are held fixed, so it
            lacks what the calibration rows add; metrics whose interval is not resampled have none.
    """

    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]


def score_other_maps(
    logits: Logits,
    labels: Labels,
    maps: FittedMaps,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MapScores:
    """Score one split after every fitted map but none and temperature.

    Args:
        logits: [n, K] of the split to score.
        labels: [n] its labels.
        maps: Fitted on the calibration split, from `fit_maps`.
        resamples: Of rows, at least 2.
        seed: Of the resamples; the same rows are drawn for all maps.

    Raises:
        ValueError: Naming the first bad row.
    """
    scored = {
        name: Predictions.from_logits(fitted(logits), labels)
        for name, fitted in maps.fitted.items()
        if name != NONE
    }
    metrics = [m for m in metrics_for(np.shape(logits)[1]) if not m.scaling_only]
    paths = {name: TemperaturePath.fixed(one, resamples) for name, one in scored.items()}
    replicates = replicates_of(paths, metrics, seed)
    values = {name: {m.name: m(one) for m in metrics} for name, one in scored.items()}
    others = [name for name in scored if name != TEMPERATURE]
    return MapScores(
        {name: {metric: Estimate(v) for metric, v in values[name].items()} for name in others},
        {
            name: {metric: _gain(values, replicates, name, metric) for metric in replicates[name]}
            for name in others
        },
    )


def _gain(
    values: dict[str, dict[str, float]],
    replicates: dict[str, dict[str, np.ndarray]],
    name: str,
    metric: str,
) -> Estimate:
    difference = values[name][metric] - values[TEMPERATURE][metric]
    spread = replicates[name][metric] - replicates[TEMPERATURE][metric]
    if not np.isfinite(spread).all():  # a label of probability 0
        return Estimate(difference)
    found = paired_difference(difference, spread)
    return Estimate(found.difference, found.low, found.high)
