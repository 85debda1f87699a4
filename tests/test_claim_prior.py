"""The Bayesian version of the contrast against sums over a grid of all its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from claim_frames import runs
from scipy import stats

from benchmark.claim import claim_passages, evaluate_claim
from benchmark.claim.prior_passage import TITLE
from benchmark.claim.prior_sensitivity import (
    CONTRAST_SD,
    PRIORS,
    UnitRows,
    _posterior,
    normal_given,
)
from benchmark.registry import Claim


def some_rows(seed=0, shared_variance=0.0):
    generator = np.random.default_rng(seed)
    unit = np.repeat(np.arange(7), [1, 2, 3, 1, 2, 2, 1])
    shared = unit // 2
    label = (unit % 2).astype(float)
    own = generator.uniform(0.02, 0.2, len(unit))
    y = -3 - 0.4 * label + generator.normal(0, 0.3, 7)[unit] + generator.normal(0, np.sqrt(own))
    x = np.column_stack([label, np.ones(len(unit))])
    return UnitRows(x, y, own, unit, shared, shared_variance)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("shared_variance", [0.0, 0.1])
def test_against_a_grid_of_all_parameters(name, shared_variance):
    """Normal densities with the whole covariance, on a grid of ratio, level and deviation."""
    rows = some_rows(shared_variance=shared_variance)
    theta, mu = np.linspace(-2.5, 2.0, 181), np.linspace(-5.5, -0.5, 151)
    tau = (np.arange(60) + 0.5) * 3 / 60
    together = (rows.unit[:, None] == rows.unit).astype(float)
    pairs = shared_variance * (rows.shared[:, None] == rows.shared)
    density = np.zeros(len(theta))
    tau_density = np.zeros(len(tau))
    for place, value in enumerate(tau):
        covariance = np.diag(rows.own) + value**2 * together + pairs
        means = theta[:, None, None] * rows.x[:, 0] + mu[:, None] * rows.x[:, 1]
        log = stats.multivariate_normal(cov=covariance).logpdf(rows.y - means)
        mass = np.exp(log).sum(axis=1) * stats.norm.pdf(theta, scale=CONTRAST_SD)
        mass = mass * float(PRIORS[name](np.array([value]))[0])
        density += mass
        tau_density[place] = mass.sum()
    total = np.cumsum(density) - density / 2
    at = [float(np.interp(q * density.sum(), total, theta)) for q in (0.025, 0.5, 0.975)]
    given = [normal_given(rows, float(value)) for value in tau]
    evidence = np.array([one.log_evidence for one in given])
    weight = np.exp(evidence - evidence.max()) * PRIORS[name](tau)
    assert weight / weight.sum() == pytest.approx(tau_density / tau_density.sum(), abs=1e-4)
    found = _posterior(name, given, weight, tau)
    assert np.log([found.low, found.median, found.high]) == pytest.approx(at, abs=2e-3)
    below = float(np.interp(0.0, theta, total)) / density.sum()
    assert found.below_one == pytest.approx(below, abs=2e-3)


def test_much_data_leave_the_prior_no_say() -> None:
    result = evaluate_claim(runs(ratio=0.6, families=(15, 15), shifts=()))
    found = result.prior_sensitivity.posteriors
    assert [one.prior for one in found] == list(PRIORS)
    for one in found:
        assert one.median == pytest.approx(result.primary.estimate.ratio, rel=0.03)
        assert one.low == pytest.approx(result.primary.estimate.low, rel=0.05)
        assert one.high == pytest.approx(result.primary.estimate.high, rel=0.05)
        assert one.below_one > 0.999
    passage = next(p for p in claim_passages(result) if p.title == TITLE)
    assert "under all of them the 95% interval excludes 1" in passage.sentences[0]
    assert "over 99%" in passage.sentences[0]


def test_few_families_let_it_speak() -> None:
    frame = runs(ratio=0.7, families=(2, 3), checkpoints=1, family_sd=0.4, shifts=())
    found = evaluate_claim(frame).prior_sensitivity.posteriors
    widths = [np.log(one.high / one.low) for one in found]
    assert widths[0] < widths[2]  # half-normal, and uniform up to 3
    assert all(0.05 < one.below_one < 0.999 for one in found)


def test_errors_below_the_noise_have_none() -> None:
    frame = runs(families=(4, 4), shifts=())
    attention = frame["mixer"] == "attention"
    squared = "debiased_calibration_error_squared_none"
    frame["debiased_calibration_error_none"] = np.where(attention, -0.001, 0.05)
    frame[squared] = np.where(attention, -1e-6, 0.0025)
    frame[f"{squared}_null_variance"], frame[f"{squared}_variance_slope"] = 1e-8, 1e-5
    result = evaluate_claim(frame, Claim(covariates=()))
    assert result.prior_sensitivity.problem is not None
    passage = next(p for p in claim_passages(result) if p.title == TITLE)
    assert passage.sentences[0].startswith("No Bayesian version")
