"""Scores after the maps that are neither none nor temperature, and what they gain over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.calibrators import NONE, TEMPERATURE, FittedMaps
from benchmark.statistics.comparison import paired_difference
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.intervals import replicates_of
from benchmark.statistics.logit_arrays import Labels, LogitRows, Logits, check_rows
from benchmark.statistics.metric import Metric, Resampled
from benchmark.statistics.metrics import metrics_for
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import RESAMPLES, TemperaturePath


class MapScores(NamedTuple):
    """Scores of one split after other maps.

    Attributes:
        estimates: By map and metric, values without intervals.
        differences: By map and metric, the map's value minus that after temperature scaling, with
            the normal 95% interval of a paired bootstrap of the rows; metrics that are means over
            rows only. Maps are held fixed, so it lacks what the calibration rows add.
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
    rows = check_rows(logits, labels)
    others = {
        name: Predictions.from_logits(fitted(logits), labels)
        for name, fitted in maps.fitted.items()
        if name not in (NONE, TEMPERATURE)
    }
    metrics = [m for m in metrics_for(rows.n_classes) if not m.scaling_only]
    values = {name: {m.name: m(one) for m in metrics} for name, one in others.items()}
    return MapScores(
        {
            name: {metric: Estimate(v) for metric, v in found.items()}
            for name, found in values.items()
        },
        _gains(rows, maps.temperature.temperature, others, values, resamples, seed),
    )


def _gains(
    rows: LogitRows,
    temperature: float,
    others: Mapping[str, Predictions],
    values: Mapping[str, Mapping[str, float]],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Estimate]]:
    """Return what each map gives minus what the temperature gives, by map and metric."""
    scaled = Predictions.from_rows(rows, temperature)
    scored = {TEMPERATURE: scaled, **others}
    paths = {name: TemperaturePath.fixed(one, resamples) for name, one in scored.items()}
    metrics = [m for m in metrics_for(rows.n_classes) if _is_mean_of_rows(m)]
    replicates = replicates_of(paths, metrics, seed)
    reference = {m.name: m(scaled) for m in metrics}
    return {
        name: {
            metric: _gain(
                values[name][metric] - reference[metric],
                replicates[name][metric] - replicates[TEMPERATURE][metric],
            )
            for metric in reference
        }
        for name in others
    }


def _is_mean_of_rows(metric: Metric) -> bool:
    kind = metric.interval
    return isinstance(kind, Resampled) and kind.follows_temperature != "value"


def _gain(difference: float, replicates: Float64Array) -> Estimate:
    if not np.isfinite(replicates).all():  # a label of probability 0
        return Estimate(difference)
    found = paired_difference(difference, replicates)
    return Estimate(found.difference, found.low, found.high)
