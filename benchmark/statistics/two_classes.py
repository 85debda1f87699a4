"""Metrics that only a task of two classes has: they look at P(y = 1), whatever is predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from benchmark.statistics.calibration_error import rms_calibration_error
from benchmark.statistics.metric import PLAIN, POINTS, POSITIVE, Metric, NoInterval
from benchmark.statistics.predictions import Predictions, positive_margin

POSITIVE_BINS = 20


def positive_rms_calibration_error(predictions: Predictions, n_bins: int = POSITIVE_BINS) -> float:
    """RMS calibration error of P(y = 1) over equal-mass bins, in [0, 1]; two classes only.

    Nguyen & O'Connor 2015 "Posterior calibration and exploratory analysis for natural language
    processing models". Unlike top-label errors it looks at the probability of class 1, whatever is
    predicted.

    Raises:
        ValueError: There are not exactly two classes.
    """
    probability = expit(positive_margin(predictions))
    return rms_calibration_error(probability, predictions.labels, n_bins, "equal_mass")


@dataclass(frozen=True)
class ThresholdScores:
    """Precision, recall and F1 of class 1 when it is predicted from `threshold` upwards."""

    threshold: float
    precision: float
    recall: float
    f1: float


def best_f1_threshold(predictions: Predictions) -> ThresholdScores:
    """Find the threshold on P(y = 1) with the best F1 on these very rows; two classes only.

    Optimistic, for the threshold is chosen where it is scored. Candidates are the observed
    probabilities; of equal F1 the highest threshold wins. All 0, at threshold 1, if class 1 does
    not occur.

    Raises:
        ValueError: There are not exactly two classes.
    """
    margin = positive_margin(predictions)
    positive = predictions.labels == 1
    if not positive.any():
        return ThresholdScores(1.0, 0.0, 0.0, 0.0)
    order = np.argsort(-margin)
    last_of_tie = np.append(margin[order][1:] != margin[order][:-1], True)
    accepted = np.flatnonzero(last_of_tie) + 1
    hits = np.cumsum(positive[order])[last_of_tie]
    f1 = 2 * hits / (accepted + positive.sum())
    best = int(f1.argmax())
    threshold = float(expit(margin[order][accepted[best] - 1]))
    precision, recall = hits[best] / accepted[best], hits[best] / positive.sum()
    return ThresholdScores(threshold, float(precision), float(recall), float(f1[best]))


def best_f1_precision(predictions: Predictions) -> float:
    """Precision at the threshold of `best_f1_threshold`."""
    return best_f1_threshold(predictions).precision


def best_f1_recall(predictions: Predictions) -> float:
    """Recall at the threshold of `best_f1_threshold`."""
    return best_f1_threshold(predictions).recall


def best_f1(predictions: Predictions) -> float:
    """F1 at the threshold of `best_f1_threshold`."""
    return best_f1_threshold(predictions).f1


_OPTIMISTIC = NoInterval("the threshold is chosen on the rows it is scored on")
METRICS = (
    Metric(
        "positive_rms_calibration_error_20_equal_mass",
        "RMS calibration error of P(y = 1), 20 equal-mass bins", "RMS error of P(y = 1)",
        positive_rms_calibration_error, "lower", POSITIVE, POINTS, "Nguyen & O'Connor 2015",
        two_classes=True, bins=POSITIVE_BINS,
    ),
    Metric(
        "precision_at_best_f1", "precision at the threshold of the best F1", "precision",
        best_f1_precision, "higher", _OPTIMISTIC, PLAIN, "van Rijsbergen 1979", two_classes=True,
    ),
    Metric(
        "recall_at_best_f1", "recall at the threshold of the best F1", "recall",
        best_f1_recall, "higher", _OPTIMISTIC, PLAIN, "van Rijsbergen 1979", two_classes=True,
    ),
    Metric(
        "f1_at_best_f1", "F1 at its best threshold", "best F1",
        best_f1, "higher", _OPTIMISTIC, PLAIN, "van Rijsbergen 1979", two_classes=True,
    ),
)  # fmt: skip
