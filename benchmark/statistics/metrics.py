"""Point metrics of a classifier from its logits and labels.

`Predictions.from_logits` reads the logits once; every metric is then a function of the result,
listed by name in `METRICS`. Calibration errors of confidences live in `calibration_error` and
`smooth_ece`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from benchmark.arrays import BoolArray, Float64Array, FloatArray, IntArray
from benchmark.statistics.calibration_error import (
    Scheme,
    debiased_calibration_error,
    expected_calibration_error,
    ks_calibration_error,
    max_calibration_error,
    rms_calibration_error,
)
from benchmark.statistics.logit_arrays import (
    Labels,
    LogitRows,
    Logits,
    check_rows,
    row_dot,
    row_sum,
    to_numpy,
)
from benchmark.statistics.smooth_ece import smooth_ece
from benchmark.statistics.temperature import (
    check_temperature,
    fit_temperature,
    scale_shifted,
)

CROSS_FITTING_FOLDS = 5
CLASSWISE_BINS = 15
SEED_BINS = 20


@dataclass(frozen=True)
class Predictions:
    """What the metrics need of each row, at one temperature.

    Attributes:
        rows: The checked logits and labels.
        temperature: In [0, inf].
        predicted: int64 [n], the most probable class (the first of several).
        confidence: float64 [n], its probability, in [1/K, 1].
        nll: float64 [n], -log probability of the label, nats, in [0, inf].
        brier: float64 [n], squared distance between probabilities and the one-hot label, in [0, 2].
    """

    rows: LogitRows
    temperature: float
    predicted: IntArray
    confidence: Float64Array
    nll: Float64Array
    brier: Float64Array

    @classmethod
    def from_logits(cls, logits: Logits, labels: Labels, temperature: float = 1.0) -> Predictions:
        """Score every row in one pass over the logits.

        Args:
            logits: Float array or tensor [n, K], K >= 2; -inf marks a masked class.
            labels: Integers [n] in 0 ... K-1.
            temperature: In [0, inf]; 1 leaves the logits as they are.

        Raises:
            ValueError: Naming the first bad row, or a temperature out of range.
        """
        return cls.from_rows(check_rows(logits, labels), temperature)

    @classmethod
    def from_rows(cls, rows: LogitRows, temperature: float) -> Predictions:
        """Score checked rows; see `from_logits`."""
        check_temperature(temperature)
        if math.isinf(temperature):  # only there do finite masks make a difference
            rows = rows.without_masks()
        predicted = np.empty(rows.n_rows, np.int64)
        confidence, nll, brier = np.empty((3, rows.n_rows))
        for block in rows.blocks():
            at, label = block.rows, scale_shifted(block.label_shifted, temperature)
            predicted[at] = block.source.argmax(axis=1)
            weights = scale_shifted(block.shifted, temperature)
            np.exp(weights, out=weights)
            total = row_sum(weights)
            np.divide(1, total, out=confidence[at], dtype=total.dtype)
            nll[at] = np.log(total) - label
            brier[at] = row_dot(weights, weights) / total**2 - 2 * np.exp(label) / total + 1
        return cls(rows, float(temperature), predicted, confidence, nll, brier)

    @property
    def labels(self) -> IntArray:
        """int64 [n], the true classes."""
        return self.rows.labels

    @cached_property
    def correct(self) -> BoolArray:
        """Bool [n], whether the prediction is the label."""
        return np.equal(self.predicted, self.labels)

    @cached_property
    def cross_fitted(self) -> tuple[float, float]:
        """Mean NLL and Brier score, each fold at the temperature fitted on the other folds."""
        return _cross_fit(self.rows)

    def probability_blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield consecutive rows with their probabilities [m, K], overwritten by the next block."""
        for block in self.rows.blocks():
            weights = np.exp(scale_shifted(block.shifted, self.temperature))
            weights /= row_sum(weights)[:, None]
            yield block.rows, weights


Metric = Callable[[Predictions], float]


def nll(predictions: Predictions) -> float:
    """Mean negative log-likelihood of the labels, nats; inf if any has probability 0."""
    return float(predictions.nll.mean())


