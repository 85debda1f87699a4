"""Calibration error of confidences, and tests of whether there is any.

Functions here take `confidence` [n], the probability given to the predicted class, in [0, 1], and
`correct` [n], whether the prediction was right. Any probability of any event will do in their
place.

Bins are closed on the right, (lower, upper], as in Guo et al. 2017; a confidence of 0 belongs to
the first bin and of exactly 1 to the last. Equal confidences always share a bin, so the order of
rows never matters; an empty bin contributes nothing. All sums are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from benchmark.arrays import Float64Array, IntArray

Scheme = Literal["equal_width", "equal_mass"]

DEFAULT_BINS = 15
DEFAULT_LEVEL = 0.95


def check_confidence(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[Float64Array, Float64Array]:
    """Return both as float64 [n] after checking shape and range.

    Raises:
        ValueError: Different lengths, no rows, or the first row outside [0, 1] or {0, 1}.
    """
    confidence = np.asarray(confidence, np.float64)
    correct = np.asarray(correct, np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"confidence {confidence.shape} and correct {correct.shape} must be [n] of one length"
        )
    if confidence.size == 0:
        raise ValueError("confidence has no rows; is the split empty?")
    if not (confidence.min() >= 0 and confidence.max() <= 1):
        row = int((~((confidence >= 0) & (confidence <= 1))).argmax())
        raise ValueError(f"row {row}: confidence {confidence[row]} is not in [0, 1]")
    outcome = (correct == 0) | (correct == 1)
    if not outcome.all():
        row = int((~outcome).argmax())
        raise ValueError(f"row {row}: correct is {correct[row]}, but must be 0 or 1")
    return confidence, correct


def assign_bins(confidence: Float64Array, n_bins: int, scheme: Scheme) -> IntArray:
    """Return the bin [n] of each confidence, 0 ... n_bins-1.

    Args:
        confidence: [n] in [0, 1].
        n_bins: At least 1. With equal mass and fewer rows than bins some bins stay empty.
        scheme: `equal_width` divides [0, 1] evenly. `equal_mass` divides the rows evenly, except
            that equal confidences stay together.

    Example:
        >>> confidence = np.array([0.6, 0.7, 0.8, 1.0])
        >>> assign_bins(confidence, n_bins=2, scheme="equal_width")
        array([1, 1, 1, 1])
        >>> assign_bins(confidence, n_bins=2, scheme="equal_mass")
        array([0, 0, 1, 1])

    Raises:
        ValueError: n_bins < 1 or an unknown scheme.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    if scheme == "equal_width":
        scaled = confidence * n_bins
        np.ceil(scaled, out=scaled)
        index = scaled.astype(np.int64)
        index -= 1
        return np.maximum(index, 0, out=index)
    if scheme == "equal_mass":
        return np.searchsorted(equal_mass_edges(confidence, n_bins), confidence).astype(np.int64)
    raise ValueError(f"unknown scheme {scheme!r}; use 'equal_width' or 'equal_mass'")


def equal_mass_edges(confidence: Float64Array, n_bins: int) -> Float64Array:
    """Return the inner upper edges [n_bins - 1] of equal-mass bins: observed confidences."""
    n = len(confidence)
    last = (np.arange(1, n_bins) * n + n_bins - 1) // n_bins - 1
    edges: Float64Array = np.sort(confidence)[last]
    return edges


class BinSums(NamedTuple):
    """What most binned errors need of each bin.

    Attributes:
        rows: Number of rows [n_bins].
        gap: Sum of confidence minus correct [n_bins].
    """

    rows: Float64Array
    gap: Float64Array


def bin_sums(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_width",
) -> BinSums:
    """Sum confidence minus correct over bins; arguments as in `expected_calibration_error`."""
    confidence, correct = check_confidence(confidence, correct)
    index = assign_bins(confidence, n_bins, scheme)
    count = np.bincount(index, minlength=n_bins).astype(np.float64)
    gap = np.bincount(index, confidence - correct, minlength=n_bins)
    return BinSums(count, gap.astype(np.float64, copy=False))


