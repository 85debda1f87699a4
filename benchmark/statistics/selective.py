"""Selective classification: what is wrong among the rows one is most confident of."""

from __future__ import annotations

import numpy as np

from benchmark.arrays import Float64Array, IntArray
from benchmark.statistics.metric import PLAIN, Metric, Resampled
from benchmark.statistics.predictions import Predictions


def aurc(predictions: Predictions) -> float:
    """Area under the risk-coverage curve: mean error rate among the i most confident rows.

    Geifman & El-Yaniv 2017, averaged over i = 1 ... n; in [0, 1]. Within tied confidences the
    expected value over their orders is taken, so the order of rows does not matter.
    """
    errors = predictions.cumulative_errors
    return float((errors / np.arange(1, len(errors) + 1)).mean())


def augrc(predictions: Predictions) -> float:
    """Area under the generalised risk-coverage curve, in [0, 1/2].

    Traub et al. 2024 "Overcoming Common Flaws in the Evaluation of Selective Classification
    Systems": the chance that a row is both wrong and accepted, integrated over coverage by
    trapezoids. Ties as in `aurc`.
    """
    errors = np.concatenate([[0.0], predictions.cumulative_errors])
    return float((errors[1:] + errors[:-1]).mean() / (2 * predictions.rows.n_rows))


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
    errors = predictions.cumulative_errors
    return order, errors, np.diff(errors, prepend=0.0)


def _sum_from_here(values: Float64Array) -> Float64Array:
    return np.asarray(np.cumsum(values[::-1])[::-1])


METRICS = (
    Metric(
        "aurc", "area under the risk-coverage curve", "AURC", aurc, "lower",
        Resampled(aurc_influence, "value"), PLAIN, "Geifman & El-Yaniv 2017",
    ),
    Metric(
        "augrc", "area under the generalised risk-coverage curve", "AUGRC", augrc, "lower",
        Resampled(augrc_influence, "value"), PLAIN, "Traub et al. 2024",
    ),
)  # fmt: skip
