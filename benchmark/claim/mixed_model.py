"""Linear models for rows that are nested in checkpoints, which are nested in families.

The mixed model is `y = X b + family + checkpoint + noise`, fitted by restricted maximum
likelihood (REML). Its tests are t tests with Satterthwaite's degrees of freedom (Giesbrecht &
Burns 1985), because a study has few families and the usual normal approximation would then
reject far too often. It is the analysis of the specification curve, on the logs of errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from benchmark.arrays import FloatArray

Vector = FloatArray
Matrix = FloatArray
Codes = NDArray[np.intp]

TINY = 1e-300
"""Keeps the logarithm of a residual sum finite when a model fits exactly."""

MAX_SHARE = 1 - 1e-6
"""A component's variance is at most this share of its sum with the residual variance."""


@dataclass(frozen=True)
class TestedCoefficient:
    """One coefficient with its standard error, t test (`df` degrees) and interval."""

    estimate: float
    standard_error: float
    df: float
    p_value: float
    low: float
    high: float


def t_test(estimate: float, variance: float, df: float, alpha: float) -> TestedCoefficient:
    """Return the two-sided t test of `estimate` against 0 and its 1 - alpha interval."""
    standard_error = float(np.sqrt(variance))
    p_value = 2 * float(stats.t.sf(abs(estimate) / standard_error, df))
    half_width = float(stats.t.ppf(1 - alpha / 2, df)) * standard_error
    return TestedCoefficient(
        estimate, standard_error, df, p_value, estimate - half_width, estimate + half_width
    )


@dataclass(frozen=True)
class Nesting:
    """Which checkpoint and which family each of the n rows belongs to, as codes from 0."""

    family: Codes
    checkpoint: Codes

    @classmethod
    def of(cls, family: object, checkpoint: object) -> Nesting:
        """Encode label arrays; a checkpoint is told apart by its family and its name."""
        family_codes = np.unique(np.asarray(family, dtype=str), return_inverse=True)[1]
        names = np.unique(np.asarray(checkpoint, dtype=str), return_inverse=True)[1]
        pairs = family_codes * (names.max() + 1) + names
        return cls(family_codes, np.unique(pairs, return_inverse=True)[1])

    @cached_property
    def checkpoint_sizes(self) -> Vector:
        """Rows of each checkpoint."""
        return np.bincount(self.checkpoint).astype(float)

    @cached_property
    def family_of_checkpoint(self) -> Codes:
        """Family code of each checkpoint."""
        first = np.unique(self.checkpoint, return_index=True)[1]
        return self.family[first]

    @cached_property
    def has_family_effect(self) -> bool:
        """Whether some family has more than one row, so that its variance can be told."""
        return bool(np.bincount(self.family).max() > 1)

    @cached_property
    def has_checkpoint_effect(self) -> bool:
        """Whether checkpoints differ from both rows and families."""
        several_rows = self.checkpoint_sizes.max() > 1
        several_checkpoints = np.bincount(self.family_of_checkpoint).max() > 1
        return bool(several_rows and several_checkpoints)

    def checkpoint_sums(self, values: Matrix) -> Matrix:
        """Sum the rows of `values` (n, k) within each checkpoint."""
        sums = np.zeros((len(self.checkpoint_sizes), values.shape[1]))
        np.add.at(sums, self.checkpoint, values)
        return sums

    def family_sums(self, per_checkpoint: Matrix) -> Matrix:
        """Sum rows (one per checkpoint) within each family."""
        sums = np.zeros((self.family.max() + 1, per_checkpoint.shape[1]))
        np.add.at(sums, self.family_of_checkpoint, per_checkpoint)
        return sums


@dataclass(frozen=True)
class MixedFit:
    """A fitted mixed model.

    Variances are on the scale of y squared; a component that the design cannot tell apart
    is None. The family variance may come out negative: cutting it off at zero would make
    tests with few families too cautious (`docs/claim.md`).
    """

    coefficients: Vector
    covariance: Matrix
    residual_variance: float
    checkpoint_variance: float | None
    family_variance: float | None
    log_likelihood: float
    lowest_df: float
    _derivatives: tuple[Matrix, ...]
    _variance_of_variances: Matrix

    def test(self, index: int, alpha: float = 0.05) -> TestedCoefficient:
        """Test coefficient `index` against 0 with Satterthwaite's degrees of freedom.

        With C the covariance of the coefficients and c its entry for this one, they are
        2 c^2 / var(c), var by the delta method from the variance components. They are not let
        fall below `lowest_df`: with few families the formula sometimes gives values near 0.
        """
        variance = float(self.covariance[index, index])
        gradient = np.array([float(d[index, index]) for d in self._derivatives])
        spread = gradient @ self._variance_of_variances @ gradient
        df = max(float(2 * variance**2 / spread), self.lowest_df)
        return t_test(float(self.coefficients[index]), variance, df, alpha)


