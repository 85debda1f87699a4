"""Calibration without bins: the Kolmogorov-Smirnov error, and tests of perfect calibration.

Arguments as in `calibration_error`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from benchmark.statistics.calibration_error import check_confidence


def ks_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Largest cumulative gap |sum of (confidence - correct)| / n over rows sorted by confidence.

    Gupta et al. 2021 "Calibration of Neural Networks using Splines". Needs no bins. Read only
    between different confidences, so ties are order-free.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] of 0 or 1.

    Returns:
        In [0, 1], a probability; at least |signed gap| and at most the error of any binning.

    Example:
        >>> round(ks_calibration_error([0.6, 0.6, 0.9, 0.9], [1, 0, 1, 1]), 3)
        0.05

    Raises:
        ValueError: Bad shapes or ranges.
    """
    confidence, correct = check_confidence(confidence, correct)
    order = np.argsort(confidence)
    ordered = confidence[order]
    cumulative = np.cumsum(ordered - correct[order])
    last_of_tie = np.append(ordered[1:] != ordered[:-1], True)
    return float(np.abs(cumulative[last_of_tie]).max() / len(confidence))


class CalibrationTest(NamedTuple):
    """Test of the hypothesis that every row is right with probability `confidence`.

    Attributes:
        statistic: In units of its standard deviation under the hypothesis.
        p_value: In [0, 1]; small speaks against calibration.
    """

    statistic: float
    p_value: float


def ks_calibration_test(confidence: ArrayLike, correct: ArrayLike) -> CalibrationTest:
    """Test calibration by the largest cumulative gap.

    Under calibration the cumulative sum is a martingale whose total variance is sum p(1 - p), so
    its largest excursion over the root of that is distributed as sup |Brownian motion| on [0, 1]
    (Arrieta-Ibarra et al. 2022 "Metrics of Calibration for Probabilistic Predictions"). Arguments
    and errors as in `ks_calibration_error`. Where every confidence is 0 or 1 the p-value is 1 if
    all agree and 0 otherwise.

    Twenty rows at .9 of which ten are right do not come from a calibrated model:

    >>> ks_calibration_test([0.9] * 20, [1] * 10 + [0] * 10).p_value < 1e-6
    True
    """
    error = ks_calibration_error(confidence, correct)
    confidence = np.asarray(confidence, np.float64)
    scale = math.sqrt(float((confidence * (1 - confidence)).sum()))
    if scale == 0:
        return CalibrationTest(math.inf if error > 0 else 0.0, float(error == 0))
    statistic = error * len(confidence) / scale
    return CalibrationTest(statistic, _exceed_brownian_maximum(statistic))


def _exceed_brownian_maximum(x: float) -> float:
    """P(sup over [0, 1] of |Brownian motion| > x), by whichever of two series converges at once."""
    k = np.arange(8)
    sign = (-1.0) ** k
    if x > 1:
        return float(4 * (sign * ndtr(-(2 * k + 1) * x)).sum())
    if x < 1e-3:
        return 1.0
    terms = sign / (2 * k + 1) * np.exp(-((math.pi * (2 * k + 1) / x) ** 2) / 8)
    return float(1 - 4 / math.pi * terms.sum())


def spiegelhalter_test(confidence: ArrayLike, correct: ArrayLike) -> CalibrationTest:
    """Test calibration by the part of the Brier score that has mean 0 under it.

    Spiegelhalter 1986: Z = sum (correct - p)(1 - 2p) / sqrt(sum (1 - 2p)^2 p (1 - p)), standard
    normal under calibration; two-sided. Blind to errors at p = 1/2. Arguments and errors as in
    `ks_calibration_error`. With zero variance the p-value is 1 if the numerator is 0 and 0
    otherwise.

    >>> z, p_value = spiegelhalter_test([0.9] * 20, [1] * 18 + [0] * 2)
    >>> round(abs(z), 3), round(p_value, 3)
    (0.0, 1.0)
    """
    confidence, correct = check_confidence(confidence, correct)
    lever = 1 - 2 * confidence
    numerator = float(((correct - confidence) * lever).sum())
    scale = math.sqrt(float((lever**2 * confidence * (1 - confidence)).sum()))
    if scale == 0:
        return CalibrationTest(0.0 if numerator == 0 else math.inf, float(numerator == 0))
    statistic = numerator / scale
    return CalibrationTest(statistic, float(2 * ndtr(-abs(statistic))))
