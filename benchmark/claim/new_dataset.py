"""The ratio to expect on a dataset that was not tried: a random-effects prediction interval."""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

from benchmark.claim.estimating_equation import LARGEST, EstimatingEquation
from benchmark.claim.measurement import Matrix, Vector
from benchmark.claim.result import RatioInterval

LARGEST_VARIANCE = 100.0
"""Between log ratios of datasets; beyond it nothing could be predicted anyway."""


def predict_new_dataset(
    equation: EstimatingEquation, datasets: np.ndarray, alpha: float
) -> tuple[RatioInterval | None, str | None]:
    """Return the ratio on a new dataset with its prediction interval, or why there is none.

    log ratio on dataset d = center + N(0, tau^2). Each dataset's ratio is the step from the common
    one that the equation would take there, with the working covariance, in which datasets share
    families. tau^2 is Paule and Mandel's (1982); the interval is that of Higgins et al. (2009),
    with one degree of freedom less than datasets. Two datasets tell next to nothing of a third:
    one degree of freedom, a quantile of 12.7.

    Args:
        equation: with the contrast as its first column.
        datasets: dataset of each row, in the order the equation was given them.
        alpha: one minus the interval's level.
    """
    ratios, covariance = _ratios_by_dataset(equation, datasets[equation.order])
    count = len(ratios)
    if count < 2:
        return None, "one dataset with both mixers says nothing of others"
    variance = _between_variance(ratios, covariance)
    center, center_variance = _center(ratios, covariance, variance)
    df = float(count - 1)
    error = float(np.sqrt(variance + center_variance))
    reach = float(stats.t.ppf(1 - alpha / 2, df)) * error
    low, high = (
        float(np.exp(end)) if abs(end) < LARGEST else np.inf if end > 0 else 0.0
        for end in (center - reach, center + reach)
    )
    return (
        RatioInterval(
            ratio=float(np.exp(np.clip(center, -700, 700))),
            low=float(low),
            high=float(high),
            p_value=float(2 * stats.t.sf(abs(center) / error, df)),
            df=df,
        ),
        None,
    )


def _ratios_by_dataset(equation: EstimatingEquation, datasets: np.ndarray) -> tuple[Vector, Matrix]:
    """Return the log ratio of every dataset with both mixers, and their working covariance."""
    at = equation.linearise(equation.coefficients)
    first = at.x[:, 0] > 0
    names = [d for d in np.unique(datasets) if len(np.unique(first[datasets == d])) == 2]
    own = np.column_stack([at.x[:, 0] * (datasets == name) for name in names])
    x = np.column_stack([own, at.x[:, 1:]]) if names else at.x[:, 1:]
    weighted = equation.sums.solve(x, at.own, equation.correlation)
    gram = x.T @ weighted
    scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
    scaled = gram * scale[:, None] * scale
    # A dataset on which only other mixers are left shows no ratio and leaves its column alone.
    inverse = np.linalg.pinv(scaled, rcond=1e-9, hermitian=True) * scale[:, None] * scale
    step = inverse @ (weighted.T @ at.residual)
    count = len(names)
    return equation.coefficients[0] + step[:count], inverse[:count, :count]


def _center(ratios: Vector, covariance: Matrix, variance: float) -> tuple[float, float]:
    weights = np.linalg.solve(covariance + variance * np.eye(len(ratios)), np.ones(len(ratios)))
    return float(weights @ ratios / weights.sum()), float(1 / weights.sum())


def _between_variance(ratios: Vector, covariance: Matrix) -> float:
    """Return the variance that makes the weighted squares as large as their mean."""

    def excess(variance: float) -> float:
        center, _ = _center(ratios, covariance, variance)
        rest = ratios - center
        spread = covariance + variance * np.eye(len(ratios))
        return float(rest @ np.linalg.solve(spread, rest)) - (len(ratios) - 1)

    if excess(0.0) <= 0:
        return 0.0
    if excess(LARGEST_VARIANCE) >= 0:
        return LARGEST_VARIANCE
    return float(optimize.brentq(excess, 0.0, LARGEST_VARIANCE))
