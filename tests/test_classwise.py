"""Debiased class-wise error against pairs of rows counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_rows import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from benchmark.statistics import METRICS, Predictions, check_rows
from benchmark.statistics.calibration_error import DebiasedSums, debiased_calibration_error
from benchmark.statistics.classwise import classwise_parts, squared_at
from benchmark.statistics.intervals import ScoredSplit, score_split
from benchmark.statistics.resampling import TemperaturePath, refit_temperatures
from benchmark.statistics.temperature import fit_temperature

NAME = "debiased_classwise_error"


def chunks(logits, labels, n_bins=15):
    """Of every class, the gaps of consecutive chunks of its sorted probabilities (no ties)."""
    probabilities = softmax(logits, axis=1)
    for k in range(logits.shape[1]):
        order = np.argsort(probabilities[:, k])
        last = np.ceil(np.arange(1, n_bins) * len(order) / n_bins).astype(int)
        yield np.split(probabilities[order, k] - (labels[order] == k), last), np.split(order, last)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_value_against_every_pair_of_rows(n_classes):
    logits, labels = sample(200, n_classes)
    squares = []
    for parts, _ in chunks(logits, labels):
        total = 0.0
        for gap in parts:
            products = np.outer(gap, gap)
            pairs = products[~np.eye(len(gap), dtype=bool)]
            total += len(gap) * pairs.mean()
        squares.append(total / 200)
    value = METRICS[NAME](Predictions.from_logits(logits, labels))
    assert value * abs(value) == pytest.approx(np.mean(squares), abs=1e-12)


def test_value_is_the_root_mean_square_of_the_errors_of_its_classes():
    logits, labels = sample(500, 4)
    probabilities = softmax(logits, axis=1)
    squares = [
        debiased_calibration_error(probabilities[:, k], labels == k).squared for k in range(4)
    ]
    value = METRICS[NAME](Predictions.from_logits(logits, labels))
    assert value == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-9)


def test_null_variance_against_the_whole_matrix():
    """Random signs give the sum of squares of the matrix of pairs, here formed in full."""
    logits, labels = sample(400, 3)
    matrix = np.zeros((400, 400))
    for parts, places in chunks(logits, labels):
        for gap, rows in zip(parts, places, strict=True):
            own = gap - gap.mean()
            matrix[np.ix_(rows, rows)] += np.outer(own, own) / (len(rows) - 1)
    exact = 2 * (matrix**2).sum() / (400 * 3) ** 2
    found = classwise_parts(Predictions.from_logits(logits, labels)).null_variance
    assert found == pytest.approx(exact, rel=0.15)  # 21 signs, a rank of about 30


def test_variance_against_repeated_samples():
    """Of a calibrated and of an over-confident model: the spread of the estimate itself."""
    for temperature in (1.0, 1.7):
        found = [
            classwise_parts(Predictions.from_logits(*sample(600, 5, seed, temperature)))
            for seed in range(400)
        ]
        squares = np.array([one.squared for one in found])
        truth = max(squares.mean(), 0.0)
        variance = np.mean([one.null_variance + one.variance_slope * truth for one in found])
        assert variance == pytest.approx(squares.var(), rel=0.25), temperature


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_interval_covers(temperature):
    """In 400 samples; the truth is the gap of a large one, whose probabilities are known."""
    logits, _ = sample(100_000, 5, 99)
    said, true = softmax(logits, axis=1), softmax(logits / temperature, axis=1)
    gap = np.take_along_axis(said - true, said.argsort(axis=0), axis=0)
    means = np.array([part.mean(axis=0) for part in np.array_split(gap, 15)])
    truth = np.sqrt((means**2).mean())
    covered = 0
    for seed in range(400):
        rows = check_rows(*sample(600, 5, seed, temperature))
        fixed = TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), 2)
        one = ScoredSplit(fixed, None, 0).estimate(METRICS[NAME])
        covered += one.low <= truth <= one.high
    assert covered >= 0.93 * 400


def test_temperature_adds_to_the_interval():
    test, calibration = sample(800, 4, 1), sample(150, 4, 2)
    fit = fit_temperature(*calibration)
    refitted = refit_temperatures(*calibration, fit)
    known = score_split(*test, *calibration, fit, refitted=refitted).after[NAME]
    rows = check_rows(*test)
    fixed = TemperaturePath.fixed(Predictions.from_rows(rows, fit.temperature), 2)
    held = ScoredSplit(fixed, None, 0).estimate(METRICS[NAME])
    assert known.value == held.value
    assert known.high - known.low > held.high - held.low
    # The added variance is that of the error over all refits, each scored in the same bins.
    center = Predictions.from_rows(rows, fit.temperature)
    bins = np.stack([np.searchsorted(np.sort(p)[_last(800)], p) for p in _by_class(center)])
    moved = [
        squared_at(Predictions.from_rows(rows, t), bins.astype(np.uint8))
        for t in refitted.resampled[:300]
    ]
    sums = classwise_parts(center)
    variance = sums.null_variance + np.var(moved)
    both = DebiasedSums(sums.squared, variance, sums.variance_slope).interval(quantile=2.0)
    alone = sums.interval(quantile=2.0)
    ratio = (both.squared_high - both.squared_low) / (alone.squared_high - alone.squared_low)
    found = (known.high**2 - known.low**2) / (held.high**2 - held.low**2)
    assert found == pytest.approx(ratio, rel=0.1)


def _last(n):
    return np.ceil(np.arange(1, 15) * n / 15).astype(int) - 1


def _by_class(predictions):
    logits = np.asarray(predictions.rows.values) / predictions.temperature
    return softmax(logits, axis=1).T


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60))
def test_ties_and_small_splits(seed, n_classes, n):
    """Rows that come twice, few rows: as the one-class error in a loop, or NaN where that is."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-1, 2, size=(n, n_classes)).astype(float)
    labels = rng.integers(0, n_classes, n)
    scored = Predictions.from_logits(logits, labels)
    probabilities = np.concatenate([block.copy() for _, block in scored.probability_blocks()])
    squares = [
        debiased_calibration_error(probabilities[:, k], labels == k).squared
        for k in range(n_classes)
    ]
    known = [square for square in squares if not np.isnan(square)]
    value = METRICS[NAME](scored)
    if not known:
        assert np.isnan(value)
    else:
        assert value * abs(value) == pytest.approx(np.mean(known), abs=1e-9)
