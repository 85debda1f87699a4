"""Reliability of cached logits: binned confidence and accuracy, and the most confident mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmark.arrays import BoolArray, Float64Array, IntArray
from benchmark.statistics import assign_bins, log_probabilities

if TYPE_CHECKING:
    from benchmark.records import LogitsSplit


BINS = 15


@dataclass(frozen=True)
class TopLabels:
    """The top label of each row and how sure the model was.

    Attributes:
        ids: int64 [n] row ids.
        labels: int64 [n] true classes.
        predicted: int64 [n] classes of the highest logit.
        before: float64 [n] probability of the predicted class, in [0, 1].
        after: the same after temperature scaling.
    """

    ids: IntArray
    labels: IntArray
    predicted: IntArray
    before: Float64Array
    after: Float64Array

    @property
    def correct(self) -> BoolArray:
        """Whether each row was predicted right."""
        return np.equal(self.predicted, self.labels)

    def surest_mistakes(self, count: int) -> IntArray:
        """Return positions of the wrong rows with the highest confidence, surest first."""
        wrong = np.flatnonzero(~self.correct)
        order = np.lexsort((self.ids[wrong], -self.before[wrong]))
        return wrong[order[:count]]


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram's numbers, for `BINS` equal-width bins of confidence.

    Attributes:
        counts: int64 [bins] rows per bin.
        confidence: float64 [bins] mean confidence; NaN in empty bins.
        accuracy: float64 [bins] share predicted right; NaN in empty bins.
        band_low: float64 [bins] 2.5% point of the accuracy under perfect calibration.
        band_high: float64 [bins] 97.5% point of the same.
    """

    counts: IntArray
    confidence: Float64Array
    accuracy: Float64Array
    band_low: Float64Array
    band_high: Float64Array


def top_labels(split: LogitsSplit, temperature: float) -> TopLabels:
    """Return what a split's logits predict, before and after dividing by `temperature`."""
    before = log_probabilities(split.logits)
    after = log_probabilities(split.logits, temperature)
    return TopLabels(
        ids=split.ids,
        labels=split.labels,
        predicted=before.argmax(axis=1),
        before=np.exp(before.max(axis=1)),
        after=np.exp(after.max(axis=1)),
    )


def reliability(confidence: Float64Array, correct: BoolArray) -> Reliability:
    """Bin predictions by confidence, with consistency bands.

    The bands show where a perfectly calibrated model's accuracy would fall in 95% of samples
    of this size (Broecker and Smith 2007, "Increasing the reliability of reliability
    diagrams"). They are binomial at the bin's mean confidence, which is slightly wider than
    the exact Poisson-binomial.

    Args:
        confidence: [n] in [0, 1].
        correct: [n].
    """
    from scipy.stats import binom  # a second's import, only needed when a diagram is drawn

    index = assign_bins(confidence, BINS, "equal_width")
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, minlength=BINS) / counts
        accuracy = np.bincount(index, correct, minlength=BINS) / counts
        probability = np.clip(mean, 0, 1)  # a mean of ones can exceed 1 by rounding
        low = binom.ppf(0.025, counts, probability) / counts
        high = binom.ppf(0.975, counts, probability) / counts
    return Reliability(counts, mean, accuracy, low, high)
