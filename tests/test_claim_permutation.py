"""The exchange of labels against brute force."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.claim import permutation
from benchmark.claim.estimating_equation import EstimatingEquation
from benchmark.claim.measurement import SquaredErrors
from benchmark.claim.mixed_model import Nesting
from benchmark.claim.permutation import LabelExchange
from benchmark.claim.result import Permutation


def study(seed: int, units: int, rows_each: int = 1):
    generator = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), rows_each)
    covariate = generator.normal(size=len(unit))
    logs = -3 + 0.3 * generator.normal(size=len(unit)) + 0.1 * covariate
    return logs, covariate, unit


def exchange(
    logs: np.ndarray,
    others: np.ndarray,
    unit: np.ndarray,
    labels: np.ndarray,
    strata: np.ndarray | None = None,
) -> Permutation:
    n = len(logs)
    x = np.column_stack([labels == 1, others]).astype(float)
    errors = SquaredErrors(np.exp(2 * logs), np.zeros(n), np.zeros(n))
    equation = EstimatingEquation.fit(x, errors, Nesting.of(unit, np.arange(n)), unit)
    strata = unit * 0 if strata is None else strata
    return LabelExchange.of(equation, unit, labels, strata).test()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())
def test_p_value_equals_trying_every_labelling(seed: int, first: int, adjusted: bool) -> None:
    """One row a family: the score of the label, all else projected out, over its parts' squares."""
    units = 7
    logs, covariate, unit = study(seed, units)
    others = np.ones((units, 1))
    if adjusted:
        others = np.column_stack([others, covariate])
    found = exchange(logs, others, unit, (unit < first).astype(int))
    project = np.eye(units) - others @ np.linalg.pinv(others)
    residual = project @ logs

    def statistic(chosen: tuple[int, ...]) -> float:
        label = project @ np.isin(unit, chosen).astype(float)
        parts = label * residual
        return float(parts.sum() ** 2 / (parts**2).sum())

    reached = statistic(tuple(range(first)))
    values = np.array([statistic(chosen) for chosen in combinations(range(units), first)])
    assert found.exact
    assert found.assignments == comb(units, first)
    assert found.p_value == pytest.approx(np.mean(values >= reached * (1 - 1e-6)), abs=0.03)


def test_three_against_three_cannot_reach_five_percent() -> None:
    """Swapping all labels gives the same statistic, so 2 of 20 is the least."""
    logs = np.array([-3.0, -3.1, -3.2, -1.0, -1.1, -1.2])
    unit = np.arange(6)
    found = exchange(logs, np.ones((6, 1)), unit, (unit < 3).astype(int))
    assert found.p_value == found.smallest_p == pytest.approx(0.1)
    assert found.tied == pytest.approx(0.1)


def test_labels_stay_within_strata() -> None:
    logs, _, unit = study(0, 8)
    strata = (unit >= 4).astype(int)
    others = np.column_stack([strata == 0, strata == 1]).astype(float)
    found = exchange(logs, others, unit, np.array([1, 1, 0, 0, 1, 0, 0, 0]), strata)
    assert found.assignments == comb(4, 2) * comb(4, 1)
    assert found.strata == 2


def test_a_stratum_with_one_mixer_exchanges_nothing() -> None:
    logs, _, unit = study(0, 8)
    strata = (unit >= 6).astype(int)
    others = np.column_stack([strata == 0, strata == 1]).astype(float)
    found = exchange(logs, others, unit, np.array([1, 1, 1, 0, 0, 0, 1, 1]), strata)
    assert found.assignments == comb(6, 3)
    assert found.strata == 1


def test_other_mixers_keep_their_place() -> None:
    logs, _, unit = study(1, 8)
    labels = np.array([1, 1, 1, 0, 0, 0, -1, -1])
    others = np.column_stack([np.ones(8), labels == -1]).astype(float)
    assert exchange(logs, others, unit, labels).assignments == comb(6, 3)


def test_random_labellings_approach_the_exact_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    logs, covariate, unit = study(3, 12, rows_each=2)
    arguments = (logs, np.column_stack([np.ones(24), covariate]), unit, unit % 2)
    exact = exchange(*arguments)
    monkeypatch.setattr(permutation, "MAX_EXACT", 10)
    drawn = exchange(*arguments)
    assert not drawn.exact
    assert drawn.assignments == 10_000
    assert drawn.smallest_p == pytest.approx(1e-4)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert exchange(*arguments) == drawn


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 4), st.integers(1, 3))
def test_p_values_are_fractions_of_the_labellings(
    seed: int, first: int, second: int, rows_each: int
) -> None:
    logs, _, unit = study(seed, first + second, rows_each)
    found = exchange(logs, np.ones((len(logs), 1)), unit, (unit < first).astype(int))
    assert 0 < found.smallest_p <= found.p_value <= 1
    assert found.p_value * found.assignments == pytest.approx(
        round(found.p_value * found.assignments)
    )
    assert 0 < found.tied <= found.p_value


def test_uniform_without_an_effect() -> None:
    """With ties broken at random, p is uniform: 20% of studies fall below 20%."""
    generator = np.random.default_rng(0)
    below, studies = 0, 250
    for seed in range(studies):
        logs, _, unit = study(seed, 7, rows_each=2)
        found = exchange(logs, np.ones((14, 1)), unit, (unit < 3).astype(int))
        below += found.p_value - found.tied * generator.random() <= 0.2
    assert below / studies == pytest.approx(0.2, abs=0.07)
