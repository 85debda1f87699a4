"""A test of the contrast that exchanges mixer labels among families.

Four families of each mixer, of which the first mixer's all have the lower errors: of the 70 ways
to deal out the labels only this one and its mirror image separate them as well.

    >>> family = np.arange(8)
    >>> log_errors = np.array([-2.1, -2.4, -2.2, -2.3, -1.1, -1.2, -1.4, -1.3])
    >>> test = permutation_test(
    ...     log_errors,
    ...     others=np.ones((8, 1)),  # no covariates: the intercept alone
    ...     nesting=Nesting.of(family, checkpoint=family),
    ...     units=family,
    ...     labels=np.repeat([1, 0], 4),
    ...     strata=np.zeros(8, dtype=int),
    ... )
    >>> test.exact, test.assignments, round(test.p_value * 70)
    (True, 70, 2)
"""

from __future__ import annotations

from itertools import combinations, product
from math import comb, prod

import numpy as np

from benchmark.claim.mixed_model import Codes, Matrix, Nesting, Vector, family_gram
from benchmark.claim.result import Permutation

MAX_EXACT = 50_000
RANDOM_ASSIGNMENTS = 9_999
TOLERANCE = 1e-9
"""Statistics this close, relatively, are ties: they differ by rounding only."""


def permutation_test(
    y: Vector,
    others: Matrix,
    nesting: Nesting,
    units: Codes,
    labels: np.ndarray,
    strata: Codes,
    seed: int = 0,
) -> Permutation:
    """Test the mixer by exchanging labels among families within strata.

    The statistic is the squared score statistic of the contrast in the mixed model without it:
    covariates and datasets are projected out of both outcome and label, and the variance
    ratios are fitted once under the null, so that no labelling is favoured. It is exact if,
    given no effect, labels are independent of errors and covariates; with correlated
    covariates its size is checked by simulation (`docs/claim.md`).

    Args:
        y: log errors, shape (n,).
        others: all columns but the contrast, shape (n, k).
        nesting: families and checkpoints, which set the covariance.
        units: code from 0 of the exchangeable unit of each row.
        labels: per row 1 for the first mixer, 0 for the second, -1 for other mixers.
        strata: code of the stratum of each row; labels stay within it.
        seed: for the random labellings, when there are more than `MAX_EXACT`.
    """
    first_row = np.unique(units, return_index=True)[1]
    unit_labels, unit_strata = labels[first_row], strata[first_row]
    gram = family_gram(y, others, nesting, units)
    exchangeable, codes = unit_labels >= 0, np.unique(unit_strata)
    members = [np.flatnonzero(exchangeable & (unit_strata == code)) for code in codes]
    counts = [int((unit_labels[units_] == 1).sum()) for units_ in members]
    observed = (unit_labels == 1).astype(float)
    tried, exact = _assignments(members, counts, observed, seed)
    values, reached = _statistics(tried, gram), float(_statistics(observed[None], gram)[0])
    smallest = np.mean(values >= values.max() * (1 - TOLERANCE)) if exact else 1 / len(tried)
    at_least = float(np.mean(values >= reached * (1 - TOLERANCE)))
    return Permutation(
        p_value=at_least,
        tied=at_least - float(np.mean(values > reached * (1 + TOLERANCE))),
        smallest_p=float(smallest),
        assignments=len(tried),
        exact=exact,
        strata=sum(0 < k < len(m) for m, k in zip(members, counts, strict=True)),
    )


def _assignments(
    members: list[Codes], counts: list[int], observed: Vector, seed: int
) -> tuple[Matrix, bool]:
    """Return labellings to try, [assignments, units], and whether they are all there are."""
    if prod(comb(len(m), k) for m, k in zip(members, counts, strict=True)) <= MAX_EXACT:
        return _all_assignments(members, counts, len(observed)), True
    drawn = _random_assignments(members, observed, np.random.default_rng(seed))
    return np.vstack([observed, drawn]), False


def _statistics(assignments: Matrix, gram: tuple[Matrix, Vector]) -> Vector:
    """Return (z'r)^2 / z'Gz per row z, 0 where the covariates determine the labels."""
    spread, score = gram
    variance = np.einsum("au,au->a", assignments @ spread, assignments)
    usable = variance > 1e-9 * max(float(np.trace(spread)), 1e-300)
    return np.where(usable, (assignments @ score) ** 2 / np.where(usable, variance, 1.0), 0.0)


def _all_assignments(members: list[np.ndarray], counts: list[int], units: int) -> Matrix:
    choices = [combinations(m.tolist(), k) for m, k in zip(members, counts, strict=True)]
    rows = [[unit for part in chosen for unit in part] for chosen in product(*choices)]
    assignments = np.zeros((len(rows), units))
    for row, chosen in zip(assignments, rows, strict=True):
        row[chosen] = 1.0
    return assignments


def _random_assignments(
    members: list[np.ndarray], observed: Vector, generator: np.random.Generator
) -> Matrix:
    assignments = np.tile(observed, (RANDOM_ASSIGNMENTS, 1))
    for units in members:
        assignments[:, units] = generator.permuted(assignments[:, units], axis=1)
    return assignments
