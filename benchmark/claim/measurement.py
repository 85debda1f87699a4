"""Squared calibration errors as measured: what each says of the error behind it.

A debiased squared error is unbiased and may be negative. Its spread about the true square q is that
of a scaled, shifted chi-square: with k the scale and B the effective number of bins,

    squared / k + B  is about non-central chi-square with B degrees and non-centrality q / k,
    variance = null_variance + slope * q,   null_variance = 2 B k^2,   slope = 4 k.

Its square root is nearly normal (Fisher), which is the likelihood used here. Errors without a
stated uncertainty, as in published tables, are taken as exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_ndtr, ndtri

from benchmark.arrays import BoolArray, FloatArray

Vector = FloatArray
Matrix = FloatArray

STEP = 0.04
"""Of the grid of log errors. Exact errors count as known to this relative precision."""
MOST_STEPS = 700
MOST_BINS = 4_000.0
"""Effective bins above which the chi-square is a normal for all purposes."""
UNINFORMATIVE = 1e12
"""Variance of a log error that is as good as unknown."""
BELOW_NOISE = 400.0
"""The grid ends where the true square is this many times below the noise."""
_QUANTILE = float(ndtri(0.975))


@dataclass(frozen=True)
class SquaredErrors:
    """Squared errors [n] with the parts of their variance, null_variance + slope * true square.

    NaN where there is no error. Both parts are 0 for an error taken as exact.
    """

    squared: Vector
    null_variance: Vector
    slope: Vector

    def take(self, rows: np.ndarray) -> SquaredErrors:
        """Return the errors of `rows`."""
        return SquaredErrors(self.squared[rows], self.null_variance[rows], self.slope[rows])

    @property
    def resolved(self) -> BoolArray:
        """Whether each error lies above twice its standard error at a true error of 0 [n]."""
        resolved: BoolArray = self.squared > 2 * np.sqrt(self.null_variance)
        return resolved


def variance_parts(squared: Vector, low: Vector, high: Vector) -> tuple[Vector, Vector]:
    """Return (null variance, slope) [n] behind the 95% score intervals of squared errors.

    The interval (`DebiasedSums.interval`) solves (squared - q)^2 = z^2 (null + slope q), so that
    its middle gives the slope and its width the null variance. Where the record cut an end off,
    the slope is the median of the others, and the null variance that of as many bins.

    Args:
        squared: Estimates of one dataset, split and map [n], which share test rows and bins.
        low: Lower ends [n].
        high: Upper ends [n].
    """
    z = _QUANTILE
    slope = np.maximum(2 * ((low + high) / 2 - squared) / z**2, 0.0)
    null = ((high - low) / (2 * z)) ** 2 - slope * squared - (z * slope / 2) ** 2
    whole = (low < squared) & (high > 0) & (null > 0)
    if not whole.any():
        return ((high - low) / (2 * z)) ** 2, np.zeros(len(squared))
    typical = float(np.median(slope[whole]))
    bins = float(np.median(null[whole] / np.maximum(slope[whole], 1e-300) ** 2))
    cut = np.isfinite(squared) & ~whole
    slope = np.where(cut, typical, slope)
    spread = bins * typical**2 if typical > 0 else float(np.median(null[whole]))
    return np.where(cut, spread, null), slope


class RowLikelihood:
    """Marginal likelihood of each measured square when log errors are normal.

    The log error of row i is normal with mean m_i and standard deviation `sigma`; the integral
    over it is a sum over one grid, with what lies below the grid (as good as no error) in one
    term. Sums over a grid no wider than the integrand's standard deviation are exact to 8 digits.
    """

    def __init__(self, errors: SquaredErrors) -> None:
        self.errors = errors
        exact = errors.null_variance <= 0
        noise = np.sqrt(np.maximum(errors.null_variance, 0.0))
        least = np.where(exact, np.abs(errors.squared), noise / BELOW_NOISE).min()
        most = (np.abs(errors.squared) + 4 * noise + 16 * errors.slope).max()
        low, high = 0.5 * np.log(max(least, 1e-30)) - 0.5, 0.5 * np.log(max(most, 1e-29)) + 1
        steps = int(np.clip((high - low) / STEP, 40, MOST_STEPS))
        self.grid: Vector = np.linspace(low, high, steps)
        self.step = float(self.grid[1] - self.grid[0])
        self._log, self._slope, self._log_zero = self._noisy()
        if exact.any():
            distance = 0.5 * np.log(errors.squared[exact])[:, None] - self.grid
            self._log[exact] = -0.5 * (distance / self.step) ** 2 - np.log(self.step)
            self._slope[exact] = distance / self.step**2
            self._log_zero[exact] = -np.inf

    @cached_property
    def lowest(self) -> float:
        """The log error below which nothing can be measured."""
        return float(self.grid[0])

    def _noisy(self) -> tuple[Matrix, Matrix, Vector]:
        """Return log likelihood and its slope [n, grid], and its value at no error [n]."""
        errors, step = self.errors, self.step
        null = np.where(errors.null_variance > 0, errors.null_variance, 1.0)[:, None]
        scale = np.maximum(errors.slope[:, None] / 4, np.sqrt(null / (2 * MOST_BINS)))
        bins = null / (2 * scale**2)
        root = np.sqrt(np.maximum(errors.squared[:, None] / scale + bins, 0.05 * bins))
        shift = np.exp(2 * self.grid) / scale
        mean = bins + shift
        # Variance of the root by the delta method, with what rounding to the grid adds.
        variance = (bins + 2 * shift) / (2 * mean)
        d_variance = bins * shift / mean**2
        center = np.sqrt(np.maximum(mean - variance, 0.25))
        d_center = (2 * shift - d_variance) / (2 * center)
        variance = variance + step**2 * shift**2 / mean
        d_variance = d_variance + step**2 * (4 * shift**2 / mean - 2 * shift**3 / mean**2)
        residual = root - center
        log = -0.5 * residual**2 / variance - 0.5 * np.log(variance)
        slope = residual * d_center / variance
        slope += (residual**2 / variance - 1) * d_variance / (2 * variance)
        zero = np.sqrt(np.maximum(bins - 0.5, 0.25))
        return log, slope, (-((root - zero) ** 2) - 0.5 * np.log(0.5))[:, 0]

    def _posterior(self, means: Vector, sigma: float) -> tuple[Matrix, Vector, Vector]:
        """Return weights [n, grid], their sums [n] with the part below the grid, log scales [n]."""
        log = self._log - 0.5 * ((self.grid - means[:, None]) / sigma) ** 2
        below = self._log_zero + np.log(sigma * np.sqrt(2 * np.pi) / self.step)
        below = below + log_ndtr((self.lowest - means) / sigma)
        top = np.maximum(log.max(axis=1), below)
        weights = np.exp(log - top[:, None])
        return weights, weights.sum(axis=1) + np.exp(below - top), top

    def score(self, means: Vector, sigma: float) -> Vector:
        """Return the derivative of each row's log likelihood in its mean [n].

        It has mean 0 at the true means, is (log error - mean) / sigma^2 for an exact error, and
        goes to 0 as the mean falls below what can be measured.
        """
        weights, total, _ = self._posterior(means, sigma)
        score: Vector = (weights * self._slope).sum(axis=1) / total
        return score

    def log_likelihood(self, means: Vector, sigma: float) -> float:
        """Return the sum over rows, up to a constant."""
        _, total, top = self._posterior(means, sigma)
        return float((top + np.log(total)).sum() - len(means) * np.log(sigma))

    def noise(self, means: Vector, sigma: float) -> Vector:
        """Return the variance [n] that measuring adds to a log error, by the delta method."""
        square = np.exp(2 * np.clip(means + sigma**2, -340, 340))
        with np.errstate(over="ignore", divide="ignore"):
            variance = self.errors.null_variance / square**2 + self.errors.slope / square
        noise: Vector = np.minimum(variance / 4 + self.step**2, UNINFORMATIVE)
        return noise
