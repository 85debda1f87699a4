"""Variance shares, specification curve, power, matched pairs and the simulated studies."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from claim_frames import METRICS, runs, two_modalities
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.claim import evaluate_claim
from benchmark.claim.data import checkpoints, log_outcomes
from benchmark.claim.design import build_design
from benchmark.claim.effect import disagreement
from benchmark.claim.power import detectable_effect
from benchmark.claim.result import RatioInterval
from benchmark.claim.simulation import StudyDesign, rates, run_studies, simulate, study_designs
from benchmark.claim.specification_curve import specification_curve
from benchmark.claim.variance_shares import _explained, _family_grams, _shares, variance_shares
from benchmark.registry import Claim

METRIC = "debiased_calibration_error"


def analysed(frame: pd.DataFrame, claim: Claim | None = None):
    averaged = checkpoints(frame)
    clean = averaged[~averaged["shifted"]].reset_index(drop=True)
    y = log_outcomes(clean, METRIC, "none").values
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


def test_primary_analysis_is_one_of_the_specifications() -> None:
    result = evaluate_claim(two_modalities(ratio=0.6))
    assert result.primary is not None
    same = [
        item
        for item in result.specification_curve.specifications
        if (item.metric, item.map, item.shifted) == (METRIC, "none", False)
        and item.covariates == result.primary.covariates
    ]
    assert [item.estimate for item in same] == [result.primary.estimate]


def test_what_cannot_be_estimated_is_counted() -> None:
    frame = two_modalities()
    frame["smooth_ece_none"] = 0.01
    curve = specification_curve(checkpoints(frame), Claim(), ())
    assert curve.not_estimable == 2


# --- Power --------------------------------------------------------------------------------------


def test_detectable_effect_agrees_with_simulation() -> None:
    """At the detectable effect, about 80% of fresh studies find it."""
    frame = runs(families=(6, 6), family_sd=0.3, noise_sd=0.3, seeds=1, shifts=())
    result = evaluate_claim(frame, Claim(covariates=()))
    assert result.primary is not None
    _, _, design = analysed(frame, Claim(covariates=()))
    effect = detectable_effect(Claim(), result.primary, design, seed=0)
    generator = np.random.default_rng(1)
    nesting = design.nesting
    family_sd, residual_sd = result.primary.family_sd or 0.0, result.primary.residual_sd
    found = 0
    studies = 300
    for _ in range(studies):
        y = effect * design.x[:, 0] + residual_sd * generator.standard_normal(len(design.x))
        y = y + family_sd * generator.standard_normal(12)[nesting.family]
        found += design.fit(y).test(0).p_value < 0.05
    assert found / studies == pytest.approx(0.8, abs=0.08)


def test_more_families_are_needed_for_smaller_effects() -> None:
    needed = []
    for ratio in (0.5, 0.8):
        result = evaluate_claim(runs(ratio=ratio, families=(4, 4), family_sd=0.3, seed=2))
        assert result.verdict.power is not None
        needed.append(result.verdict.power.families_for_observed_effect)
    assert needed[0] is not None
    assert needed[1] is None or needed[1] > needed[0]


# --- Simulated studies --------------------------------------------------------------------------


def test_designs_are_those_of_the_validation_table() -> None:
    assert sorted({sum(design.families) for design in study_designs()}) == [6, 10, 20]


def test_size_and_coverage_hold_where_the_naive_regression_fails() -> None:
    found = rates(run_studies(StudyDesign("10", (5, 5)), studies=150, seed=4))
    assert found["mixed model"] <= 0.11
    assert found["label exchange"] <= 0.11
    assert found["coverage"] >= 0.89
    assert found["naive regression"] > 0.15


def test_a_true_effect_is_found_more_often_with_more_families() -> None:
    few, many = (
        rates(run_studies(StudyDesign("", families, ratio=0.6), studies=40, seed=1))
        for families in ((3, 3), (10, 10))
    )
    assert few["decided"] == 0  # no labelling of six families reaches 5%
    assert many["decided"] > 0.5


def test_simulation_prints_a_table_of_both_ratios() -> None:
    text = simulate(studies=1)
    assert text.count("| design") == 2
    assert "true ratio 1," in text
    assert "true ratio 0.7," in text


@pytest.mark.slow
def test_validation_table_holds() -> None:
    for design in study_designs():
        found = rates(run_studies(design, studies=1000, seed=0))
        assert 0.03 <= found["mixed model"] <= 0.07, design
        assert 0.93 <= found["coverage"] <= 0.97, design
        assert 0.03 <= found["label exchange, ties broken"] <= 0.07, design
        assert found["naive regression"] > 0.15, design


@given(seed=st.integers(0, 50), k=st.integers(2, 5))
def test_disagreement_is_welchs_test(seed: int, k: int) -> None:
    """Ratios taken from groups of raw values: the same p as the test on those values."""
    from statsmodels.stats.oneway import anova_oneway

    rng = np.random.default_rng(seed)
    groups = [rng.normal(rng.normal(), 0.5 + i, 6 + 3 * i) for i in range(k)]
    intervals = []
    for values in groups:
        df, error = len(values) - 1, values.std(ddof=1) / np.sqrt(len(values))
        reach = stats.t.ppf(0.975, df) * error
        low, middle, high = np.exp([values.mean() - reach, values.mean(), values.mean() + reach])
        intervals.append(RatioInterval(ratio=middle, low=low, high=high, p_value=0.5, df=df))
    expected = anova_oneway(groups, use_var="unequal", welch_correction=True).pvalue
    assert disagreement(intervals, 0.05) == pytest.approx(expected, rel=1e-6)


def test_one_dataset_cannot_disagree() -> None:
    assert disagreement([RatioInterval(ratio=2, low=1, high=4, p_value=0.05, df=5)], 0.05) is None