class _Likelihood:
    """Profile REML likelihood in the ratios of checkpoint and family to residual variance.

    Both inverse and determinant of a nested compound-symmetric covariance have closed
    forms, so one evaluation costs O(checkpoints * columns^2), whatever the number of rows.
    """

    def __init__(self, y: Vector, x: Matrix, nesting: Nesting) -> None:
        self.nesting = nesting
        both = np.column_stack([x, y])
        self.gram = both.T @ both
        self.sums = nesting.checkpoint_sums(both)
        self.rows, self.columns = x.shape

    def weighted_gram(self, checkpoint_ratio: float, family_ratio: float) -> tuple[Matrix, float]:
        """Return [X y]' V^-1 [X y] and log |V|, V in units of the residual variance."""
        sizes = self.nesting.checkpoint_sizes
        shrink = 1 / (1 + sizes * checkpoint_ratio)
        gram = self.gram - (self.sums * (checkpoint_ratio * shrink)[:, None]).T @ self.sums
        weighted = self.nesting.family_sums(
            np.column_stack([self.sums * shrink[:, None], sizes * shrink])
        )
        family_sums, family_sizes = weighted[:, :-1], weighted[:, -1]
        family_shrink = 1 / (1 + family_sizes * family_ratio)
        gram = gram - (family_sums * (family_ratio * family_shrink)[:, None]).T @ family_sums
        return gram, -float(np.log(shrink).sum() + np.log(family_shrink).sum())

    def residual_variance(self, gram: Matrix) -> float:
        """Return the REML residual variance given the weighted Gram matrix."""
        variance: float = _residual_sum(gram) / (self.rows - self.columns)
        return variance

    def negative(self, checkpoint_ratio: float, family_ratio: float) -> float:
        """Return minus the profile REML log-likelihood, up to a constant."""
        gram, log_determinant = self.weighted_gram(checkpoint_ratio, family_ratio)
        freedom = self.rows - self.columns
        log_information = float(np.linalg.slogdet(gram[:-1, :-1])[1])
        log_residual = float(np.log(_residual_sum(gram)))
        value: float = 0.5 * (freedom * log_residual + log_determinant + log_information)
        return value

    def maximise(self) -> tuple[float, float, float]:
        """Return the best (checkpoint ratio, family ratio) and the log-likelihood there."""
        if not self.nesting.has_family_effect:
            return 0.0, 0.0, -self.negative(0.0, 0.0)
        # V stays positive definite while rows * ratio > -1 in every family.
        lowest_ratio = -0.9 / float(np.bincount(self.nesting.family).max())
        family_bounds = (lowest_ratio / (1 + lowest_ratio), MAX_SHARE)
        if self.nesting.has_checkpoint_effect:
            found = optimize.minimize(
                lambda shares: self.negative(_ratio(shares[0]), _ratio(shares[1])),
                x0=(0.3, 0.3),
                bounds=[(0, MAX_SHARE), family_bounds],
                method="L-BFGS-B",
            )
            return _ratio(float(found.x[0])), _ratio(float(found.x[1])), -float(found.fun)
        found = optimize.minimize_scalar(
            lambda share: self.negative(0.0, _ratio(share)),
            bounds=family_bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        return 0.0, _ratio(float(found.x)), -float(found.fun)


def _residual_sum(gram: Matrix) -> float:
    xx, xy, yy = gram[:-1, :-1], gram[:-1, -1], float(gram[-1, -1])
    return max(yy - float(xy @ np.linalg.solve(xx, xy)), TINY)


def _ratio(share: float) -> float:
    return share / (1 - share)


def fit_mixed(y: Vector, x: Matrix, nesting: Nesting, lowest_df: float = 1.0) -> MixedFit:
    """Fit y = X b + family + checkpoint + noise by REML.

    Args:
        y: outcome, shape (n,).
        x: fixed-effect columns, shape (n, k), of full column rank with k < n.
        nesting: the families and checkpoints of the n rows.
        lowest_df: degrees of freedom that tests have at least.
    """
    likelihood = _Likelihood(y, x, nesting)
    checkpoint_ratio, family_ratio, log_likelihood = likelihood.maximise()
    gram, _ = likelihood.weighted_gram(checkpoint_ratio, family_ratio)
    residual = likelihood.residual_variance(gram)
    coefficients: Vector = np.linalg.solve(gram[:-1, :-1], gram[:-1, -1])
    components = _components(nesting)
    ratios = {"residual": 1.0, "checkpoint": checkpoint_ratio, "family": family_ratio}
    variances = {name: residual * ratios[name] for name in components}
    covariance, derivatives, spread = _satterthwaite(x, nesting, components, variances)
    return MixedFit(
        coefficients=coefficients,
        covariance=covariance,
        residual_variance=residual,
        checkpoint_variance=variances.get("checkpoint"),
        family_variance=variances.get("family"),
        log_likelihood=log_likelihood,
        lowest_df=lowest_df,
        _derivatives=derivatives,
        _variance_of_variances=spread,
    )


def _components(nesting: Nesting) -> tuple[str, ...]:
    checkpoint = ("checkpoint",) if nesting.has_checkpoint_effect else ()
    family = ("family",) if nesting.has_family_effect else ()
    return ("residual", *checkpoint, *family)


def _satterthwaite(
    x: Matrix, nesting: Nesting, components: tuple[str, ...], variances: dict[str, float]
) -> tuple[Matrix, tuple[Matrix, ...], Matrix]:
    """Return C = cov(b), dC / dvariance for each component, and cov(variances).

    The covariance of the variances is the inverse of the expected REML information. Families
    are independent, so all products are over blocks padded to a common size.
    """
    blocks, patterns = _blocks(x, nesting, components)
    padding = 1.0 - np.einsum("fii->fi", patterns[0])
    covariance = sum(variances[name] * g for name, g in zip(components, patterns, strict=True))
    # Padded rows get variance 1 and zero columns, so they change no product below.
    inverse = np.linalg.inv(covariance + padding[:, :, None] * np.eye(padding.shape[1]))
    weighted = inverse @ blocks
    c: Matrix = np.linalg.inv(np.einsum("fik,fil->kl", blocks, weighted))
    scaled = [inverse @ pattern for pattern in patterns]
    applied = [pattern @ weighted for pattern in patterns]
    curves = [np.einsum("fik,fil->kl", weighted, a) for a in applied]
    count = len(components)
    information = np.empty((count, count))
    for i in range(count):
        for j in range(i, count):
            trace = (scaled[i] * scaled[j].transpose(0, 2, 1)).sum()
            crossed = np.einsum("fik,fil->kl", applied[i], inverse @ applied[j])
            information[i, j] = information[j, i] = 0.5 * (
                trace - 2 * np.trace(c @ crossed) + np.trace(c @ curves[i] @ c @ curves[j])
            )
    derivatives = tuple(c @ curve @ c for curve in curves)
    # pinv: components can be nearly confounded in tiny designs.
    spread: Matrix = np.linalg.pinv(information, hermitian=True)
    return c, derivatives, spread


def _blocks(
    x: Matrix, nesting: Nesting, components: tuple[str, ...]
) -> tuple[Matrix, list[Matrix]]:
    """Return X as (families, size, k), zero-padded, and each component's 0/1 pattern."""
    sizes = np.bincount(nesting.family)
    order = np.argsort(nesting.family, kind="stable")
    family = nesting.family[order]
    place = np.arange(len(order)) - np.concatenate([[0], np.cumsum(sizes)[:-1]])[family]
    blocks = np.zeros((len(sizes), sizes.max(), x.shape[1]))
    blocks[family, place] = x[order]
    labels = np.full((len(sizes), sizes.max()), -1)
    labels[family, place] = nesting.checkpoint[order]
    present = labels >= 0
    both = (present[:, :, None] & present[:, None, :]).astype(float)
    patterns = {
        "residual": both * np.eye(sizes.max()),
        "checkpoint": both * (labels[:, :, None] == labels[:, None, :]),
        "family": both,
    }
    return blocks, [patterns[name] for name in components]
