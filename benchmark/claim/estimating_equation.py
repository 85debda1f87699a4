"""The contrast of calibration errors from their squares, without a floor under them.

    log error of row i = x_i b + family + checkpoint + rest

Each row gives the score of its marginal likelihood (`measurement.RowLikelihood`), which has mean
0 at the true b however poorly the row is measured; a row that says nothing weighs nothing. The
scores are combined as in a generalised estimating equation (Liang & Zeger 1986): a row's working
residual e_i = score_i / information_i estimates its log error minus x_i b, with variance
sigma^2 + noise_i, and rows of a family and of a checkpoint correlate, so that a giant family counts
little more than a small one. The equation is X' V^-1 e = 0. Exact errors make it generalised least
squares on their logs.

Tests trust neither the distribution nor the correlation: the contrast is compared with a
hypothesised value by the one step that the equation would take from there, in units of its CR2
standard error by family, with Bell and McCaffrey's (2002) degrees of freedom. In that form it is
a score test: where errors cannot be told from zero, step and standard error vanish alike, and an
interval of all values not rejected may have no end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from benchmark.claim.measurement import Matrix, RowLikelihood, SquaredErrors, Vector
from benchmark.claim.mixed_model import Codes, Nesting

LARGEST = float(np.log(1000.0))
"""Log ratios beyond this count as without end."""
PRIOR_SIGMA = 0.4
"""Weak centre of the spread of log errors, which poorly measured errors leave open."""
SIGMA_RANGE = (0.05, 3.0)
FAMILY_RANGE = (0.2, 0.85)
"""Of the working correlation in a family. At its least a giant family cannot decide alone."""
MOST_TOGETHER = 0.95
"""Of the working correlation of rows of one checkpoint."""
STEPS, ROUNDS = 60, 4
LARGEST_STEP = 0.8
RIDGE = 1e-10
WIDENING = 1.6
"""Steps outward in search of an interval's end grow by this factor."""


class Correlation(NamedTuple):
    """Working spread: `sigma` of log errors, shares of its square by family and checkpoint."""

    sigma: float = PRIOR_SIGMA
    family: float = 0.4
    checkpoint: float = 0.0


class ContrastTest(NamedTuple):
    """A hypothesised coefficient: the step away from it, its error, and the p value."""

    step: float
    standard_error: float
    df: float

    @property
    def statistic(self) -> float:
        """Step over standard error; positive where the data ask for a larger value."""
        return self.step / self.standard_error

    @property
    def p_value(self) -> float:
        """Two-sided, by the t distribution."""
        return float(2 * stats.t.sf(abs(self.statistic), self.df))

    def rejects(self, alpha: float) -> bool:
        """Say whether the hypothesised value is rejected."""
        return self.p_value <= alpha


@dataclass(frozen=True)
class Linearised:
    """The equation at one value: working residuals [n] and what is independent in their variance.

    Attributes:
        x: Columns [n, k].
        residual: Working residuals, of the scale of log errors [n].
        own: Variance of each that it shares with no other row [n].
        noise: Of that, the part from measuring [n].
    """

    x: Matrix
    residual: Vector
    own: Vector
    noise: Vector


class _Sums:
    """Sums over rows sorted by family and checkpoint, and the inverse of their covariance."""

    def __init__(self, family: Codes, checkpoint: Codes) -> None:
        self.family = np.cumsum(np.r_[0, np.diff(family) != 0])
        changed = (np.diff(checkpoint) != 0) | (np.diff(family) != 0)
        self.checkpoint = np.cumsum(np.r_[0, changed])
        self.family_starts = np.unique(self.family, return_index=True)[1]
        self.checkpoint_starts = np.unique(self.checkpoint, return_index=True)[1]
        checkpoints = len(self.checkpoint_starts)
        self.has_checkpoints = len(self.family_starts) < checkpoints < len(family)

    def by_family(self, values: Matrix) -> Matrix:
        sums: Matrix = np.add.reduceat(values, self.family_starts, axis=0)
        return sums

    def by_checkpoint(self, values: Matrix) -> Matrix:
        sums: Matrix = np.add.reduceat(values, self.checkpoint_starts, axis=0)
        return sums

    def solve(self, values: Matrix, own: Vector, correlation: Correlation) -> Matrix:
        """Return V^-1 values [n, k], V = diag(own) + family and checkpoint blocks."""
        inverse = 1 / own
        out = np.column_stack([np.ones(len(own)), values]) * inverse[:, None]
        for share, sums, codes in (
            (correlation.checkpoint, self.by_checkpoint, self.checkpoint),
            (correlation.family, self.by_family, self.family),
        ):
            variance = share * correlation.sigma**2
            if variance > 0:
                totals = sums(out)
                shrink = variance / (1 + variance * totals[:, :1])
                out = out - out[:, :1] * (shrink * totals)[codes]
        return out[:, 1:]