def brier(predictions: Predictions) -> float:
    """Mean squared distance between the probability vector and the one-hot label, in [0, 2].

    Brier 1950: summed over classes, so for K = 2 it is twice the score of P(y = 1) alone.
    """
    return float(predictions.brier.mean())


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
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(size) - (size - 1) / 2
    rank_sum = float(middle_rank[group[positive]].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def signed_gap(predictions: Predictions) -> float:
    """Mean confidence minus accuracy, in [-1, 1]: positive when over-confident."""
    return float(predictions.confidence.mean()) - accuracy(predictions)


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


def aurc(predictions: Predictions) -> float:
    """Area under the risk-coverage curve: mean error rate among the i most confident rows.

    Geifman & El-Yaniv 2017, averaged over i = 1 ... n; in [0, 1]. Within tied confidences the
    expected value over their orders is taken, so the order of rows does not matter.
    """
    errors = cumulative_errors(predictions)
    return float((errors / np.arange(1, len(errors) + 1)).mean())


def augrc(predictions: Predictions) -> float:
    """Area under the generalised risk-coverage curve, in [0, 1/2].

    Traub et al. 2024 "Overcoming Common Flaws in the Evaluation of Selective Classification
    Systems": the chance that a row is both wrong and accepted, integrated over coverage by
    trapezoids. Ties as in `aurc`.
    """
    errors = np.concatenate([[0.0], cumulative_errors(predictions)])
    return float((errors[1:] + errors[:-1]).mean() / (2 * predictions.rows.n_rows))


def cumulative_errors(predictions: Predictions) -> Float64Array:
    """Expected errors [n] among the most confident 1 ... n rows, averaging within ties."""
    values, group, size = np.unique(
        -predictions.confidence, return_inverse=True, return_counts=True
    )
    rate = np.bincount(group, ~predictions.correct, minlength=len(values)) / size
    return np.asarray(np.cumsum(np.repeat(rate, size)))


def nll_refinement(predictions: Predictions) -> float:
    """NLL that stays after the best temperature, nats: the part that is not calibration error.

    Berta et al. 2025 "Rethinking Early Stopping: Refine, Then Calibrate". The temperature is
    cross-fitted over five folds (row index modulo five), so no row is scored with a temperature
    that has seen it. It does not depend on the temperature of `predictions`, but weakly on the
    order of rows. NaN with fewer rows than folds.
    """
    return predictions.cross_fitted[0]


def brier_refinement(predictions: Predictions) -> float:
    """Brier score that stays after the cross-fitted temperature; see `nll_refinement`."""
    return predictions.cross_fitted[1]


def nll_calibration(predictions: Predictions) -> float:
    """NLL minus its refinement, nats: what recalibration can win; slightly negative if nothing."""
    return nll(predictions) - nll_refinement(predictions)


def brier_calibration(predictions: Predictions) -> float:
    """Brier score minus its refinement; see `nll_calibration`."""
    return brier(predictions) - brier_refinement(predictions)


def _cross_fit(rows: LogitRows) -> tuple[float, float]:
    if rows.n_rows < CROSS_FITTING_FOLDS:
        return math.nan, math.nan
    fold = np.arange(rows.n_rows) % CROSS_FITTING_FOLDS
    total_nll = total_brier = 0.0
    for held_out in range(CROSS_FITTING_FOLDS):
        train, test = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        fit = fit_temperature(rows.values[train], rows.labels[train])
        scored = Predictions.from_logits(rows.values[test], rows.labels[test], fit.temperature)
        total_nll += float(scored.nll.sum())
        total_brier += float(scored.brier.sum())
    return total_nll / rows.n_rows, total_brier / rows.n_rows


def positive_margin(predictions: Predictions) -> Float64Array:
    """Logit of class 1 minus logit of class 0, [n], over the temperature.

    Raises:
        ValueError: There are not exactly two classes.
    """
    if predictions.rows.n_classes != 2:
        raise ValueError(f"needs two classes, got {predictions.rows.n_classes}")
    values = predictions.rows.values
    margin = to_numpy(values[:, 1]).astype(np.float64) - to_numpy(values[:, 0])
    if predictions.temperature == 0:
        return np.asarray(np.where(margin == 0, 0.0, np.copysign(np.inf, margin)))
    return np.asarray(margin / predictions.temperature)


def positive_rms_calibration_error(predictions: Predictions, n_bins: int = SEED_BINS) -> float:
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


def _of_confidence(function: Callable[..., float], **settings: int | Scheme) -> Metric:
    """Turn a function of (confidence, correct) into a metric."""

    def metric(predictions: Predictions) -> float:
        return function(predictions.confidence, predictions.correct, **settings)

    metric.__doc__ = function.__doc__
    return metric


def _debiased_root(confidence: Float64Array, correct: BoolArray) -> float:
    return debiased_calibration_error(confidence, correct).root


def _debiased_squared(confidence: Float64Array, correct: BoolArray) -> float:
    return debiased_calibration_error(confidence, correct).squared


METRICS: dict[str, Metric] = {
    "nll": nll,
    "brier": brier,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "roc_auc": roc_auc,
    "signed_gap": signed_gap,
    "ece_15": _of_confidence(expected_calibration_error, n_bins=15, scheme="equal_width"),
    "ece_100_equal_mass": _of_confidence(
        expected_calibration_error, n_bins=100, scheme="equal_mass"
    ),
    "max_calibration_error": _of_confidence(max_calibration_error),
    "rms_calibration_error": _of_confidence(rms_calibration_error),
    "classwise_ece": classwise_ece,
    "debiased_calibration_error": _of_confidence(_debiased_root),
    "debiased_calibration_error_squared": _of_confidence(_debiased_squared),
    "smooth_ece": _of_confidence(smooth_ece),
    "ks_calibration_error": _of_confidence(ks_calibration_error),
    "nll_calibration": nll_calibration,
    "nll_refinement": nll_refinement,
    "brier_calibration": brier_calibration,
    "brier_refinement": brier_refinement,
    "aurc": aurc,
    "augrc": augrc,
}

BINARY_METRICS: dict[str, Metric] = {
    "positive_rms_calibration_error_20_equal_mass": positive_rms_calibration_error,
    "precision_at_best_f1": best_f1_precision,
    "recall_at_best_f1": best_f1_recall,
    "f1_at_best_f1": best_f1,
}


def score(predictions: Predictions) -> dict[str, float]:
    """Return every metric of `METRICS` by name, and for two classes of `BINARY_METRICS`."""
    chosen = METRICS | (BINARY_METRICS if predictions.rows.n_classes == 2 else {})
    return {name: metric(predictions) for name, metric in chosen.items()}
