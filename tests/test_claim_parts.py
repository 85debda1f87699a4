"""Variance shares, specification curve, power, matched pairs and the simulated studies."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from claim_frames import METRICS, runs, two_modalities

from benchmark.claim import evaluate_claim
from benchmark.claim.data import checkpoints, log_outcomes, squared_errors
from benchmark.claim.design import build_design
from benchmark.claim.effect import contrast_equation, label_exchange
from benchmark.claim.power import detectable_effects
from benchmark.claim.specification_curve import specification_curve
from benchmark.claim.variance_shares import _explained, _family_grams, _shares, variance_shares
from benchmark.registry import Claim

METRIC = "debiased_calibration_error"


def analysed(frame: pd.DataFrame, claim: Claim | None = None):
    averaged = checkpoints(frame)
    clean = averaged[~averaged["shifted"]].reset_index(drop=True)
    y = log_outcomes(clean, METRIC, "none")
    return clean, y, build_design(clean, y, claim or Claim())


# --- Variance shares ----------------------------------------------------------------------------


def test_shapley_shares_equal_averages_over_all_orders() -> None:
    generator = np.random.default_rng(0)
    n, families = 40, 8
    family = np.repeat(np.arange(families), n // families)
    data = (np.arange(n)[:, None] % 2 == np.arange(2)).astype(float)
    columns = generator.normal(size=(n, 4))
    columns[:, 0] = family % 2
    y = columns @ [0.5, 0.3, 0.0, -0.4] + generator.normal(0, 0.5, families)[family]
    y = y + generator.normal(size=n)
    members = {"mixer": [0], "size": [1], "recipe": [2, 3]}
    grams = _family_grams(np.column_stack([data, columns, y]), family)
    values = _explained(grams, np.ones((1, families)), members, 2)  # type: ignore[arg-type]
    found = _shares(tuple(members), values)[0]  # type: ignore[arg-type]

    def explained(chosen: list[str], with_family: bool = False) -> float:
        used = [columns[:, members[name]] for name in chosen]
        dummies = [(family[:, None] == np.arange(families)).astype(float)] if with_family else []
        design = np.column_stack([data, *used, *dummies])
        fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
        return 1 - float(((y - fitted) ** 2).sum()) / sm.OLS(y, data).fit().ssr

    orders = list(permutations(members))
    for position, factor in enumerate(members):
        gains = [
            explained(list(order[: order.index(factor) + 1]))
            - explained(list(order[: order.index(factor)]))
            for order in orders
        ]
        assert found[position] == pytest.approx(np.mean(gains), abs=1e-6)
    everything = explained(list(members), with_family=True) - explained(list(members))
    assert found[-1] == pytest.approx(everything, abs=1e-6)


def test_shares_of_noise_are_zero_on_average() -> None:
    totals = []
    for seed in range(40):
        frame = runs(families=(5, 5), checkpoints=3, family_sd=0.0, seeds=1, shifts=(), seed=seed)
        shares = variance_shares(*analysed(frame)).shares
        totals.append([item.share for item in shares])
    means, errors = np.mean(totals, axis=0), np.std(totals, axis=0) / np.sqrt(len(totals))
    assert (np.abs(means) < 4 * errors + 0.01).all()


def test_shares_see_what_explains_the_errors() -> None:
    clear = variance_shares(*analysed(runs(ratio=0.3, families=(6, 6), checkpoints=3)))
    found = {item.factor: item for item in clear.shares}
    assert found["mixer"].share > 0.8
    assert found["mixer"].probability_largest == 1.0
    assert found["mixer"].low <= found["mixer"].share <= found["mixer"].high
    families = variance_shares(
        *analysed(runs(families=(6, 6), checkpoints=3, family_sd=1.0, seed=3))
    )
    found = {item.factor: item for item in families.shares}
    assert found["family"].share == max(item.share for item in families.shares)
    assert families.explained == pytest.approx(sum(item.share for item in families.shares))
    assert found["family"].columns == 12


def test_single_rows_per_family_leave_no_share_to_family() -> None:
    frame = runs(ratio=0.3, families=(5, 5), checkpoints=1, shifts=())
    found = variance_shares(*analysed(frame))
    assert {item.factor for item in found.shares} == {"mixer", "size", "accuracy"}
    assert max(found.shares, key=lambda item: item.share).factor == "mixer"
    assert found.problem is not None
    assert "cannot be told from noise" in found.problem
    assert evaluate_claim(frame).verdict.primary_factor is None


# --- Specification curve ------------------------------------------------------------------------


def test_every_combination_is_tried_once() -> None:
    frame = two_modalities(ratio=0.5)
    curve = specification_curve(checkpoints(frame), Claim(), ("log_parameters", "test_error"))
    specifications = curve.specifications
    assert len(specifications) == len(METRICS) * 2 * 4 * 2
    keys = {(s.metric, s.map, s.covariates, s.shifted) for s in specifications}
    assert len(keys) == len(specifications)
    assert {s.bins for s in specifications} == {None, 15, 100}
    ratios = [s.estimate.ratio for s in specifications]
    assert ratios == sorted(ratios)
    assert curve.below_one == sum(ratio < 1 for ratio in ratios)
    assert curve.excluding_one_below == sum(s.estimate.high < 1 for s in specifications)
    assert curve.below_one + curve.above_one == len(specifications)


def test_what_cannot_be_estimated_is_counted() -> None:
    frame = two_modalities()
    frame["smooth_ece_none"] = 0.01
    curve = specification_curve(checkpoints(frame), Claim(), ())
    assert curve.not_estimable == 2


# --- Power --------------------------------------------------------------------------------------


def test_detectable_effect_is_that_of_the_verdicts_own_test() -> None:
    """At the detectable effect, about 80% of fresh studies are decided by interval and exchange."""
    frame = runs(families=(6, 6), family_sd=0.3, noise_sd=0.3, seeds=1, shifts=())
    claim = Claim(covariates=())
    clean, _, design = analysed(frame, claim)
    equation = contrast_equation(clean, squared_errors(clean, METRIC, "none"), design)
    exchange = label_exchange(clean, claim, design, equation)
    _, effect = detectable_effects(equation, exchange, 0.05, seed=0)
    sigma, family, checkpoint = equation.correlation
    nesting, generator, found, studies = design.nesting, np.random.default_rng(1), 0, 150
    for _ in range(studies):
        logs = -3 + effect * design.x[:, 0]
        for share, codes in ((family, nesting.family), (checkpoint, nesting.checkpoint)):
            levels = generator.standard_normal(codes.max() + 1)
            logs = logs + sigma * np.sqrt(share) * levels[codes]
        rest = sigma * np.sqrt(1 - family - checkpoint)
        logs = logs + rest * generator.standard_normal(len(logs))
        again = clean.iloc[design.rows].assign(**{f"{METRIC}_none": np.exp(logs)})
        errors = squared_errors(again.reset_index(drop=True), METRIC, "none")
        order = type(design)(design.x, design.names, nesting, np.arange(len(logs)), (), (), 1)
        fresh = contrast_equation(again.reset_index(drop=True), errors, order)
        borne_out = label_exchange(again.reset_index(drop=True), claim, order, fresh).test()
        found += fresh.test(0.0).rejects(0.05) and borne_out.p_value <= 0.05
    assert found / studies == pytest.approx(0.8, abs=0.1)


def test_three_families_a_side_cannot_decide_at_any_ratio() -> None:
    """The exchange of six families has 20 labellings, so that no p value is below 2/20."""
    result = evaluate_claim(runs(ratio=0.3, families=(3, 3), family_sd=0.1, noise_sd=0.1, seed=1))
    assert result.verdict.outcome == "undecided"
    power = result.verdict.power
    assert power is not None
    assert power.smallest_detectable_ratio is None
    # 4 + 4 families have 70 labellings: the least that could give p <= .05.
    assert power.families_for_observed_effect is not None
    assert power.families_for_observed_effect >= 7
    assert any("no ratio, however far from 1" in text for text in result.verdict.numbers)


def test_more_families_are_needed_for_smaller_effects() -> None:
    needed = []
    for ratio in (0.5, 0.8):
        result = evaluate_claim(runs(ratio=ratio, families=(4, 4), family_sd=0.3, seed=2))
        assert result.verdict.power is not None
        needed.append(result.verdict.power.families_for_observed_effect)
    assert needed[0] is not None
    assert needed[1] is None or needed[1] > needed[0]
