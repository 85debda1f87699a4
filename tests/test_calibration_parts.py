"""Intervals of what a temperature could win of NLL and Brier score, against simulated truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from benchmark.statistics import METRICS, Predictions, check_rows, fit_temperature, score_split
from benchmark.statistics.intervals import ScoredSplit
from benchmark.statistics.likelihood import brier_calibration_parts, nll_calibration_parts
from benchmark.statistics.resampling import TemperaturePath
from benchmark.statistics.row_terms import loss_terms

PARTS = {"nll_calibration": nll_calibration_parts, "brier_calibration": brier_calibration_parts}


def draw(n, n_classes, seed, inverse, biased=False):
    """Logits, true log-probabilities softmax(inverse z), or of a model that no T can mend."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes))
    true = inverse * logits
    if biased:
        true = true + np.linspace(-1, 1, n_classes)
    labels = (true + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels, log_softmax(true, axis=1)


def losses(logits, true, inverse):
    """Expected NLL and Brier score at an inverse temperature, labels summed out."""
    said = log_softmax(inverse * logits, axis=1)
    p, q = np.exp(said), np.exp(true)
    return -(q * said).sum(axis=1).mean(), (p**2 - 2 * q * p).sum(axis=1).mean() + 1


def truths(n_classes, inverse, biased):
    logits, _, true = draw(200_000, n_classes, 10_000, inverse, biased)
    best = minimize_scalar(lambda b: losses(logits, true, b)[0], bounds=(0.05, 5), method="bounded")
    at_one, least = losses(logits, true, 1.0), losses(logits, true, best.x)
    return {name: a - b for name, a, b in zip(PARTS, at_one, least, strict=True)}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_loss_terms_against_differences(dtype):
    logits, labels, _ = draw(400, 5, 0, 0.7)
    logits = logits.astype(dtype)
    logits[3, np.flatnonzero(np.arange(5) != labels[3])[0]] = -np.inf
    step = 1e-4
    below, at, above = (
        Predictions.from_logits(logits.astype(np.float64), labels, 1 / (0.8 + h))
        for h in (-step, 0.0, step)
    )
    for name, found in zip(
        ("nll", "brier"), loss_terms(check_rows(logits, labels), 0.8), strict=True
    ):
        a, b, c = (getattr(one, name) for one in (below, at, above))
        assert found.loss == pytest.approx(b, abs=1e-6)
        assert found.slope == pytest.approx((c - a) / (2 * step), abs=1e-5)
        assert found.curvature == pytest.approx(((a - 2 * b + c) / step**2).mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("n_classes", "inverse", "biased"),
    [(3, 1.0, False), (3, 0.9, False), (3, 0.5, False), (10, 2.0, False), (4, 0.8, True)],
)
def test_estimate_and_interval_over_samples(n_classes, inverse, biased):
    """Calibrated, a little off, far off and beyond repair: mean, variance and coverage."""
    known = truths(n_classes, inverse, biased)
    found = {name: [] for name in PARTS}
    covered = dict.fromkeys(PARTS, 0)
    for seed in range(300):
        logits, labels, _ = draw(500, n_classes, seed, inverse, biased)
        scored = Predictions.from_logits(logits, labels)
        split = ScoredSplit(TemperaturePath.fixed(scored, 2), None, 0)
        for name, parts in PARTS.items():
            found[name].append(parts(scored))
            estimate = split.estimate(METRICS[name])
            assert estimate.low <= estimate.value <= estimate.high
            covered[name] += estimate.low <= known[name] <= estimate.high
    for name, truth in known.items():
        squares = np.array([one.squared for one in found[name]])
        error = squares.std() / math.sqrt(300)
        assert squares.mean() == pytest.approx(truth, abs=4 * error), name
        said = np.mean([one.null_variance + one.variance_slope * truth for one in found[name]])
        assert said == pytest.approx(squares.var(), rel=0.35), name
        assert covered[name] >= 0.92 * 300, (name, covered[name])


def test_after_scaling_it_is_wider_and_holds_nothing_to_win():
    """300 runs: the temperature of 300 calibration rows leaves nothing that is sure to be won."""
    holds, widths = 0, []
    for seed in range(100):
        test, calibration = draw(600, 4, seed, 0.6)[:2], draw(300, 4, 5000 + seed, 0.6)[:2]
        fit = fit_temperature(*calibration)
        found = score_split(*test, *calibration, fit, resamples=100)
        after = found.after["nll_calibration"]
        fixed = Predictions.from_rows(check_rows(*test), fit.temperature)
        alone = ScoredSplit(TemperaturePath.fixed(fixed, 2), None, 0).estimate(
            METRICS["nll_calibration"]
        )
        holds += after.low <= 0 <= after.high
        widths.append((after.high - after.low) / (alone.high - alone.low))
        assert found.before["nll_calibration"].low > 0
    assert holds >= 95
    assert min(widths) >= 1 - 1e-9
    assert np.mean(widths) > 1.05


def test_without_an_optimum_there_is_no_interval():
    logits = np.eye(3)[np.arange(60) % 3] * 5
    labels = np.arange(60) % 3  # all right: ever sharper is ever better
    scored = Predictions.from_logits(logits, labels)
    assert "no optimum" in nll_calibration_parts(scored)
    assert (
        brier_calibration_parts(Predictions.from_logits(logits[:4], labels[:4])) == "too few rows"
    )
