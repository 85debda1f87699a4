"""All metrics by name, in the order in which records and pages list them."""

from __future__ import annotations

from benchmark.statistics import (
    classification,
    classwise,
    confidence_errors,
    conformal,
    likelihood,
    selection,
    selective,
    two_classes,
)
from benchmark.statistics.metric import Metric
from benchmark.statistics.predictions import Predictions

METRICS: dict[str, Metric] = {
    metric.name: metric
    for module in (
        *(classification, likelihood, confidence_errors, classwise, selective, selection),
        *(conformal, two_classes),
    )
    for metric in module.METRICS
}


def metrics_for(n_classes: int) -> tuple[Metric, ...]:
    """Return the metrics that a task of so many classes has."""
    return tuple(m for m in METRICS.values() if n_classes == 2 or not m.two_classes)


def score(predictions: Predictions) -> dict[str, float]:
    """Return the value of every metric that the task has, by name.

    Args:
        predictions: Of a split, from `Predictions.from_logits`.
    """
    return {metric.name: metric(predictions) for metric in metrics_for(predictions.rows.n_classes)}
