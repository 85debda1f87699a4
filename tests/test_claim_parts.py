"""Variance shares, specification curve, power, matched pairs and the simulated studies."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from claim_frames import METRICS, runs, two_modalities

from benchmark.claim import evaluate_claim
from benchmark.claim import matched_pairs as matching
from benchmark.claim.bin_variants import VARIANTS, with_bin_variants
from benchmark.claim.data import checkpoints, log_outcomes, squared_errors
from benchmark.claim.design import build_design
from benchmark.claim.effect import contrast_equation
from benchmark.claim.matched_pairs import MAX_SIZE_RATIO, matched_pairs
from benchmark.claim.paired_bootstrap import error_replicates
from benchmark.claim.power import detectable_effect
from benchmark.claim.specification_curve import specification_curve
from benchmark.claim.variance_shares import _explained, _family_grams, _shares, variance_shares
from benchmark.records import RunFolder
from benchmark.records.logits import LogitsSplit, read_split, write_logits
from benchmark.registry import Claim
from benchmark.statistics.calibration_error import (
    debiased_calibration_error,
    expected_calibration_error,
)
from benchmark.statistics.comparison import ModelOutputs, compare
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.temperature import fit_temperature

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
    """At the detectable effect, about 80% of fresh studies exclude a ratio of 1."""
    frame = runs(families=(6, 6), family_sd=0.3, noise_sd=0.3, seeds=1, shifts=())
    claim = Claim(covariates=())
    clean, _, design = analysed(frame, claim)
    equation = contrast_equation(clean, squared_errors(clean, METRIC, "none"), design)
    effect = detectable_effect(equation, 0.05, seed=0)
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
        found += fresh.test(0.0).rejects(0.05)
    assert found / studies == pytest.approx(0.8, abs=0.1)


def test_more_families_are_needed_for_smaller_effects() -> None:
    needed = []
    for ratio in (0.5, 0.8):
        result = evaluate_claim(runs(ratio=ratio, families=(4, 4), family_sd=0.3, seed=2))
        assert result.verdict.power is not None
        needed.append(result.verdict.power.families_for_observed_effect)
    assert needed[0] is not None
    assert needed[1] is None or needed[1] > needed[0]


# --- Matched pairs ------------------------------------------------------------------------------


def store_logits(folder: Path, seed: int, sharpness: float, rows: int = 800) -> None:
    """Write logits whose true temperature is `sharpness`; rows are the same for every seed."""
    rows_generator, noise = np.random.default_rng(0), np.random.default_rng(seed)
    splits = {}
    for name in ("calibration", "test"):
        truth = rows_generator.normal(0, 2, size=(rows, 4))
        labels = (truth + rows_generator.gumbel(size=truth.shape)).argmax(axis=1)
        logits = sharpness * (truth + noise.normal(0, 0.3, truth.shape))
        splits[name] = LogitsSplit(np.arange(rows), logits.astype(np.float32), labels)
    write_logits(RunFolder(folder), splits, key="made-up")


@pytest.fixture
def pair_frame(tmp_path: Path) -> pd.DataFrame:
    """One pair of models of equal size and accuracy; the first is overconfident."""
    frame = runs(families=(1, 1), checkpoints=1, seeds=2, shifts=())
    frame["parameters"], frame["accuracy_none"], frame["temperature"] = 1e6, 0.8, 1.0
    for index, row in frame.iterrows():
        folder = tmp_path / str(row["model"]) / f"seed-{row['seed']}"
        sharpness = 2.5 if row["mixer"] == "attention" else 1.0
        store_logits(folder, seed=int(row["seed"]) + 1, sharpness=sharpness)
        frame.loc[index, "folder"] = str(folder)
    return frame


def pairs_of(frame: pd.DataFrame):
    averaged = checkpoints(frame)
    return matched_pairs(frame, averaged[~averaged["shifted"]], Claim(), METRIC)


def test_pairs_are_compared_on_the_same_rows(pair_frame: pd.DataFrame) -> None:
    found = pairs_of(pair_frame)
    before, after = found.pairs
    assert (before.map, after.map) == ("none", "temperature")
    assert before.seeds == after.seeds == 2
    assert before.low is not None
    assert before.p_adjusted is not None
    assert before.low > 0
    assert before.p_adjusted < 1e-6
    # Temperature scaling removes the overconfidence, and with it the difference.
    assert after.low is not None
    assert after.high is not None
    assert after.low < 0 < after.high
    assert not found.problems


def test_a_model_does_not_differ_from_itself(pair_frame: pd.DataFrame) -> None:
    pair_frame["folder"] = pair_frame["folder"].iloc[0]
    before, after = pairs_of(pair_frame).pairs
    assert before.difference == after.difference == 0
    assert before.p_value == after.p_value == 1


def test_missing_logits_are_a_problem_not_an_error(pair_frame: pd.DataFrame) -> None:
    pair_frame["folder"] = "nowhere"
    found = pairs_of(pair_frame)
    assert [pair.p_value for pair in found.pairs] == [None, None]
    assert any("no such file" in problem for problem in found.problems)


def test_other_rows_cannot_be_compared(pair_frame: pd.DataFrame) -> None:
    store_logits(Path(pair_frame["folder"].iloc[0]), seed=1, sharpness=1.0, rows=700)
    found = pairs_of(pair_frame)
    assert found.pairs[0].seeds == 1
    assert any("not scored on the same test rows" in problem for problem in found.problems)


def test_only_the_closest_pairs_are_bootstrapped(
    pair_frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MAX_COMPARED", 1)
    found = pairs_of(pair_frame)
    assert [pair.p_value for pair in found.pairs] == [None, None]
    assert any("only the 1 closest" in problem for problem in found.problems)


@pytest.mark.parametrize("after", [False, True])
def test_replicates_spread_as_those_that_bin_anew(pair_frame: pd.DataFrame, after: bool) -> None:
    folders = [RunFolder(Path(folder)) for folder in pair_frame["folder"]]
    ours = [error_replicates(path, after_scaling=after, resamples=600) for path in folders]

    def outputs(folder: RunFolder) -> ModelOutputs:
        test, calibration = read_split(folder, "test"), read_split(folder, "calibration")
        return ModelOutputs(
            folder.name,
            test.logits,
            test.labels,
            test.ids,
            calibration.logits,
            calibration.labels,
            calibration.ids,
            fit_temperature(calibration.logits, calibration.labels),
        )

    first, second = outputs(folders[0]), outputs(folders[-1])
    theirs = compare(first, second, METRIC, after_scaling=after, resamples=300)
    spread = (ours[0].replicates - ours[-1].replicates).std()
    assert ours[0].value - ours[-1].value == pytest.approx(theirs.difference, abs=1e-9)
    assert spread == pytest.approx((theirs.high - theirs.low) / 3.92, rel=0.25)


def test_resampling_every_row_once_gives_the_estimate(pair_frame: pd.DataFrame) -> None:
    """The squared error from sums over bins is the estimator of `calibration_error`."""
    from benchmark.claim.paired_bootstrap import _squared_errors

    generator = np.random.default_rng(0)
    confidence = np.sort(generator.uniform(0.3, 1, 300))
    correct = (generator.uniform(size=300) < confidence**2).astype(float)
    gap = (confidence - correct).reshape(15, 20)
    count = np.full((1, 15), 20.0)
    squared = _squared_errors(count, gap.sum(axis=1)[None], (gap**2).sum(axis=1)[None])
    assert squared[0] == pytest.approx(debiased_calibration_error(confidence, correct).squared)


def test_pairs_keep_the_rule_and_use_each_model_once() -> None:
    frame = two_modalities(families=(6, 6), checkpoints=2, seeds=1)
    clean, *_ = analysed(frame)
    found = matched_pairs(frame, clean, Claim(), METRIC)
    before = [pair for pair in found.pairs if pair.map == "none"]
    assert before
    for pair in before:
        assert pair.size_ratio is not None
        assert 1 / MAX_SIZE_RATIO <= pair.size_ratio <= MAX_SIZE_RATIO
        assert abs(pair.accuracy_difference) <= 0.03 + 1e-9
        assert pair.ratio is not None
    names = [name for pair in before for name in (pair.first, pair.second)]
    assert len(names) == len(set(names))


def test_a_recipe_only_one_side_has_forbids_the_pair(pair_frame: pd.DataFrame) -> None:
    pair_frame["mixup"] = pair_frame["mixer"] == "attention"
    assert not pairs_of(pair_frame).pairs
    pair_frame["mixup"] = None
    assert len(pairs_of(pair_frame).pairs) == 2


def test_bin_variants_come_from_the_logits(pair_frame: pd.DataFrame) -> None:
    wider = with_bin_variants(pair_frame)
    folder = Path(pair_frame["folder"].iloc[0])
    from benchmark.records.logits import read_split

    test = read_split(RunFolder(folder), "test")
    predicted = Predictions.from_logits(test.logits, test.labels)
    for name, bins, scheme in (
        ("ece_10", 10, "equal_width"),
        ("ece_30_equal_mass", 30, "equal_mass"),
    ):
        expected = expected_calibration_error(predicted.confidence, predicted.correct, bins, scheme)
        assert wider[f"{name}_none"].iloc[0] == pytest.approx(expected)
        assert wider[f"{name}_temperature"].iloc[0] == pytest.approx(expected)
    added = {
        f"{metric.name}_{map_name}" for metric in VARIANTS for map_name in ("none", "temperature")
    }
    assert set(wider.columns) - set(pair_frame.columns) == added
    assert with_bin_variants(runs()).columns.tolist() == runs().columns.tolist()
