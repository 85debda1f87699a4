"""Accuracy of the rows that one keeps when the least confident ones are put aside."""

from __future__ import annotations

from benchmark.statistics.metric import PERCENT, EffectiveShare, Metric
from benchmark.statistics.predictions import Predictions

NEAR_PERCENT, NEAR_ROWS = 5, 10
"""Rows to either side of the last one kept, of all rows, that show how often such are right."""


def rows_kept(n: int, percent: int) -> int:
    """Return how many of n rows are at least so many percent."""
    return -(-n * percent // 100)


def selective_accuracy(predictions: Predictions, percent: int) -> float:
    """Accuracy of the most confident rows, at least `percent` of all, in [0, 1].

    El-Yaniv & Wiener 2010, "On the Foundations of Noise-free Selective Classification". Ranked and
    tied as in `selective.aurc`: of rows that are tied at the border the expected number of right
    ones counts.
    """
    kept = rows_kept(predictions.rows.n_rows, percent)
    return 1 - float(predictions.ranking.errors[kept - 1]) / kept


def effective_rows(predictions: Predictions, percent: int) -> float:
    """Return of how many rows chosen beforehand the accuracy would be known as well.

    Which rows are kept depends on the rows. If c of all are kept, of which A are right, and r of
    those at the border, the variance is [A (1 - A) + (A - r)^2 (1 - c)] / (c n), not
    A (1 - A) / (c n). A counts half a right and half a wrong row more, so that it is not 1.
    """
    n, errors = predictions.rows.n_rows, predictions.ranking.errors
    kept = rows_kept(n, percent)
    near = max(rows_kept(n, NEAR_PERCENT), NEAR_ROWS)
    first, last = max(kept - near, 0), min(kept + near, n)
    wrong = float(errors[last - 1]) - (float(errors[first - 1]) if first else 0.0)
    right = (kept - float(errors[kept - 1]) + 0.5) / (kept + 1)
    spread = right * (1 - right)
    at_border = (right - (1 - wrong / (last - first))) ** 2 * (1 - kept / n)
    return kept * spread / (spread + at_border)


def accuracy_at(percent: int) -> Metric:
    """Return the accuracy at a coverage of so many percent, as a metric."""
    return Metric(
        f"accuracy_at_{percent}", f"accuracy of the {percent}% most confident rows",
        f"accuracy at {percent}% coverage", lambda p: selective_accuracy(p, percent), "higher",
        EffectiveShare(lambda p: effective_rows(p, percent)), PERCENT, "El-Yaniv & Wiener 2010",
    )  # fmt: skip


METRICS = (accuracy_at(80), accuracy_at(90))
