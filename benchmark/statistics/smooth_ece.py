"""Smooth calibration error.

Blasiok & Nakkiran 2023, "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing".
The signed gaps are smoothed along the confidence axis with a Gaussian kernel reflected at 0 and 1;
the error is the integral of the absolute result at the one bandwidth that equals the error.
Reflected Gaussian smoothing is heat flow with insulated ends, which is diagonal in the cosine
basis: one cosine transform of the gridded gaps serves every bandwidth, and mass at confidence 0 or
    1 is kept exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct, idct
from scipy.optimize import brentq

from benchmark.arrays import Float64Array
from benchmark.statistics.calibration_error import check_confidence

GRID = 2048
# A narrower kernel would ring on the grid.
LEAST_BANDWIDTH = 2 / GRID
TOLERANCE = 1e-7


def smooth_ece(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Integral of |kernel-smoothed (confidence - correct)|, at the bandwidth equal to itself.

    No bins to choose; continuous in the confidences. Ties and confidences of exactly 0 or 1 need
    no care: smoothing keeps their mass.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] of 0 or 1.

    Returns:
        In [0, 1], a probability; at least |signed gap|. Errors below .001 are smoothed at .001.

    Example:
        >>> round(smooth_ece([0.9] * 10, [1] * 8 + [0] * 2), 3)
        0.1

    Raises:
        ValueError: Bad shapes or ranges.
    """
    confidence, correct = check_confidence(confidence, correct)
    return _fixed_point(_cosine_spectrum(confidence, (confidence - correct) / len(confidence)))


def _cosine_spectrum(confidence: Float64Array, gap: Float64Array) -> Float64Array:
    """Cosine transform of the gaps, each shared between its two nearest cell centres."""
    position = np.clip(confidence * GRID - 0.5, 0, GRID - 1)
    left = position.astype(np.int64)
    share = (position - left) * gap
    grid = np.bincount(left, gap - share, minlength=GRID + 1)
    grid[1:] += np.bincount(left, share, minlength=GRID)[:GRID]
    return np.asarray(dct(grid[:GRID], type=2, norm="ortho"))


def _error_at(spectrum: Float64Array, bandwidth: float) -> float:
    frequency = np.pi * np.arange(GRID) * max(bandwidth, LEAST_BANDWIDTH)
    return float(np.abs(idct(spectrum * np.exp(-(frequency**2) / 2), type=2, norm="ortho")).sum())


def _fixed_point(spectrum: Float64Array) -> float:
    """The error falls and the bandwidth rises, so they cross once, at most at 1."""
    if _error_at(spectrum, 0.0) == 0:
        return 0.0
    bandwidth = brentq(lambda width: _error_at(spectrum, width) - width, 0.0, 2.0, xtol=TOLERANCE)
    return _error_at(spectrum, bandwidth)
