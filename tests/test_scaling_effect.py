"""What a temperature does to rows: against scipy and by hand, and where nothing is told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, softmax

from benchmark.statistics import scaling_effect


def calibrated(rows: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is calibrated, by the Gumbel trick."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.3, 4.0])
def test_the_nll_is_a_paired_difference(temperature: float) -> None:
    logits, labels = calibrated(4000, seed=1)
    at = np.arange(len(labels))
    before, after = (-log_softmax(logits / t, axis=1)[at, labels] for t in (1.0, temperature))
    test = stats.ttest_rel(after, before).confidence_interval()
    effect = scaling_effect(logits, labels, temperature).nll
    assert effect.value == pytest.approx((after - before).mean())
    # The two intervals differ by a mend for skewness, which is small at this many rows.
    width = test.high - test.low
    assert effect.low == pytest.approx(test.low, abs=0.08 * width)
    assert effect.high == pytest.approx(test.high, abs=0.08 * width)


def squared_error(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The debiased squared error in 15 equal-mass bins, written out anew."""
    probabilities = softmax(logits / temperature, axis=1)
    gap = probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)
    order = np.argsort(probabilities.max(axis=1), kind="stable")
    total = 0.0
    for rows in np.array_split(order, 15):
        mean, n = gap[rows].mean(), len(rows)
        total += n / len(gap) * (mean**2 - gap[rows].var(ddof=1) / n)
    return total


def test_the_error_is_the_root_of_the_difference_of_squares() -> None:
    logits, labels = calibrated(3000, seed=2)
    difference = squared_error(logits, labels, 3.0) - squared_error(logits, labels, 1.0)
    effect = scaling_effect(logits, labels, 3.0).error
    assert effect.value == pytest.approx(math.sqrt(difference), rel=1e-3)
    assert 0 < effect.low < effect.value < effect.high


def test_a_temperature_that_is_right_is_seldom_called_harmful() -> None:
    harmful = helped = 0
    for seed in range(200):
        logits, labels = calibrated(600, seed=seed)
        effect = scaling_effect(3.0 * logits, labels, 3.0)  # makes it calibrated
        harmful += effect.nll.low > 0 or effect.error.low > 0
        helped += effect.nll.high < 0
    assert harmful == 0
    assert helped == 200


def test_neither_is_told_where_a_temperature_changes_nothing() -> None:
    logits, labels = calibrated(500, seed=3)
    effect = scaling_effect(logits, labels, 1.0)
    assert effect.nll.value == effect.error.value == 0
    assert effect.nll.low <= 0 <= effect.nll.high


def test_with_too_few_errors_there_is_no_interval() -> None:
    logits = np.tile([4.0, 0.0], (14, 1))
    labels = np.zeros(14, int)
    effect = scaling_effect(logits, labels, 5.29)
    assert effect.nll.value > 0
    assert effect.nll.low is None
    assert effect.error.no_interval == "too few errors"


def test_a_sharpened_model_that_is_wrong_has_no_finite_nll() -> None:
    logits, labels = calibrated(300, seed=4)
    effect = scaling_effect(logits, labels, 0.0)
    assert math.isinf(effect.nll.value)
    assert effect.nll.low is None