class EstimatingEquation:
    """The fitted equation; build it with `fit`.

    Attributes:
        coefficients: b [k].
        correlation: The working spread and correlations.
    """

    def __init__(self, x: Matrix, errors: SquaredErrors, nesting: Nesting, clusters: Codes) -> None:
        order = np.lexsort((nesting.checkpoint, nesting.family))
        self.order = order
        self.x = x[order]
        self.likelihood = RowLikelihood(errors.take(order))
        self.sums = _Sums(nesting.family[order], nesting.checkpoint[order])
        self.cluster = np.unique(clusters[order], return_inverse=True)[1]
        self.correlation = Correlation()
        self.coefficients: Vector = np.zeros(x.shape[1])

    @classmethod
    def fit(
        cls, x: Matrix, errors: SquaredErrors, nesting: Nesting, clusters: Codes
    ) -> EstimatingEquation:
        """Solve the equation, the working spread and correlations with it.

        Args:
            x: Columns [n, k] of full rank; rows of any order.
            errors: Squares of the same rows.
            nesting: Family and checkpoint of each row, which correlate.
            clusters: Code of what is independent of each other [n]: whole families.
        """
        equation = cls(x, errors, nesting, clusters)
        coefficients = equation._start()
        everything = np.ones(x.shape[1], dtype=bool)
        for _ in range(ROUNDS):
            before = equation.correlation
            coefficients = equation._solve(coefficients, everything)
            equation.correlation = equation._estimate_correlation(coefficients)
            if _settled(before, equation.correlation):
                break
        equation.coefficients = equation._solve(coefficients, everything)
        return equation

    def _start(self) -> Vector:
        """Regress moderated logs on the columns."""
        errors = self.likelihood.errors
        least = np.maximum(np.sqrt(errors.null_variance), 1e-30)
        logs = 0.5 * np.log(np.maximum(errors.squared, least))
        start: Vector = np.linalg.lstsq(self.x, logs, rcond=None)[0]
        return start

    def linearise(self, coefficients: Vector) -> Linearised:
        """Return the equation as a linear one at `coefficients`."""
        sigma, family, checkpoint = self.correlation
        # Lower means say the same of every row: nothing below can be measured.
        means = np.maximum(self.x @ coefficients, self.likelihood.lowest)
        noise = self.likelihood.noise(means, sigma)
        residual = self.likelihood.score(means, sigma) * (sigma**2 + noise)
        own = noise + sigma**2 * (1 - family - checkpoint)
        return Linearised(self.x, residual, own, noise)

    def _solve(self, coefficients: Vector, free: np.ndarray) -> Vector:
        """Solve for the free coefficients; one that runs off stops where nothing is measured."""
        coefficients, x = coefficients.copy(), self.x[:, free]
        if not free.any():
            return coefficients
        for _ in range(STEPS):
            at = self.linearise(coefficients)
            weighted = self.sums.solve(x, at.own, self.correlation)
            step = _solve_ridged(x.T @ weighted, weighted.T @ at.residual)
            step *= min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), 1e-300))
            coefficients[free] += step
            np.clip(coefficients, -60, 60, out=coefficients)
            measurable = self.x @ coefficients > self.likelihood.lowest
            if float((np.abs(x @ step) * measurable).max()) < 1e-6:
                break
        return coefficients

    def _estimate_correlation(self, coefficients: Vector) -> Correlation:
        sigma = self._estimate_sigma(coefficients)
        self.correlation = self.correlation._replace(sigma=sigma)
        at = self.linearise(coefficients)
        weight = 1 / (sigma**2 + at.noise)
        both = np.column_stack([weight * at.residual, weight])
        # Products of two rows of a family, and of these of a checkpoint; and what they weigh.
        family = self.sums.by_family(both) ** 2 - self.sums.by_family(both**2)
        checkpoints = self.sums.by_checkpoint(both) ** 2 - self.sums.by_checkpoint(both**2)
        owner = self.sums.family[self.sums.checkpoint_starts]
        same = np.zeros_like(family)
        np.add.at(same, owner, checkpoints)
        # A family counts by its rows, not by its pairs of rows.
        share = 1 / np.maximum(self.sums.by_family(weight[:, None]), 1e-300)
        between, within = (share * (family - same)).sum(axis=0), (share * same).sum(axis=0)
        if not between[1] + within[1] > 1e-12 * weight.sum():
            return Correlation(sigma)
        source = between if between[1] > 1e-9 * within[1] else within
        by_family = float(np.clip(source[0] / source[1] / sigma**2, *FAMILY_RANGE))
        together = within[0] / within[1] / sigma**2 if within[1] > 0 else 0.0
        has = self.sums.has_checkpoints and within[1] > 0
        extra = float(np.clip(together - by_family, 0, MOST_TOGETHER - by_family)) if has else 0.0
        return Correlation(sigma, by_family, extra)

    def _estimate_sigma(self, coefficients: Vector) -> float:
        """Maximise the marginal likelihood, adjusted for the coefficients (Cox & Reid 1987)."""
        means = self.x @ coefficients

        def loss(log_sigma: float) -> float:
            sigma = float(np.exp(log_sigma))
            weight = 1 / (sigma**2 + self.likelihood.noise(means, sigma))
            information = np.linalg.slogdet(self.x.T @ (weight[:, None] * self.x))[1]
            prior = 0.5 * (log_sigma - np.log(PRIOR_SIGMA)) ** 2
            return float(0.5 * information + prior - self.likelihood.log_likelihood(means, sigma))

        bounds = (float(np.log(SIGMA_RANGE[0])), float(np.log(SIGMA_RANGE[1])))
        found = optimize.minimize_scalar(
            loss, bounds=bounds, method="bounded", options={"xatol": 0.02}
        )
        return float(np.exp(found.x))

    def estimate(self, index: int = 0) -> float:
        """Return a coefficient; infinite where it ran off."""
        value = float(self.coefficients[index])
        return value if abs(value) < LARGEST else float(np.copysign(np.inf, value))

    def at(self, value: float, index: int = 0) -> Linearised:
        """Linearise where coefficient `index` has `value` and the others solve their equations."""
        coefficients = self.coefficients.copy()
        coefficients[index] = value
        return self.linearise(self._solve(coefficients, np.arange(len(coefficients)) != index))

    def test(self, value: float, index: int = 0) -> ContrastTest:
        """Test the hypothesis that coefficient `index` is `value`."""
        return self.robust_test(self.at(value, index), index)

    def robust_test(self, at: Linearised, index: int = 0) -> ContrastTest:
        """Return the step of coefficient `index` with its CR2 error and degrees of freedom."""
        rows = robust_rows(self, at, index)
        measuring = float((rows.direction**2 * at.noise).sum())
        # What measuring alone would give is known; the few families may show less by luck.
        variance = max(float(((rows.clusters @ at.residual) ** 2).sum()), measuring, 1e-300)
        return ContrastTest(float(rows.direction @ at.residual), float(np.sqrt(variance)), rows.df)

    def interval(self, alpha: float, index: int = 0) -> tuple[float, float]:
        """Return the ends of the range of values not rejected; infinite where it has no end.

        It is the range around the estimate. Errors near the noise can leave so few families with
        evidence against an extreme value that this is not rejected where nearer ones are.
        """
        center = float(np.clip(self.coefficients[index], -LARGEST, LARGEST))
        return self._end(center, -1, alpha, index), self._end(center, 1, alpha, index)

    def _end(self, center: float, side: int, alpha: float, index: int) -> float:
        def excess(distance: float) -> float:
            tested = self.test(center + side * distance, index)
            return -side * tested.statistic - float(stats.t.ppf(1 - alpha / 2, tested.df))

        first = max(2 * min(self.test(center, index).standard_error, 1.0), 0.05)
        farthest = LARGEST - side * center
        tried = [first * WIDENING**step for step in range(STEPS)]
        # No difference is among the values tried, so that interval and p value agree.
        tried = sorted(d for d in (*tried, -side * center) if 0 < d < farthest)
        inner = 0.0
        for outer in (*tried, farthest):
            if excess(outer) > 0:
                break
            inner = outer
        else:
            return side * float(np.inf)
        if excess(inner) > 0:  # the estimate ran off to where everything is rejected
            return side * float(np.inf)
        return center + side * float(optimize.brentq(excess, inner, outer, xtol=1e-4))


