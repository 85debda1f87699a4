"""Scores after the maps that are neither none nor temperature, and what they gain over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmark.arrays import Float64Array
from benchmark.statistics.calibrators import NONE, TEMPERATURE, FittedMaps
from benchmark.statistics.comparison import mean_difference, share_difference
from benchmark.statistics.contrast import PairedDifference
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.metric import Influence, Share
from benchmark.statistics.metrics import METRICS, metrics_for
from benchmark.statistics.predictions import Predictions


class MapScores(NamedTuple):
    """Scores of one split after other maps.

    Attributes:
        estimates: By map and metric, values without intervals.
        differences: By map and metric, the map's value minus that after temperature scaling, with
            the 95% interval of the paired rows (see `comparison`). Maps are held fixed, so it lacks
            what the calibration rows add.
    """

    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]


def score_other_maps(logits: Logits, labels: Labels, maps: FittedMaps) -> MapScores:
    """Score one split after every fitted map but none and temperature.

    Args:
        logits: [n, K] of the split to score.
        labels: [n] its labels.
        maps: Fitted on the calibration split, from `fit_maps`.

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
        _gains(Predictions.from_rows(rows, maps.temperature.temperature), others, values),
    )


def _gains(
    scaled: Predictions,
    others: Mapping[str, Predictions],
    values: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, Estimate]]:
    """Return what each map gives minus what the temperature gives, by map and metric."""
    metrics = [m for m in metrics_for(scaled.rows.n_classes) if not m.scaling_only]
    shares = {m.name: m.interval.hits for m in metrics if isinstance(m.interval, Share)}
    effects = {m.name: m.interval.effect for m in metrics if isinstance(m.interval, Influence)}
    hits = {name: of(scaled) for name, of in shares.items()}
    reference = {name: (METRICS[name](scaled), of(scaled)) for name, of in effects.items()}
    return {
        name: {
            **{m: _estimate(share_difference(of(one), hits[m])) for m, of in shares.items()},
            **{
                m: _gain(values[name][m] - reference[m][0], of(one) - reference[m][1])
                for m, of in effects.items()
            },
        }
        for name, one in others.items()
    }


def _gain(difference: float, effects: Float64Array) -> Estimate:
    found = mean_difference(difference, effects)
    if isinstance(found, str):
        return Estimate(difference, no_interval=found)
    return _estimate(found)


def _estimate(found: PairedDifference) -> Estimate:
    return Estimate(found.difference, found.low, found.high)