def expected_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_width",
) -> float:
    """Mean over rows of the gap |mean confidence - accuracy| of the row's bin.

    Guo et al. 2017 (equal width), Nixon et al. 2019 "Measuring Calibration in Deep Learning"
    (equal mass). Biased upward by bin noise: see `intervals.noise_floor`.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] of 0 or 1.
        n_bins: At least 1; may exceed n.
        scheme: `equal_width` or `equal_mass`, see `assign_bins`.

    Returns:
        In [0, 1], a probability.

    Example:
        Two rows at .6 of which one is right, and two at .9 of which both are: gaps of .1 and -.1.

        >>> round(expected_calibration_error([0.6, 0.6, 0.9, 0.9], [1, 0, 1, 1]), 3)
        0.1

    Raises:
        ValueError: Bad shapes, ranges, n_bins or scheme.
    """
    sums = bin_sums(confidence, correct, n_bins, scheme)
    return float(np.abs(sums.gap).sum() / sums.rows.sum())


def max_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_width",
) -> float:
    """Largest gap |mean confidence - accuracy| of any bin that has rows (Naeini et al. 2015).

    Arguments and errors as in `expected_calibration_error`; in [0, 1]. A bin of one row counts in
    full, so this is noisy on small splits.

    >>> round(max_calibration_error([0.6, 0.6, 0.95, 0.95], [1, 0, 1, 1]), 3)
    0.1
    """
    sums = bin_sums(confidence, correct, n_bins, scheme)
    return float((np.abs(sums.gap) / np.maximum(sums.rows, 1)).max())


def rms_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_mass",
) -> float:
    """Root of the mean over rows of the squared gap of the row's bin (Hendrycks et al. 2019).

    Arguments and errors as in `expected_calibration_error`; in [0, 1]. Biased upward by bin noise:
    `debiased_calibration_error` estimates the same quantity without that bias.

    >>> round(rms_calibration_error([0.6, 0.6, 0.9, 0.9], [1, 0, 1, 1], n_bins=2), 3)
    0.1
    """
    sums = bin_sums(confidence, correct, n_bins, scheme)
    mean_square = (sums.gap**2 / np.maximum(sums.rows, 1)).sum() / sums.rows.sum()
    return float(math.sqrt(mean_square))


@dataclass(frozen=True)
class DebiasedError:
    """Debiased squared-L2 calibration error with its interval.

    Attributes:
        squared: Unbiased estimate of E[gap^2]; may be negative when the true error is near 0.
        standard_error: Of `squared`.
        squared_low: Lower end of the interval of `squared`; may be negative.
        squared_high: Upper end, at least 0.
        root: sign(squared) * sqrt(|squared|), in the units of ECE (probability).
        low: Lower end in the units of ECE, at least 0.
        high: Upper end in the units of ECE, at least 0.
    """

    squared: float
    standard_error: float
    squared_low: float
    squared_high: float
    root: float
    low: float
    high: float


class DebiasedSums(NamedTuple):
    """The debiased squared error with the parts of its variance, null + slope * true value.

    Attributes:
        squared: The estimate; NaN if no bin has two rows.
        null_variance: Its variance if the true value is 0.
        variance_slope: By how much the variance grows with the true value.
    """

    squared: float
    null_variance: float
    variance_slope: float

    def interval(
        self,
        level: float = DEFAULT_LEVEL,
        extra_variance: float = 0.0,
        quantile: float | None = None,
    ) -> DebiasedError:
        """Return all values of the true squared error that a normal test does not reject.

        Args:
            level: Of the interval, in (0, 1).
            extra_variance: Added to that of the rows, such as that of a fitted temperature.
            quantile: In place of the normal one, where few rows make up the variance.
        """
        z = float(ndtri((1 + level) / 2)) if quantile is None else quantile
        null, slope = self.null_variance + extra_variance, self.variance_slope
        variance = null + slope * max(self.squared, 0.0)
        # Where (squared - x)^2 = z^2 (null + slope * x): the variance is that of the hypothesis x,
        # not of the estimate, which is small just when the estimate happens to be.
        center = self.squared + z * z * slope / 2
        root = max(null + slope * self.squared + (z * slope / 2) ** 2, 0.0)
        low, high = center - z * math.sqrt(root), center + z * math.sqrt(root)
        # An estimate far below 0 is evidence for 0, of all values there can be.
        low, high = min(low, self.squared), max(high, 0.0)
        return DebiasedError(
            self.squared,
            math.sqrt(variance),
            low,
            high,
            math.copysign(math.sqrt(abs(self.squared)), self.squared),
            math.sqrt(max(low, 0.0)),
            math.sqrt(high),
        )


