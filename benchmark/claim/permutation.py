"""A test of the contrast that exchanges mixer labels among families.

Four families of each mixer, of which the first mixer's all have the lower errors: of the 70 ways
to deal out the labels only this one and its mirror image separate them as well.

    >>> family = np.arange(8)
    >>> errors = np.exp([-2.1, -2.4, -2.2, -2.3, -1.1, -1.2, -1.4, -1.3])
    >>> squares = SquaredErrors(errors**2, np.zeros(8), np.zeros(8))
    >>> labels = np.repeat([1, 0], 4)
    >>> x = np.column_stack([labels, np.ones(8)])
    >>> equation = EstimatingEquation.fit(x, squares, Nesting.of(family, family), family)
    >>> test = LabelExchange.of(equation, family, labels, strata=np.zeros(8, dtype=int)).test()
    >>> test.exact, test.assignments, round(test.p_value * 70)
    (True, 70, 2)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from math import comb, prod
from typing import NamedTuple

import numpy as np

from benchmark.claim.estimating_equation import EstimatingEquation, Linearised
from benchmark.claim.measurement import Matrix, SquaredErrors, Vector
from benchmark.claim.mixed_model import Codes, Nesting
from benchmark.claim.result import Permutation

__all__ = ["EstimatingEquation", "LabelExchange", "Nesting", "SquaredErrors"]

MAX_EXACT = 50_000
RANDOM_ASSIGNMENTS = 9_999
CHUNK = 5_000
"""Labellings whose statistics are computed together, which bounds the memory."""
TOLERANCE = 1e-8
"""Statistics this close, relatively, are ties: they differ by rounding only."""


@dataclass(frozen=True)
class LabelExchange:
    """All labellings of one design that are tried, ready for any residuals.

    The statistic is the score of the contrast at a ratio of 1, squared and divided by the sum of
    the units' squared parts in it. Datasets and covariates are projected out of scores and labels.
    Dividing by what the labelling itself shows makes the test hold also where families of one
    mixer vary more, approximately (Chung & Romano 2013); where they do not, and labels are
    independent of covariates and of how well errors are measured, it is exact.

    Attributes:
        parts: what units add to the score.
        observed: 1.0 for units of the first mixer, else 0.0 [units].
        tried: the labellings, the observed one among them [labellings, units].
        exact: whether these are all there are.
        strata: number of strata within which labels can be exchanged.
    """

    parts: _Parts
    observed: Vector
    tried: Matrix
    exact: bool
    strata: int

    @classmethod
    def of(
        cls,
        equation: EstimatingEquation,
        units: Codes,
        labels: np.ndarray,
        strata: Codes,
        seed: int = 0,
        departure: Vector | None = None,
    ) -> LabelExchange:
        """Prepare the exchange of mixer labels among families within strata.

        Args:
            equation: fitted, with the contrast as its first column.
            units: code of the exchangeable unit of each row.
            labels: per row 1 for the first mixer, 0 for the second, -1 for other mixers.
            strata: code of the stratum of each row; labels stay within it.
            seed: for the random labellings, when there are more than `MAX_EXACT`.
            departure: by which labels count in each row, where the equation's first column is their
                product; 1 everywhere if None.
        """
        order = equation.order
        units = np.unique(units[order], return_inverse=True)[1]
        first_row = np.unique(units, return_index=True)[1]
        unit_labels, unit_strata = labels[order][first_row], strata[order][first_row]
        exchangeable, codes = unit_labels >= 0, np.unique(unit_strata)
        members = [np.flatnonzero(exchangeable & (unit_strata == code)) for code in codes]
        counts = [int((unit_labels[units_] == 1).sum()) for units_ in members]
        observed = (unit_labels == 1).astype(float)
        tried, exact = _assignments(members, counts, observed, seed)
        return cls(
            parts=_Parts(
                equation,
                equation.at(0.0),
                units,
                None if departure is None else departure[order],
            ),
            observed=observed,
            tried=tried,
            exact=exact,
            strata=sum(0 < k < len(m) for m, k in zip(members, counts, strict=True)),
        )

    def thinned(self, most: int, seed: int = 0) -> LabelExchange:
        """Return the same exchange with at most `most` labellings, the observed one among them."""
        if len(self.tried) <= most:
            return self
        chosen = np.random.default_rng(seed).choice(len(self.tried), most - 1, replace=False)
        tried = np.vstack([self.observed, self.tried[chosen]])
        return replace(self, tried=tried, exact=False)

    def test(self, residual: Vector | None = None) -> Permutation:
        """Test the observed labels on working residuals [n], by default those of the data."""
        values, reached = self._statistics(residual)
        smallest = np.mean(values >= values.max() * (1 - TOLERANCE))
        at_least = float(np.mean(values >= reached * (1 - TOLERANCE)))
        return Permutation(
            p_value=at_least,
            tied=at_least - float(np.mean(values > reached * (1 + TOLERANCE))),
            smallest_p=float(smallest) if self.exact else 1 / len(self.tried),
            assignments=len(self.tried),
            exact=self.exact,
            strata=self.strata,
        )

    def p_value(self, residual: Vector) -> float:
        """Return the p value that working residuals [n] would give."""
        values, reached = self._statistics(residual)
        return float(np.mean(values >= reached * (1 - TOLERANCE)))

    def _statistics(self, residual: Vector | None) -> tuple[Vector, float]:
        units = self.parts.of(self.parts.residual if residual is None else residual)
        reached = float(self.parts.statistics(self.observed[None], units)[0])
        return self.parts.statistics(self.tried, units), reached


class _Scores(NamedTuple):
    """What each unit adds to the score [units], and to what the other columns explain of it."""

    score: Vector
    explained: Matrix


class _Parts:
    """What each unit adds to the score of any labelling, the other columns projected out."""

    def __init__(
        self, equation: EstimatingEquation, at: Linearised, units: Codes, departure: Vector | None
    ) -> None:
        others = at.x[:, 1:]
        if departure is None:
            departure = np.ones(len(units))
        else:
            others = _spanning(others, departure)
        self._solve = partial(equation.sums.solve, own=at.own, correlation=equation.correlation)
        self._others, self._solved = others, self._solve(others)
        gram = others.T @ self._solved
        scale = 1 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
        gram = gram * scale[:, None] * scale + 1e-10 * np.eye(others.shape[1])
        self._inverse = np.linalg.inv(gram) * scale[:, None] * scale
        self._member = (units == np.arange(units.max() + 1)[:, None]).astype(float)
        self._counted = self._member * departure
        self._crossed: Matrix = self._counted @ self._solved @ self._inverse
        self.residual = at.residual

    def of(self, residual: Vector) -> _Scores:
        """Return the units' parts for working residuals [n]."""
        solved = self._solve(residual[:, None])[:, 0]
        score = solved - self._solved @ (self._inverse @ (self._others.T @ solved))
        explained = (self._member @ (self._others * score[:, None])).T
        return _Scores(self._counted @ score, explained)

    def statistics(self, assignments: Matrix, units: _Scores) -> Vector:
        """Return the squared score over its robust variance, 0 where there is none."""
        return np.concatenate(
            [
                self._statistics(assignments[start : start + CHUNK], units)
                for start in range(0, len(assignments), CHUNK)
            ]
        )

    def _statistics(self, assignments: Matrix, units: _Scores) -> Vector:
        parts = assignments * units.score - assignments @ self._crossed @ units.explained
        variance = (parts**2).sum(axis=1)
        usable = variance > 1e-12 * float((units.score**2).sum())
        score = (assignments @ units.score) ** 2
        return np.where(usable, score / np.where(usable, variance, 1.0), 0.0)


def _spanning(columns: Matrix, wanted: Vector) -> Matrix:
    """Add to columns [n, k] what they lack of a wanted one [n].

    Labels of all units are then among what is projected out, as they are of plain labels by the
    datasets' columns: a labelling and its mirror image are alike.
    """
    rest = wanted - columns @ np.linalg.lstsq(columns, wanted, rcond=None)[0]
    if float(rest @ rest) < 1e-20 * float(wanted @ wanted):
        return columns
    return np.column_stack([columns, rest / np.sqrt(rest @ rest)])


def _assignments(
    members: list[Codes], counts: list[int], observed: Vector, seed: int
) -> tuple[Matrix, bool]:
    """Return labellings to try, [assignments, units], and whether they are all there are."""
    if prod(comb(len(m), k) for m, k in zip(members, counts, strict=True)) <= MAX_EXACT:
        return _all_assignments(members, counts, len(observed)), True
    drawn = _random_assignments(members, observed, np.random.default_rng(seed))
    return np.vstack([observed, drawn]), False


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
