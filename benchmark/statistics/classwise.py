"""Calibration of every class's probability, not of the predicted class alone."""

from __future__ import annotations

import numpy as np

from benchmark.statistics.calibration_error import expected_calibration_error
from benchmark.statistics.metric import POINTS, POSITIVE, Metric
from benchmark.statistics.predictions import Predictions

CLASSWISE_BINS = 15


def classwise_ece(predictions: Predictions, n_bins: int = CLASSWISE_BINS) -> float:
    """Mean over classes of the equal-width ECE of that class's probability, in [0, 1].

    Kull et al. 2019 "Beyond temperature scaling"; Nixon et al. 2019 (static calibration error).
    Bins as in `calibration_error`; ties, empty bins and probabilities of exactly 1 likewise. With
    many classes most probabilities are near 0, which makes the mean small.
    """
    n_classes = predictions.rows.n_classes
    offset = n_bins * np.arange(n_classes)
    gap = np.zeros(n_classes * n_bins)
    for at, probabilities in predictions.probability_blocks():
        index = np.maximum(np.ceil(probabilities * n_bins).astype(np.int64) - 1, 0) + offset
        probabilities[np.arange(len(probabilities)), predictions.labels[at]] -= 1
        gap += np.bincount(index.ravel(), probabilities.ravel(), minlength=len(gap))
    return float(np.abs(gap).sum() / (n_classes * predictions.rows.n_rows))


def classwise_equal_mass_error(predictions: Predictions, n_bins: int = CLASSWISE_BINS) -> float:
    """Mean over classes of the equal-mass calibration error of that class's probability, in [0, 1].

    Nixon et al. 2019 "Measuring Calibration in Deep Learning" (adaptive calibration error, without
    its threshold). Every bin of a class holds the same number of rows, so that the many small
    probabilities do not all share the first bin, as they do in `classwise_ece`. Equal
    probabilities stay together. Holds all probabilities in memory.
    """
    rows = predictions.rows
    probabilities = np.empty((rows.n_classes, rows.n_rows), rows.dtype)
    for at, block in predictions.probability_blocks():
        probabilities[:, at] = block.T
    errors = [
        expected_calibration_error(own, rows.labels == k, n_bins, "equal_mass")
        for k, own in enumerate(probabilities)
    ]
    return float(np.mean(errors))


METRICS = (
    Metric(
        "classwise_ece", "class-wise calibration error, equal-width bins", "class-wise ECE",
        classwise_ece, "lower", POSITIVE, POINTS, "Kull et al. 2019; Nixon et al. 2019",
    ),
    Metric(
        "classwise_equal_mass_error", "class-wise calibration error, equal-mass bins",
        "class-wise equal-mass error", classwise_equal_mass_error, "lower", POSITIVE, POINTS,
        "Nixon et al. 2019", outcome="error", bins=CLASSWISE_BINS,
    ),
)  # fmt: skip