def debiased_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    n_bins: int = DEFAULT_BINS,
    scheme: Scheme = "equal_mass",
    level: float = DEFAULT_LEVEL,
) -> DebiasedError:
    """U-statistic of the squared gap between confidence and accuracy over bins.

    With d = confidence - correct and n_b rows in bin b, the mean of d_i d_j over pairs i != j in a
    bin is an unbiased estimate of that bin's squared gap; bins are weighted by n_b / n (Kumar et
    al. 2019 "Verified Uncertainty Calibration"; Lee et al. 2023 "T-Cal"). The interval is normal,
    as in Sun et al. 2024 "A Confidence Interval for the l2 Expected Calibration Error", with the
    variance of the U-statistic at each hypothesised value, so that it holds for a calibrated model
    (where the statistic is degenerate) and for a miscalibrated one.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] of 0 or 1.
        n_bins: At least 1. Bins with fewer than two rows carry no information and are left out.
        scheme: `equal_mass` or `equal_width`, see `assign_bins`.
        level: Of the interval, in (0, 1).

    Returns:
        Squared (probability squared) and root (probability) with intervals; NaN if no bin has two
        rows.

    Example:
        10,000 rows that are right as often as they say: the plain error is all bin noise.

        >>> generator = np.random.default_rng(0)
        >>> confidence = generator.uniform(0.5, 1.0, size=10_000)
        >>> correct = generator.uniform(size=10_000) < confidence
        >>> round(expected_calibration_error(confidence, correct), 3)
        0.006
        >>> error = debiased_calibration_error(confidence, correct)
        >>> error.low, round(error.high, 3)
        (0.0, 0.019)

    Raises:
        ValueError: Bad shapes, ranges, n_bins or scheme.
    """
    confidence, correct = check_confidence(confidence, correct)
    index = assign_bins(confidence, n_bins, scheme)
    return debiased_sums(confidence - correct, index, n_bins).interval(level)


def debiased_sums(gap: Float64Array, index: IntArray, n_bins: int) -> DebiasedSums:
    """Return the debiased squared error and its variance from row gaps [n] and their bins [n]."""
    count = np.bincount(index, minlength=n_bins).astype(np.float64)
    total = np.bincount(index, gap, minlength=n_bins)
    squares = np.bincount(index, gap * gap, minlength=n_bins)
    used = count >= 2
    if not used.any():
        return DebiasedSums(math.nan, math.nan, math.nan)
    n, mean_square = count[used], (total[used] / count[used]) ** 2
    spread = np.maximum(squares[used] - n * mean_square, 0) / (n - 1)
    weight = n / n.sum()
    squared = (weight * (mean_square - spread / n)).sum()
    null_variance = (weight**2 * 2 * spread**2 / (n * (n - 1))).sum()
    # Of every row's 2 gap e + gap^2, with e its own around the gap of its bin: the second term says
    # that rows fall at random where gaps are large. Per unit of the mean squared gap; plain squares
    # in its place are biased, but never negative, and a ratio of them is hardly biased.
    mass = (weight * mean_square).sum()
    linear = (weight * (4 * mean_square * spread + mean_square**2)).sum() - mass**2
    # By Jensen's inequality never below 0, but for rounding.
    slope = max(linear, 0.0) / mass / n.sum() if mass > 0 else 0.0
    return DebiasedSums(float(squared), float(null_variance), float(slope))
