"""Prediction sets against loops over classes, and against what they promise."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from drawn_rows import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from benchmark.records import SplitScores
from benchmark.statistics import METRICS, Predictions, check_rows, fit_temperature, score_split
from benchmark.statistics.comparison import ModelOutputs, compare
from benchmark.statistics.conformal import (
    CALIBRATION_STREAM,
    TEST_STREAM,
    draws,
    label_scores,
    prediction_sets,
)

COVERAGE, SIZE = "aps_coverage_90", "aps_set_size_90"


def predictions(test, calibration, temperature=1.0):
    scored = Predictions.from_logits(*test, temperature)
    return Predictions(**{**vars_of(scored), "calibration": check_rows(*calibration)})


def vars_of(scored):
    return {name: getattr(scored, name) for name in scored.__dataclass_fields__}


def score_of(p, c, u):
    """A class's score as the paper has it, classes of equal probability as one."""
    tied = np.isclose(p, p[c], rtol=1e-12, atol=0)
    return p[(p > p[c]) & ~tied].sum() + u * p[tied].sum()


def by_hand(test, calibration, temperature):
    """Threshold, coverage and mean size by loops."""
    p = softmax(calibration[0] / temperature, axis=1)
    u = draws(check_rows(*calibration), CALIBRATION_STREAM)
    scores = sorted(score_of(row, y, v) for row, y, v in zip(p, calibration[1], u, strict=True))
    threshold = scores[math.ceil(Fraction(9, 10) * (len(scores) + 1)) - 1]
    p = softmax(test[0] / temperature, axis=1)
    u = draws(check_rows(*test), TEST_STREAM)
    sets = [
        [c for c in range(p.shape[1]) if score_of(row, c, v) <= threshold + 1e-12]
        for row, v in zip(p, u, strict=True)
    ]
    held = np.mean([y in chosen for y, chosen in zip(test[1], sets, strict=True)])
    return threshold, held, np.mean([len(chosen) for chosen in sets])


@pytest.mark.parametrize("n_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_against_loops(n_classes, temperature):
    test, calibration = sample(150, n_classes, 1), sample(90, n_classes, 2)
    scored = predictions(test, calibration, temperature)
    threshold, held, size = by_hand(test, calibration, temperature)
    assert prediction_sets(scored).threshold == pytest.approx(threshold, abs=1e-9)
    assert METRICS[COVERAGE](scored) == pytest.approx(held)
    assert METRICS[SIZE](scored) == pytest.approx(size)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(9, 60))
def test_ties_are_in_a_set_together(seed, n_classes, m):
    rng = np.random.default_rng(seed)
    test, calibration = (
        (rng.integers(0, 3, (n, n_classes)).astype(float), rng.integers(0, n_classes, n))
        for n in (80, m)
    )
    scored = predictions(test, calibration)
    threshold, held, size = by_hand(test, calibration, 1.0)
    assert prediction_sets(scored).threshold == pytest.approx(threshold, abs=1e-9)
    assert METRICS[COVERAGE](scored) == pytest.approx(held)
    assert METRICS[SIZE](scored) == pytest.approx(size)


def test_uniform_probabilities_and_certain_ones():
    test, calibration = sample(2000, 4, 1), sample(999, 4, 2)
    uniform = predictions(test, calibration, math.inf)
    sizes = prediction_sets(uniform).sizes
    assert set(sizes) == {0, 4}  # all classes share one score
    assert METRICS[COVERAGE](uniform) == (sizes == 4).mean()
    assert METRICS[COVERAGE](uniform) == pytest.approx(0.9, abs=0.03)
    # Certain of one class, and wrong for more than a tenth: only all classes will do.
    certain = predictions((1e4 * test[0], test[1]), (1e4 * calibration[0], calibration[1]))
    assert METRICS[COVERAGE](certain) == 1.0
    assert METRICS[SIZE](certain) == 4.0


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_coverage_is_as_promised_over_splits(temperature):
    """Of 1,000 pairs of splits, calibrated or not: k / (m + 1), but for Monte Carlo error."""
    m, values = 100, []
    for seed in range(1000):
        logits, labels = sample(m + 100, 4, seed)
        scored = predictions((logits[m:], labels[m:]), (logits[:m], labels[:m]), temperature)
        values.append(METRICS[COVERAGE](scored))
    error = np.std(values) / math.sqrt(1000)
    assert np.mean(values) == pytest.approx(math.ceil(0.9 * (m + 1)) / (m + 1), abs=3 * error)
    assert error < 0.002


def test_estimates_have_intervals_and_follow_the_temperature():
    test, calibration = sample(600, 5, 1), sample(300, 5, 2)
    fit = fit_temperature(*calibration)
    found = score_split(*test, *calibration, fit, resamples=50)
    for estimates, temperature in ((found.before, 1.0), (found.after, fit.temperature)):
        scored = predictions(test, calibration, temperature)
        for name in (COVERAGE, SIZE):
            estimate = estimates[name]
            assert estimate.value == pytest.approx(METRICS[name](scored))
            assert estimate.low < estimate.value < estimate.high
    size = found.after[SIZE]
    spread = prediction_sets(predictions(test, calibration, fit.temperature)).sizes.std()
    assert size.high - size.low == pytest.approx(2 * 1.96 * spread / math.sqrt(600), rel=0.03)


@pytest.mark.parametrize("m", [8, 9])
def test_too_few_calibration_rows_are_said(m):
    test, calibration = sample(300, 3, 1), sample(m, 3, 2)
    found = score_split(*test, *calibration, fit_temperature(*calibration), resamples=50)
    estimate = found.before[COVERAGE]
    if m == 9:  # the largest score of nine
        scored = predictions(test, calibration)
        assert estimate.value == by_hand(test, calibration, 1.0)[1]
        scores = label_scores(check_rows(*calibration), 1.0, CALIBRATION_STREAM)
        assert prediction_sets(scored).threshold == scores.max()
        assert estimate.no_interval is None
        return
    assert math.isnan(estimate.value)
    assert estimate.no_interval == "too few calibration rows: 8, sets need 9"
    kept = SplitScores(n=300, shifted=False, maps={"none": {COVERAGE: estimate}})
    again = SplitScores.model_validate_json(kept.model_dump_json()).maps["none"][COVERAGE]
    assert math.isnan(again.value)
    assert again.no_interval == estimate.no_interval


def test_two_models_are_compared_by_their_sets():
    calibration, test = sample(200, 4, 2), sample(400, 4, 1)
    ids = {"test_ids": np.arange(400), "calibration_ids": np.arange(200)}
    outputs = [
        ModelOutputs(
            name, scale * test[0], test[1], ids["test_ids"], scale * calibration[0], calibration[1],
            ids["calibration_ids"], fit_temperature(*calibration),
        )
        for name, scale in (("one", 1.0), ("sharp", 30.0))
    ]  # fmt: skip
    found = compare(*outputs, SIZE, after_scaling=False)
    own = [
        METRICS[SIZE](predictions((s * test[0], test[1]), (s * calibration[0], calibration[1])))
        for s in (1.0, 30.0)
    ]
    assert found.difference == pytest.approx(own[0] - own[1])
    assert found.low < found.difference < found.high
