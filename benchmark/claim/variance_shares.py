"""How much of the variance of log errors each factor explains: Shapley (LMG) shares.

A factor's share is the rise in R^2 when it enters, averaged over all orders of entry (Lindeman,
Merenda & Gold 1980; Groemping 2007). Datasets are projected out first: they are the yardstick,
not a factor. Family enters last: families hold mixers, so in any order before the mixer it
would take the mixer's share, and no mixer could ever be ahead of it. What columns of pure noise
would have explained is subtracted, as in the adjusted R^2, since family has many columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.data import COVARIATE_COLUMNS
from benchmark.claim.design import Design, connected_strata
from benchmark.claim.mixed_model import Codes, Matrix, Vector
from benchmark.claim.result import Factor, VarianceShare, VarianceShares

if TYPE_CHECKING:
    import pandas as pd

FACTOR_COLUMNS: dict[Factor, tuple[str, ...]] = {
    "size": ("log_parameters",),
    "pretraining": ("log_pretraining_examples",),
    "recipe": COVARIATE_COLUMNS["recipe"],
    "accuracy": ("test_error",),
}
RESAMPLES = 500
RIDGE = 1e-9
"""Relative ridge that lets a column drop out of a resample in which it does not vary."""


def variance_shares(
    clean: pd.DataFrame, y: Vector, design: Design, seed: int = 0
) -> VarianceShares:
    """Split the variance of `y` between the factors, with 95% intervals over families.

    Args:
        clean: averaged rows; the design says which are used.
        y: log error of every row of `clean`.
        design: gives the rows, so that shares and the contrast see the same checkpoints.
        seed: of the bootstrap, which resamples families within strata.
    """
    used, outcome = clean.iloc[design.rows], y[design.rows]
    columns, members = _factor_columns(used)
    family = np.unique(used["family"].to_numpy(dtype=str), return_inverse=True)[1]
    datasets = used["dataset"].to_numpy(dtype=str)
    fixed = (datasets[:, None] == np.unique(datasets)).astype(float)
    grams = _family_grams(np.column_stack([fixed, columns, outcome]), family)
    strata = connected_strata(used["family"], used["dataset"])
    weights = _family_weights(family, strata, np.random.default_rng(seed))
    count = fixed.shape[1]
    raw = _shares(tuple(members), _explained(grams, weights, members, count))
    drawn = (weights > 0).astype(float)
    with np.errstate(invalid="ignore"):  # a resample without spare rows explains anything: inf
        chance = _shares(tuple(members), _ranks(grams, drawn, np.bincount(family), members, count))
    widths: dict[Factor, int] = {name: len(at) for name, at in members.items()}
    widths["family"] = len(drawn[0])
    problem = None
    if chance[0].sum() > 1 - 1e-9:
        # Families of one row each explain everything, noise included.
        raw, chance = raw[:, :-1], chance[:, :-1]
        del widths["family"]
        problem = "families have one row each, so that family cannot be told from noise"
    noise = 1 - chance.sum(axis=1, keepdims=True)
    if noise[0] < 1e-9:
        return VarianceShares(problem="there are as many columns as rows")
    # Chance explains its part of the variance that no column truly explains.
    with np.errstate(divide="ignore", invalid="ignore"):
        by_chance = chance * (1 - raw.sum(axis=1, keepdims=True)) / noise
    by_chance[noise[:, 0] < 1e-9] = np.nan
    return _summary(raw - by_chance, by_chance[0], widths, len(drawn[0]), problem)


def _summary(
    shares: Matrix,
    by_chance: Vector,
    widths: Mapping[Factor, int],
    families: int,
    problem: str | None,
) -> VarianceShares:
    resampled = shares[1:][np.isfinite(shares[1:]).all(axis=1)]
    if not np.isfinite(shares[0]).all() or len(resampled) < RESAMPLES / 2:
        return VarianceShares(problem="too few families vary for shares to mean anything")
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    largest = np.bincount(resampled.argmax(axis=1), minlength=len(widths)) / len(resampled)
    return VarianceShares(
        shares=tuple(
            VarianceShare(
                factor=factor,
                share=float(shares[0, i]),
                low=float(low[i]),
                high=float(high[i]),
                by_chance=float(by_chance[i]),
                columns=width,
                probability_largest=float(largest[i]),
            )
            for i, (factor, width) in enumerate(widths.items())
        ),
        explained=float(shares[0].sum()),
        resamples=len(resampled),
        families=families,
        problem=problem,
    )


def _factor_columns(used: pd.DataFrame) -> tuple[Matrix, dict[Factor, list[int]]]:
    """Return the columns of all factors that vary and are known, and which belong to whom."""
    mixers = used["mixer"].to_numpy(dtype=str)
    levels = np.unique(mixers)[1:]
    columns = [(mixers == level).astype(float) for level in levels]
    members: dict[Factor, list[int]] = {"mixer": list(range(len(columns)))}
    for factor, names in FACTOR_COLUMNS.items():
        for name in names:
            values = used[name].to_numpy(dtype=float)
            if np.isfinite(values).all() and np.ptp(values) > 0:
                members.setdefault(factor, []).append(len(columns))
                columns.append((values - values.mean()) / values.std())
    return np.column_stack(columns), members


def _family_grams(both: Matrix, family: Codes) -> tuple[Matrix, Matrix]:
    """Return per family the Gram matrix of its rows and of its rows less their mean.

    Both add up over families, so a resample of families is a weighted sum, and sums of
    the second kind give the fits with family columns without ever forming these.
    """
    total, within = [], []
    for code in range(family.max() + 1):
        rows = both[family == code]
        total.append(rows.T @ rows)
        centred = rows - rows.mean(axis=0)
        within.append(centred.T @ centred)
    return np.array(total), np.array(within)


def _family_weights(family: Codes, strata: Codes, generator: np.random.Generator) -> Matrix:
    """Return how often each family is drawn: ones first, then the resamples."""
    stratum = strata[np.unique(family, return_index=True)[1]]
    weights = np.ones((RESAMPLES + 1, len(stratum)))
    for code in np.unique(stratum):
        members = np.flatnonzero(stratum == code)
        chances = np.full(len(members), 1 / len(members))
        weights[1:, members] = generator.multinomial(len(members), chances, size=RESAMPLES)
    return weights


Coalitions = dict[frozenset[Factor], Vector]


def _coalitions(members: dict[Factor, list[int]]) -> Iterator[tuple[frozenset[Factor], list[int]]]:
    """Yield every set of factors but family, with its columns."""
    for size in range(len(members) + 1):
        for chosen in combinations(members, size):
            yield frozenset(chosen), [column for name in chosen for column in members[name]]


def _explained(
    grams: tuple[Matrix, Matrix], weights: Matrix, members: dict[Factor, list[int]], fixed: int
) -> Coalitions:
    """Return R^2, beyond the `fixed` first columns, of every set of factors per resample."""
    total, within = (np.einsum("bf,fij->bij", weights, gram, optimize=True) for gram in grams)
    scale = np.einsum("fii->i", grams[0])[:-1]
    base = list(range(fixed))
    unexplained = _residual_sums(total, base, scale)
    everything = list(range(total.shape[1] - 1))
    residuals = {
        chosen: _residual_sums(total, base + [fixed + column for column in columns], scale)
        for chosen, columns in _coalitions(members)
    }
    residuals[frozenset({*members, "family"})] = _residual_sums(within, everything, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {chosen: 1 - residual / unexplained for chosen, residual in residuals.items()}


def _residual_sums(gram: Matrix, columns: list[int], scale: Vector) -> Vector:
    """Return the residual sum of squares of the last column on `columns`, per Gram matrix."""
    part = gram[:, columns][:, :, columns] + np.diag(RIDGE * scale[columns])
    cross = gram[:, columns, -1]
    solved = np.linalg.solve(part, cross[:, :, None])[:, :, 0]
    residual: Vector = gram[:, -1, -1] - np.einsum("bi,bi->b", cross, solved)
    return np.maximum(residual, 0.0)


def _ranks(
    grams: tuple[Matrix, Matrix],
    drawn: Matrix,
    sizes: Codes,
    members: dict[Factor, list[int]],
    fixed: int,
) -> Coalitions:
    """Return the mean R^2 of every set of factors for pure noise: rank over rows.

    A family drawn twice adds neither rank nor information, so that rows and families are
    counted once in each resample.
    """
    total, within = grams[0].sum(axis=0), grams[1].sum(axis=0)
    base = list(range(fixed))
    freedom = drawn @ sizes - fixed
    with np.errstate(divide="ignore", invalid="ignore"):
        chances: Coalitions = {
            chosen: (_rank(total, base + [fixed + column for column in columns]) - fixed) / freedom
            for chosen, columns in _coalitions(members)
        }
        everything = list(range(len(total) - 1))
        joint = drawn.sum(axis=1) + _rank(within, everything) - fixed
        chances[frozenset({*members, "family"})] = joint / freedom
    return chances


def _rank(gram: Matrix, columns: list[int]) -> int:
    part = gram[np.ix_(columns, columns)]
    return int(np.linalg.matrix_rank(part, tol=1e-8 * float(np.trace(part)), hermitian=True))


def _shares(factors: tuple[Factor, ...], values: Coalitions) -> Matrix:
    """Return Shapley shares of the factors, then family's rest: (resamples, factors + 1)."""
    count = len(factors)
    shares = []
    for factor in factors:
        rivals = [other for other in factors if other != factor]
        share = np.zeros_like(values[frozenset()])
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(rivals, size):
                share = share + weight * (
                    values[frozenset({*chosen, factor})] - values[frozenset(chosen)]
                )
        shares.append(share)
    whole = frozenset(factors)
    shares.append(values[whole | {"family"}] - values[whole])
    return np.column_stack(shares)
