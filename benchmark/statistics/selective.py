"""Selective classification: what is wrong among the rows one is most confident of."""

from __future__ import annotations

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.metric import PLAIN, Influence, Metric
from benchmark.statistics.predictions import Predictions


def aurc(predictions: Predictions) -> float:
    """Area under the risk-coverage curve: mean error rate among the i most confident rows.

    Geifman & El-Yaniv 2017, averaged over i = 1 ... n; in [0, 1]. Within tied confidences the
    expected value over their orders is taken, so the order of rows does not matter. Ranked by
    `Predictions.doubt`, which tells confidences apart that round to 1.
    """
    errors = predictions.ranking.errors
    return float((errors / np.arange(1, len(errors) + 1)).mean())


def augrc(predictions: Predictions) -> float:
    """Area under the generalised risk-coverage curve, in [0, 1/2].

    Traub et al. 2024 "Overcoming Common Flaws in the Evaluation of Selective Classification
    Systems": the chance that a row is both wrong and accepted, integrated over coverage by
    trapezoids. Ties as in `aurc`.
    """
    errors = np.concatenate([[0.0], predictions.ranking.errors])
    return float((errors[1:] + errors[:-1]).mean() / (2 * predictions.rows.n_rows))


def aurc_influence(predictions: Predictions) -> Float64Array:
    """Influence function of `aurc` [n].

    With weights w, A = sum_i w_i E_i / N_i, where E and N are the weighted errors and rows among
    the i most confident; the derivative in w_k is E_k / N_k + sum_{i >= k} w_i (e_k - E_i / N_i) /
    N_i. A row that is tied stands at every position of its tie with equal chance, but its error
    e_k stays its own: the mean error of the tie in its place would leave out how that varies.
    """
    accepted = np.arange(1, predictions.rows.n_rows + 1)
    risk = predictions.ranking.errors / accepted
    later = _sum_from_here(1 / accepted)
    later_risk = _sum_from_here(risk / accepted)
    return _effects(predictions, risk - later_risk, later)


def augrc_influence(predictions: Predictions) -> Float64Array:
    """Influence function of `augrc` [n]; ties as in `aurc_influence`."""
    n = predictions.rows.n_rows
    errors = predictions.ranking.errors
    before = (errors - np.diff(errors, prepend=0.0) / 2) / n
    return _effects(predictions, before, (n - np.arange(n) - 0.5) / n)


def _effects(
    predictions: Predictions, of_position: Float64Array, of_error: Float64Array
) -> Float64Array:
    """Return of_position + error * of_error of every row [n], averaged over positions of its tie.

    Args:
        predictions: The rows.
        of_position: [n], in order of falling confidence, what a row adds by standing there.
        of_error: [n] likewise, what it adds if it is wrong.
    """
    order, first, size, _ = predictions.ranking
    means = (
        np.repeat(np.add.reduceat(values, first) / size, size) for values in (of_position, of_error)
    )
    position, error = means
    effect = np.empty(len(order))
    effect[order] = position + error * ~predictions.correct[order]
    return np.asarray(effect - effect.mean())


def _sum_from_here(values: Float64Array) -> Float64Array:
    return np.asarray(np.cumsum(values[::-1])[::-1])


METRICS = (
    Metric(
        "aurc", "area under the risk-coverage curve", "AURC", aurc, "lower",
        Influence(aurc_influence), PLAIN, "Geifman & El-Yaniv 2017",
    ),
    Metric(
        "augrc", "area under the generalised risk-coverage curve", "AUGRC", augrc, "lower",
        Influence(augrc_influence), PLAIN, "Traub et al. 2024",
    ),
)  # fmt: skip
