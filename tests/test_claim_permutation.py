"""The exchange of labels against brute force."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.claim import permutation
from benchmark.claim.mixed_model import Nesting, fit_least_squares
from benchmark.claim.permutation import permutation_test


def study(seed: int, units: int, rows_each: int = 1):
    generator = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), rows_each)
    covariate = generator.normal(size=len(unit))
    y = generator.normal(size=len(unit)) + 0.5 * covariate
    return y, covariate, unit, Nesting.of(unit, np.arange(len(unit)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())
def test_p_value_equals_refitting_every_labelling(seed: int, first: int, adjusted: bool) -> None:
    """With one row a family the statistic orders labellings as the least-squares t does."""
    units = 7
    y, covariate, unit, nesting = study(seed, units)
    others = np.ones((units, 1))
    if adjusted:
        others = np.column_stack([others, covariate])
    labels = (unit < first).astype(int)
    found = permutation_test(y, others, nesting, unit, labels, np.zeros(units, dtype=int))

    def t_value(chosen: tuple[int, ...]) -> float:
        label = np.isin(unit, chosen).astype(float)
        tested = fit_least_squares(y, np.column_stack([label, others]), 0)
        return abs(tested.estimate / tested.standard_error)

    reached = t_value(tuple(range(first)))
    values = np.array([t_value(chosen) for chosen in combinations(range(units), first)])
    assert found.exact
    assert found.assignments == comb(units, first)
    assert found.p_value == pytest.approx(np.mean(values >= reached * (1 - 1e-9)))
    assert found.smallest_p == pytest.approx(np.mean(values >= values.max() * (1 - 1e-9)))


def test_three_against_three_cannot_reach_five_percent() -> None:
    """Swapping all labels gives the same statistic, so 2 of 20 is the least."""
    y = np.array([0.0, 0.1, 0.2, 9.0, 9.1, 9.2])
    unit = np.arange(6)
    found = permutation_test(
        y, np.ones((6, 1)), Nesting.of(unit, unit), unit, (unit < 3).astype(int), unit * 0
    )
    assert found.p_value == found.smallest_p == pytest.approx(0.1)
    assert found.tied == pytest.approx(0.1)


def test_labels_stay_within_strata() -> None:
    y, _, unit, nesting = study(0, 8)
    strata = (unit >= 4).astype(int)
    others = np.column_stack([strata == 0, strata == 1]).astype(float)
    labels = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    found = permutation_test(y, others, nesting, unit, labels, strata)
    assert found.assignments == comb(4, 2) * comb(4, 1)
    assert found.strata == 2


def test_a_stratum_with_one_mixer_exchanges_nothing() -> None:
    y, _, unit, nesting = study(0, 8)
    strata = (unit >= 6).astype(int)
    others = np.column_stack([strata == 0, strata == 1]).astype(float)
    labels = np.array([1, 1, 1, 0, 0, 0, 1, 1])
    found = permutation_test(y, others, nesting, unit, labels, strata)
    assert found.assignments == comb(6, 3)
    assert found.strata == 1


def test_other_mixers_keep_their_place() -> None:
    y, _, unit, nesting = study(1, 8)
    labels = np.array([1, 1, 1, 0, 0, 0, -1, -1])
    others = np.column_stack([np.ones(8), labels == -1]).astype(float)
    found = permutation_test(y, others, nesting, unit, labels, unit * 0)
    assert found.assignments == comb(6, 3)


def test_random_labellings_approach_the_exact_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    y, covariate, unit, nesting = study(3, 12, rows_each=2)
    labels = (unit % 2).astype(int)
    arguments = (y, np.column_stack([np.ones(24), covariate]), nesting, unit, labels, unit * 0)
    exact = permutation_test(*arguments)
    monkeypatch.setattr(permutation, "MAX_EXACT", 10)
    drawn = permutation_test(*arguments)
    assert not drawn.exact
    assert drawn.assignments == 10_000
    assert drawn.smallest_p == pytest.approx(1e-4)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert permutation_test(*arguments) == drawn


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 4), st.integers(1, 3))
def test_p_values_are_fractions_of_the_labellings(
    seed: int, first: int, second: int, rows_each: int
) -> None:
    y, covariate, unit, nesting = study(seed, first + second, rows_each)
    labels = (unit < first).astype(int)
    others = np.column_stack([np.ones(len(y)), covariate])
    if len(y) <= 3:
        return
    found = permutation_test(y, others, nesting, unit, labels, unit * 0)
    assert 0 < found.smallest_p <= found.p_value <= 1
    assert found.p_value * found.assignments == pytest.approx(
        round(found.p_value * found.assignments)
    )
    assert 0 < found.tied <= found.p_value
    # The unit of y and a shift of it are arbitrary.
    again = permutation_test(3 * y + 7, others, nesting, unit, labels, unit * 0)
    assert again.p_value == pytest.approx(found.p_value)


def test_uniform_without_an_effect() -> None:
    """With ties broken at random, p is uniform: 5% of studies fall below 5%."""
    generator = np.random.default_rng(0)
    below = 0
    studies = 400
    for seed in range(studies):
        y, _, unit, nesting = study(seed, 7, rows_each=2)
        found = permutation_test(
            y, np.ones((14, 1)), nesting, unit, (unit < 3).astype(int), unit * 0
        )
        below += found.p_value - found.tied * generator.random() <= 0.2
    assert below / studies == pytest.approx(0.2, abs=0.06)
