"""Calibration of every class's probability, not of the predicted class alone."""

from __future__ import annotations

import math
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.arrays import Float64Array, FloatArray, UInt8Array
from benchmark.statistics.calibration_error import DebiasedSums
from benchmark.statistics.metric import POINTS, POSITIVE, Debiased, Metric
from benchmark.statistics.predictions import Predictions

CLASSWISE_BINS = 15
PROBES = 64
"""Random signs, over the number of classes, by which the null variance is estimated; at least 1."""
PROBE_SEED = 0


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


def classwise_equal_mass_error(predictions: Predictions) -> float:
    """Mean over classes of the equal-mass calibration error of that class's probability, in [0, 1].

    Nixon et al. 2019 "Measuring Calibration in Deep Learning" (adaptive calibration error, without
    its threshold). Every bin of a class holds the same number of rows, so that the many small
    probabilities do not all share the first bin, as they do in `classwise_ece`. Equal
    probabilities stay together. Holds all probabilities in memory.
    """
    sums = class_sums(predictions)
    return float((np.abs(sums.gap).sum(axis=1) / predictions.rows.n_rows).mean())


def debiased_classwise_error(predictions: Predictions) -> float:
    """Signed root of the debiased mean square calibration error over classes, in [-1, 1].

    The marginal calibration error of Kumar et al. 2019 "Verified Uncertainty Calibration", every
    class weighing alike: the root of the mean over classes of the squared gap between the class's
    probability and its frequency, each estimated without bias from pairs of rows in the same
    equal-mass bin (see `calibration_error.debiased_calibration_error`). Below 0 where noise alone
    would give more. NaN if no bin has two rows. Memory as `classwise_equal_mass_error`.
    """
    squared = _debiased(class_sums(predictions))
    return math.copysign(math.sqrt(abs(squared)), squared)


class ClassSums(NamedTuple):
    """Sums over the equal-mass bins of every class's probability.

    Attributes:
        bins: uint8 [K, n], the bin of each row.
        rows: [K, bins] rows.
        gap: [K, bins] sums of the gap, probability minus whether the row is of the class.
        squares: [K, bins] sums of its square.
    """

    bins: UInt8Array
    rows: Float64Array
    gap: Float64Array
    squares: Float64Array


# Two metrics, and the interval of one, share the bins of one split.
_SUMS: WeakKeyDictionary[Predictions, ClassSums] = WeakKeyDictionary()


def class_sums(predictions: Predictions) -> ClassSums:
    """Return the sums of every class, computed once for the same predictions."""
    if predictions not in _SUMS:
        probabilities = _by_class(predictions)
        n = predictions.rows.n_rows
        last = (np.arange(1, CLASSWISE_BINS) * n + CLASSWISE_BINS - 1) // CLASSWISE_BINS - 1
        bins = np.empty(probabilities.shape, np.uint8)
        for own, index in zip(probabilities, bins, strict=True):
            # Closed on the right, as `assign_bins`; a comparison with all edges is the fastest.
            np.sum(own > np.sort(own)[last, None], axis=0, dtype=np.uint8, out=index)
        _SUMS[predictions] = _sums(predictions, probabilities, bins)
    return _SUMS[predictions]


def _by_class(predictions: Predictions) -> FloatArray:
    """Return all probabilities [K, n]."""
    rows = predictions.rows
    probabilities = np.empty((rows.n_classes, rows.n_rows), rows.dtype)
    for at, block in predictions.probability_blocks():
        probabilities[:, at] = block.T
    return probabilities


def _gaps(predictions: Predictions, probabilities: FloatArray) -> FloatArray:
    """Turn probabilities [K, n] into gaps, in their own memory."""
    labels = predictions.labels
    probabilities[labels, np.arange(len(labels))] -= 1
    return probabilities


