"""How often the prediction is right, whatever its confidence."""

from __future__ import annotations

import math

import numpy as np

from benchmark.arrays import BoolArray, Float64Array, FloatArray
from benchmark.statistics.metric import PERCENT, PLAIN, Influence, Metric, NoInterval, Share
from benchmark.statistics.predictions import Predictions, positive_margin


def accuracy(predictions: Predictions) -> float:
    """Fraction of rows whose most probable class (of several, the first) is the label."""
    return float(predictions.correct.mean())


def macro_f1(predictions: Predictions) -> float:
    """Unweighted mean over classes of F1, in [0, 1].

    As scikit-learn: over classes that occur among labels or predictions; a class never right
    scores 0.
    """
    n_classes = predictions.rows.n_classes
    right = np.bincount(predictions.labels[predictions.correct], minlength=n_classes)
    claimed = np.bincount(predictions.predicted, minlength=n_classes)
    actual = np.bincount(predictions.labels, minlength=n_classes)
    either = (claimed + actual) > 0
    return float((2 * right[either] / (claimed + actual)[either]).mean())


def roc_auc(predictions: Predictions) -> float:
    """Area under the ROC curve of class 1 if K = 2, else the one-vs-rest mean, in [0, 1].

    The chance that a random row of the class gets a higher probability of it than a random other
    row, ties counting one half (Hanley & McNeil 1982; macro average as scikit-learn). Classes
    without rows, or with all of them, have no curve and are left out; NaN if none is left. Holds
    all probabilities in memory.
    """
    if predictions.rows.n_classes == 2:
        return _rank_auc(positive_margin(predictions), predictions.labels == 1)
    rows = predictions.rows
    probabilities = np.empty((rows.n_classes, rows.n_rows), rows.dtype)
    for at, block in predictions.probability_blocks():
        probabilities[:, at] = block.T
    areas = [_rank_auc(row, predictions.labels == k) for k, row in enumerate(probabilities)]
    present = [area for area in areas if not math.isnan(area)]
    return float(np.mean(present)) if present else math.nan


def _rank_auc(score: FloatArray, positive: BoolArray) -> float:
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return math.nan
    ordered, own = np.sort(score), score[positive]
    below, up_to = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
    rank_sum = float(((below + up_to + 1) / 2).sum())  # equal scores share their middle rank
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


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


METRICS = (
    Metric(
        "accuracy", "accuracy", "accuracy", accuracy, "higher",
        Share(lambda predictions: predictions.correct), PERCENT,
        "share of rows predicted right",
    ),
    Metric(
        "macro_f1", "macro-averaged F1", "macro F1", macro_f1, "higher",
        Influence(macro_f1_influence, follows_temperature=False, by_class=True), PLAIN,
        "as scikit-learn",
    ),
    Metric(
        "roc_auc", "area under the ROC curve, one class against the rest", "AUC", roc_auc, "higher",
        NoInterval("a mean of rank statistics over classes; not resampled"), PLAIN,
        "Hanley & McNeil 1982",
    ),
)  # fmt: skip
