"""Accuracy at a coverage against sorting by hand, and its interval against simulated truths."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy.special import softmax

from benchmark.statistics import METRICS, Predictions
from benchmark.statistics.intervals import ScoredSplit
from benchmark.statistics.resampling import TemperaturePath
from benchmark.statistics.selection import rows_kept, selective_accuracy

NAMES = {80: "accuracy_at_80", 90: "accuracy_at_90"}


def sample(n, n_classes, seed, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(n, n_classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("n", [7, 10, 333])
@pytest.mark.parametrize("percent", [80, 90])
def test_against_sorting(n, percent):
    logits, labels = sample(n, 4, 0, 2.0)
    confidence = softmax(logits, axis=1).max(axis=1)
    kept = np.argsort(-confidence)[: math.ceil(percent * n / 100 - 1e-9)]
    right = (logits.argmax(axis=1) == labels)[kept]
    assert METRICS[NAMES[percent]](Predictions.from_logits(logits, labels)) == right.mean()


def test_ties_count_by_the_mean_over_their_orders():
    logits = np.array([[3.0, 0], [2, 0], [2, 0], [2, 0], [2, 0]])
    labels = np.array([0, 0, 1, 1, 0])
    wrong = labels != 0
    scored = Predictions.from_logits(logits, labels)
    for percent in (50, 80):
        kept = rows_kept(5, percent)
        orders = [wrong[[0, *order]][:kept].mean() for order in permutations(range(1, 5))]
        assert selective_accuracy(scored, percent) == pytest.approx(1 - np.mean(orders))


@pytest.mark.parametrize(("n", "scale"), [(300, 1.0), (300, 3.0), (2000, 3.0), (400, 8.0)])
def test_interval_covers(n, scale):
    """In 500 samples. Labels are drawn from the probabilities, so the truth is their mean."""
    probabilities = softmax(sample(400_000, 4, 10_000, scale)[0], axis=1).max(axis=1)
    ordered = np.sort(probabilities)[::-1]
    for percent, name in NAMES.items():
        truth = ordered[: rows_kept(len(ordered), percent)].mean()
        covered = 0
        for seed in range(500):
            scored = Predictions.from_logits(*sample(n, 4, seed, scale))
            split = ScoredSplit(TemperaturePath.fixed(scored, 2), None, 0)
            estimate = split.estimate(METRICS[name])
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            covered += estimate.low <= truth <= estimate.high
        assert covered >= 0.93 * 500, (name, covered)


def test_no_mistake_among_the_kept():
    logits = np.array([[4.0, 0]] * 95 + [[1.0, 0]] * 5)
    labels = np.array([0] * 95 + [1] * 5)
    scored = Predictions.from_logits(logits, labels)
    split = ScoredSplit(TemperaturePath.fixed(scored, 2), None, 0)
    estimate = split.estimate(METRICS["accuracy_at_90"])
    assert estimate.value == estimate.high == 1.0
    # Rows at the border are wrong: the kept are worth fewer than 90 rows chosen beforehand.
    assert estimate.low < 0.025 ** (1 / 90)
