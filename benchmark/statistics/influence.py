"""First-order effect of each row on a metric, for intervals.

The mean of an influence function over resampled rows is, to first order, the change of the metric
(the infinitesimal jackknife, Efron 1982), so metrics that sort or group rows resample as cheaply as
means.
"""

from __future__ import annotations

import numpy as np

from benchmark.arrays import Float64Array, IntArray
from benchmark.statistics.metrics import Predictions, cumulative_errors


def macro_f1_influence(predictions: Predictions) -> Float64Array:
    """Influence function of `macro_f1` [n]."""
    n_classes = predictions.rows.n_classes
    right = np.bincount(predictions.labels[predictions.correct], minlength=n_classes)
    total = np.bincount(predictions.predicted, minlength=n_classes) + np.bincount(
        predictions.labels, minlength=n_classes
    )
    scale = np.divide(len(predictions.labels), total, out=np.zeros(n_classes), where=total > 0)
    f1 = 2 * right / np.maximum(total, 1)
    effect = 2 * predictions.correct * scale[predictions.labels]
    for classes in (predictions.labels, predictions.predicted):
        effect = effect - (f1 * scale)[classes]
    return np.asarray(effect / np.count_nonzero(total))


def aurc_influence(predictions: Predictions) -> Float64Array:
    """Influence function of `aurc` [n].

    With weights w, A = sum_i w_i E_i / N_i, where E and N are the weighted errors and rows among
    the i most confident; the derivative in w_k is E_k / N_k + sum_{i >= k} w_i (e_k - E_i / N_i) /
    N_i.
    """
    order, errors, rate = _ranked_errors(predictions)
    n = len(order)
    accepted = np.arange(1, n + 1) / n
    risk = errors / np.arange(1, n + 1)
    later = _sum_from_here(1 / accepted) / n
    later_risk = _sum_from_here(risk / accepted) / n
    effect = np.empty(n)
    effect[order] = risk + rate * later - later_risk
    return np.asarray(effect - effect.mean())


def augrc_influence(predictions: Predictions) -> Float64Array:
    """Influence function of `augrc` [n]."""
    order, errors, rate = _ranked_errors(predictions)
    n = len(order)
    effect = np.empty(n)
    effect[order] = (errors - rate / 2) / n + rate * (n - np.arange(n) - 0.5) / n
    return np.asarray(effect - effect.mean())


def _ranked_errors(predictions: Predictions) -> tuple[IntArray, Float64Array, Float64Array]:
    """Rows by falling confidence, their cumulative expected errors, and each row's own."""
    order = np.argsort(-predictions.confidence, kind="stable")
    errors = cumulative_errors(predictions)
    return order, errors, np.diff(errors, prepend=0.0)


def _sum_from_here(values: Float64Array) -> Float64Array:
    return np.asarray(np.cumsum(values[::-1])[::-1])
