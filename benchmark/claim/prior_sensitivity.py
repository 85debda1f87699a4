"""How far the contrast hangs on a prior: a small Bayesian version of the same model.

    log error = X b + unit + rest,   unit ~ N(0, tau^2)

The rows are those of the estimating equation at its solution: what each says of its log error, and
how well. `unit` is what is replicated: families, or what twins do not share. With few of them the
data say little of tau, and so the prior of tau decides how wide the contrast's interval is. Its
prior is one of three; log ratio has a normal one, the other coefficients flat ones. Given tau the
posterior of b is normal, so that one sum over a grid of tau is all it takes, and no sampling.
The spread within units is held at its estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats
from scipy.special import ndtr

from benchmark.claim.design import Design
from benchmark.claim.estimating_equation import LARGEST, EstimatingEquation
from benchmark.claim.measurement import Matrix, Vector
from benchmark.claim.side_results import Posterior, PriorSensitivity

CONTRAST_SD = 1.0
"""Of the normal prior of the log ratio: 95% of it lies within ratios of .14 and 7.1."""
TAU_SCALE = 0.5
LARGEST_TAU = 3.0
GRID = 300
PRIORS: dict[str, Callable[[Vector], Vector]] = {
    "half-normal (0.5)": lambda tau: np.asarray(stats.halfnorm.pdf(tau, scale=TAU_SCALE)),
    "half-Cauchy (0.5)": lambda tau: np.asarray(stats.halfcauchy.pdf(tau, scale=TAU_SCALE)),
    "uniform (0 to 3)": lambda tau: np.full(len(tau), 1 / LARGEST_TAU),
}
"""Densities of the standard deviation between units, of log errors (Gelman 2006)."""


@dataclass(frozen=True)
class UnitRows:
    """Rows sorted by the blocks that share a unit's effect, or what units share.

    Attributes:
        x: Columns [n, k], the contrast first.
        y: What each row says of its log error [n].
        own: Variance of each row that it shares with no other [n].
        unit: Code of the unit of each row, in order [n].
        shared: Code of a group of units that share an effect of variance `shared_variance` [n].
        shared_variance: 0 where there is none.
    """

    x: Matrix
    y: Vector
    own: Vector
    unit: np.ndarray
    shared: np.ndarray
    shared_variance: float


def prior_sensitivity(equation: EstimatingEquation, design: Design) -> PriorSensitivity:
    """Return the contrast's posterior under three priors of the spread between units.

    Args:
        equation: the primary analysis, fitted.
        design: of the same rows.
    """
    if abs(float(equation.coefficients[0])) >= LARGEST:
        return PriorSensitivity(problem="the errors of one mixer cannot be told from zero")
    rows = unit_rows(equation, design)
    tau = (np.arange(GRID) + 0.5) * LARGEST_TAU / GRID
    given = [normal_given(rows, float(value)) for value in tau]
    evidence = np.array([one.log_evidence for one in given])
    likelihood = np.exp(evidence - evidence.max())
    return PriorSensitivity(
        posteriors=tuple(
            _posterior(name, given, likelihood * prior(tau), tau) for name, prior in PRIORS.items()
        ),
        contrast_sd=CONTRAST_SD,
    )


def unit_rows(equation: EstimatingEquation, design: Design) -> UnitRows:
    """Return the rows of the equation at its solution, and what of their spread is known."""
    sigma, family, checkpoint = equation.correlation
    at = equation.linearise(equation.coefficients)
    order, nesting = equation.order, design.nesting
    block = nesting.family[order]
    is_twins = design.unit == "twins"
    unit = nesting.checkpoint[order] if is_twins else block
    rest = 1 - family - (checkpoint if is_twins else 0.0)
    if np.bincount(unit).max() == 1:
        rest = 0.0  # one row a unit: all of their spread is the units'
    return UnitRows(
        x=at.x,
        y=at.x @ equation.coefficients + at.residual,
        own=at.noise + sigma**2 * rest,
        unit=unit,
        shared=block,
        shared_variance=sigma**2 * family if is_twins else 0.0,
    )


class Given(NamedTuple):
    """The log ratio's normal posterior at one tau, and how well that tau fits."""

    log_evidence: float
    mean: float
    variance: float


def normal_given(rows: UnitRows, tau: float) -> Given:
    """Return the posterior of the first coefficient if units vary by `tau`."""
    both = np.column_stack([rows.x, rows.y])
    solved, log_determinant = both / rows.own[:, None], float(np.log(rows.own).sum())
    ones = 1 / rows.own
    for codes, variance in ((rows.unit, tau**2), (rows.shared, rows.shared_variance)):
        if variance == 0:
            continue
        # Blocks one within the other: each is taken off by the formula of Sherman and Morrison.
        starts = np.flatnonzero(np.r_[True, np.diff(codes) != 0])
        place = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(codes)))
        total = np.add.reduceat(ones, starts)
        shrink = variance / (1 + variance * total)
        sums = np.add.reduceat(solved, starts)
        solved = solved - ones[:, None] * (shrink[:, None] * sums)[place]
        ones = ones - ones * (shrink * total)[place]
        log_determinant += float(np.log1p(variance * total).sum())
    k = rows.x.shape[1]
    gram = both.T @ solved
    information = gram[:k, :k].copy()
    information[0, 0] += 1 / CONTRAST_SD**2
    mean = np.linalg.solve(information, gram[:k, k])
    fit = float(gram[k, k] - gram[:k, k] @ mean)
    spread = log_determinant + float(np.linalg.slogdet(information)[1])
    return Given(-0.5 * (spread + fit), float(mean[0]), float(np.linalg.inv(information)[0, 0]))


def _posterior(name: str, given: list[Given], weight: Vector, tau: Vector) -> Posterior:
    """Return the mixture of the normals at each tau [grid]."""
    share = weight / weight.sum()
    means = np.array([one.mean for one in given])
    deviations = np.sqrt([one.variance for one in given])

    def below(value: float, chance: float = 0.0) -> float:
        return float(share @ ndtr((value - means) / deviations)) - chance

    ends = float((means - 10 * deviations).min()), float((means + 10 * deviations).max())
    low, median, high = (
        float(np.exp(optimize.brentq(below, *ends, args=(q,)))) for q in (0.025, 0.5, 0.975)
    )
    return Posterior(
        prior=name,
        median=median,
        low=low,
        high=high,
        below_one=below(0.0),
        unit_sd=float(np.interp(0.5, np.cumsum(share) - share / 2, tau)),
    )