def _sums(predictions: Predictions, probabilities: FloatArray, bins: UInt8Array) -> ClassSums:
    """Sum gaps over bins; overwrites the probabilities."""
    sums = np.empty((3, len(bins), CLASSWISE_BINS))
    for k, (gap, index) in enumerate(zip(_gaps(predictions, probabilities), bins, strict=True)):
        for out, weights in zip(sums, (None, gap, gap * gap), strict=True):
            out[k] = np.bincount(index, weights, minlength=CLASSWISE_BINS)
    return ClassSums(bins, *sums)


def _debiased(sums: ClassSums) -> float:
    """Return the mean over classes of the debiased squared error; NaN without two rows in a bin."""
    used = sums.rows >= 2
    rows = np.where(used, sums.rows, 2)
    pairs = (sums.gap**2 - sums.squares) / (rows - 1)
    count = np.where(used, sums.rows, 0).sum(axis=1)
    if not (count > 0).any():
        return math.nan
    return float((np.where(used, pairs, 0).sum(axis=1)[count > 0] / count[count > 0]).mean())


def squared_at(predictions: Predictions, bins: UInt8Array) -> float:
    """Return the debiased squared error in given bins [K, n], such as those of another temperature.

    NaN if no bin has two rows.
    """
    return _debiased(_sums(predictions, _by_class(predictions), bins))


def classwise_parts(predictions: Predictions) -> DebiasedSums:
    """Return the debiased squared error over classes with the parts of its variance.

    As `calibration_error.debiased_sums`, but a row takes part in every class, so its parts are
    added up over classes before they are squared. What is left without any error is the sum over
    pairs of rows of the squares of a matrix M, which is too large to form: it is the mean square of
    M times random signs (Hutchinson 1990), M being of so high a rank that a few signs are enough.
    """
    sums, n = class_sums(predictions), predictions.rows.n_rows
    n_classes = len(sums.bins)
    mean = sums.gap / np.maximum(sums.rows, 1)
    scale = 1 / np.sqrt(np.maximum(sums.rows - 1, 1))
    probes = max(PROBES // n_classes, 1)
    signs = np.random.default_rng(PROBE_SEED).choice([-1.0, 1.0], size=(probes, n))
    linear, products = np.zeros(n), np.zeros((probes, n))
    gaps = _gaps(predictions, _by_class(predictions))
    for own, index, average, weight in zip(gaps, sums.bins, mean, scale, strict=True):
        residual = own - average[index]
        linear += average[index] * (2 * residual + average[index])
        residual *= weight[index]
        for sign, product in zip(signs, products, strict=True):
            product += residual * np.bincount(index, residual * sign, CLASSWISE_BINS)[index]
    mass = float((sums.gap * mean).sum()) / n
    null = 2 * float((products**2).sum(axis=1).mean()) / (n * n_classes) ** 2
    slope = float(linear.var()) / n / n_classes / mass if mass > 0 else 0.0
    return DebiasedSums(_debiased(sums), null, slope)


METRICS = (
    Metric(
        "classwise_ece", "class-wise calibration error, equal-width bins", "class-wise ECE",
        classwise_ece, "lower", POSITIVE, POINTS, "Kull et al. 2019; Nixon et al. 2019",
        bins=CLASSWISE_BINS,
    ),
    Metric(
        "classwise_equal_mass_error", "class-wise calibration error, equal-mass bins",
        "class-wise equal-mass error", classwise_equal_mass_error, "lower", POSITIVE, POINTS,
        "Nixon et al. 2019", outcome="error", bins=CLASSWISE_BINS,
    ),
    Metric(
        "debiased_classwise_error", "debiased class-wise calibration error, root mean square",
        "debiased class-wise error", debiased_classwise_error, "lower",
        Debiased(squared=False, by_class=True), POINTS, "Kumar et al. 2019",
        over_seeds="root_mean_square", outcome="error", bins=CLASSWISE_BINS, bounds=(-1, 1),
    ),
)  # fmt: skip