class RobustRows(NamedTuple):
    """What turns working residuals [n] into an estimate and its CR2 error.

    Attributes:
        direction: The coefficient's step is `direction @ residual` [n].
        clusters: A cluster's part in the error is its row of `clusters @ residual` [clusters, n].
        df: Bell and McCaffrey's degrees of freedom.
    """

    direction: Vector
    clusters: Matrix
    df: float


def robust_rows(equation: EstimatingEquation, at: Linearised, index: int) -> RobustRows:
    """Return the linear forms behind a robust test (Bell & McCaffrey 2002; Imbens & Kolesar 2016).

    Rows are made independent by the working covariance first, so that the CR2 covariance is
    unbiased when that holds (Pustejovsky & Tipton 2018). All products are of k columns: the inverse
    root of one less a cluster's leverage needs the Gram matrices of the clusters only.
    """
    x, count = at.x, int(equation.cluster.max()) + 1
    k = x.shape[1]
    weighted = equation.sums.solve(x, at.own, equation.correlation)
    members = (equation.cluster == np.arange(count)[:, None]).astype(float)
    products = (x[:, :, None] * weighted[:, None, :]).reshape(len(x), -1)
    grams = (members @ products).reshape(count, k, k)
    grams = (grams + grams.transpose(0, 2, 1)) / 2
    scale = 1 / np.sqrt(np.maximum(np.einsum("fii->i", grams), 1e-300))
    grams = grams * scale[:, None] * scale
    inverse = np.linalg.inv(grams.sum(axis=0) + RIDGE * np.eye(k))
    root = np.linalg.cholesky((inverse + inverse.T) / 2)
    left = np.eye(k) - root.T @ grams @ root
    values, vectors = np.linalg.eigh((left + left.transpose(0, 2, 1)) / 2)
    usable = values > 1e-8
    values = np.where(usable, 1 / np.sqrt(np.where(usable, values, 1.0)), 0.0)
    wanted = scale[index] * np.eye(k)[index]
    adjusted = np.einsum("fij,fj,fkj,k->fi", vectors, values, vectors, root.T @ wanted) @ root.T
    held = np.einsum("fij,fj->fi", grams, adjusted)
    spread = np.diag((adjusted * held).sum(axis=1)) - held @ inverse @ held.T
    df = float(np.trace(spread) ** 2 / max((spread**2).sum(), 1e-300))
    forms = weighted * scale
    direction = forms @ (inverse @ wanted)
    # A cluster's residuals less what the columns explain of them.
    clusters = members * (adjusted @ forms.T) - held @ inverse @ forms.T
    return RobustRows(direction, clusters, max(df, 1.0))


def _settled(before: Correlation, now: Correlation) -> bool:
    return abs(np.log(now.sigma / before.sigma)) < 0.02 and abs(now.family - before.family) < 0.03


def _solve_ridged(matrix: Matrix, vector: Vector) -> Vector:
    """Solve in units of the diagonal, so that a column without information stays put."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale + RIDGE * np.eye(len(matrix))
    solved: Vector = np.linalg.solve(scaled, vector * scale) * scale
    return solved
