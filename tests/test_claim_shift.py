"""The contrast under shift against statsmodels and against every labelling counted by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from claim_frames import runs, two_modalities
from scipy import stats

from benchmark.claim import claim_passages, evaluate_claim
from benchmark.claim.data import ClaimError
from benchmark.claim.shift_passage import TITLE, differs
from benchmark.claim.shift_test import shift_contrast, shift_effect
from benchmark.registry import Claim

METRIC = "debiased_calibration_error"


def study(changes, level, shifts=("noise-1", "noise-2"), mixers="aaaaccccc", twins=False):
    """Exact errors: of every family one model, clean and shifted by its own change of log error."""
    rows = []
    for number, (mixer, change, base) in enumerate(zip(mixers, changes, level, strict=True)):
        for place, split in enumerate(("test", *shifts)):
            log = base + (change + 0.1 * place if place else 0.0)
            rows.append(
                {
                    "dataset": "data",
                    "split": split,
                    "shifted": place > 0,
                    "model": f"m{number}",
                    "family": f"pair{number % (len(mixers) // 2)}" if twins else f"f{number}",
                    "mixer": {"a": "attention", "c": "convolution"}[mixer],
                    f"{METRIC}_none": np.exp(log),
                }
            )
    return pd.DataFrame(rows)


def numbers(seed=0, count=9, effect=0.4):
    generator = np.random.default_rng(seed)
    first = np.arange(count) < 4
    return generator.normal(0.5, 0.3, count) + effect * first, generator.normal(-3, 0.5, count)


def test_estimate_and_error_are_those_of_a_regression_of_the_changes() -> None:
    """Of exact errors, one model a family: differences of means, with HC2 errors (statsmodels)."""
    changes, level = numbers()
    effect = shift_effect(study(changes, level), Claim(), METRIC, "none", "family")
    x = sm.add_constant((np.arange(9) < 4).astype(float))
    theirs = sm.OLS(changes, x).fit(cov_type="HC2", use_t=True)
    assert np.log(effect.estimate.ratio) == pytest.approx(theirs.params[1], abs=2e-3)
    assert effect.clean_ratio == pytest.approx(
        np.exp(level[:4].mean() - level[4:].mean()), rel=0.01
    )
    assert effect.shifted_ratio == pytest.approx(
        effect.clean_ratio * effect.estimate.ratio, rel=1e-9
    )
    low, high = np.log([effect.estimate.low, effect.estimate.high])
    error = (high - low) / 2 / stats.t.ppf(0.975, effect.estimate.df)
    assert error == pytest.approx(theirs.bse[1], rel=0.03)


def test_exchange_against_every_labelling() -> None:
    """The share of labellings whose studentised difference of changes is at least as large."""
    for seed in range(5):
        changes, level = numbers(seed)
        effect = shift_effect(study(changes, level), Claim(), METRIC, "none", "family")

        def statistic(chosen, values=changes):
            label = np.isin(np.arange(9), chosen).astype(float)
            residual = values - values.mean()
            own = (label - label.mean()) * residual
            # As the test has it: the mean of the labelling taken out, squared over its parts.
            return own.sum() ** 2 / (own**2).sum()

        reached = statistic((0, 1, 2, 3))
        all_of_them = [statistic(chosen) for chosen in combinations(range(9), 4)]
        expected = np.mean(np.array(all_of_them) >= reached * (1 - 1e-9))
        assert effect.permutation.exact
        assert effect.permutation.assignments == 126
        assert effect.permutation.p_value == pytest.approx(expected, abs=0.02)


def test_a_labelling_and_its_mirror_are_alike() -> None:
    """So with three families a side the least p value is 2 of 20, also where noise is unlike."""
    generator = np.random.default_rng(4)
    changes = np.array([2.0, 2.1, 2.2, 0.1, 0.2, 0.3])
    frame = study(changes, generator.normal(-3, 0.5, 6), mixers="aaaccc")
    frame[f"{METRIC}_squared_none_null_variance"] = generator.uniform(1e-8, 1e-6, len(frame))
    frame[f"{METRIC}_squared_none_variance_slope"] = generator.uniform(1e-6, 1e-4, len(frame))
    effect = shift_effect(frame, Claim(), METRIC, "none", "family")
    assert effect.permutation.p_value == pytest.approx(2 / 20)


def test_what_clean_and_shifted_rows_share_does_not_matter() -> None:
    changes, level = numbers()
    plain = shift_effect(study(changes, level), Claim(), METRIC, "none", "family")
    moved = level + np.where(np.arange(9) < 4, -1.0, 0.0)
    other = shift_effect(study(changes, moved), Claim(), METRIC, "none", "family")
    assert other.clean_ratio == pytest.approx(plain.clean_ratio * np.exp(-1), rel=0.02)
    assert other.estimate.ratio == pytest.approx(plain.estimate.ratio, rel=0.01)
    assert other.permutation.p_value == pytest.approx(plain.permutation.p_value, abs=0.02)


def test_twins_are_exchanged_within_pairs() -> None:
    generator = np.random.default_rng(1)
    shared = np.tile(generator.normal(0.5, 0.5, 8), 2)
    changes = shared + np.repeat([0.5, 0.0], 8) + generator.normal(0, 0.05, 16)
    frame = study(changes, np.tile(generator.normal(-3, 0.5, 8), 2), mixers="a" * 8 + "c" * 8,
                  twins=True)  # fmt: skip
    effect = shift_effect(frame, Claim(), METRIC, "none", "twins")
    difference = changes[:8] - changes[8:]
    assert np.log(effect.estimate.ratio) == pytest.approx(difference.mean(), abs=5e-3)
    assert effect.permutation.assignments == 2**8
    assert effect.permutation.p_value == 2 / 2**8
    assert differs(effect, 0.05)


def test_severities_are_corrected_and_pooled_is_primary() -> None:
    frame = runs(families=(6, 6), shifts=("noise-1", "noise-2", "blur-1", "blur-2", "blur-3"))
    result = evaluate_claim(frame).under_shift
    assert result.primary.map == "none"
    assert len(result.primary.shifts) == 5
    assert result.primary.p_adjusted is None
    assert [effect.severity for effect in result.severities] == ["1", "2", "3"]
    assert result.severities[2].shifts == ("blur-3",)
    worst = sorted(effect.estimate.p_value for effect in result.severities)
    adjusted = sorted(effect.p_adjusted for effect in result.severities)
    assert adjusted[0] == pytest.approx(min(3 * worst[0], 1))
    assert result.secondary.map == "temperature"


def test_a_change_is_found_and_said() -> None:
    frame = two_modalities(families=(5, 5), shifts=("noise-1", "noise-2"))
    worse = frame["shifted"] & (frame["mixer"] == "attention")
    frame.loc[worse, f"{METRIC}_none"] *= 2.0
    result = evaluate_claim(frame)
    found = result.under_shift.primary
    assert found.estimate.low < 2.0 < found.estimate.high
    assert found.estimate.low > 1
    passage = next(p for p in claim_passages(result) if p.title == TITLE)
    assert passage.sentences[0].startswith("Shift favours convolution models")
    assert passage.table.rows[0][0].text == "all, before scaling (primary)"


def test_without_shifted_rows_or_families_it_says_why() -> None:
    clean = evaluate_claim(runs(shifts=()))
    assert clean.under_shift.problem == "no model of the contrast was scored on shifted rows"
    assert TITLE not in [passage.title for passage in claim_passages(clean)]
    few = evaluate_claim(runs(families=(1, 1)))
    assert few.under_shift.primary is None
    passage = next(p for p in claim_passages(few) if p.title == TITLE)
    assert "families" in passage.sentences[0]
    frame = study(*numbers())
    with pytest.raises(ClaimError, match="clean and on shifted rows"):
        shift_effect(frame[frame["shifted"]], Claim(), METRIC, "none", "family")
    assert shift_contrast(frame, Claim(primary="after"), METRIC).problem


def test_what_cannot_be_measured_is_no_difference() -> None:
    result = evaluate_claim(runs(families=(6, 6)))
    found = result.under_shift.primary
    estimate = found.estimate.model_copy(update={"ratio": 0.0, "low": 0.0, "high": 0.03})
    test = found.permutation.model_copy(update={"p_value": 0.01})
    gone = found.model_copy(update={"estimate": estimate, "permutation": test})
    assert not differs(gone, 0.05)
    shift = result.under_shift.model_copy(update={"primary": gone})
    passages = claim_passages(result.model_copy(update={"under_shift": shift}))
    passage = next(p for p in passages if p.title == TITLE)
    assert passage.sentences[0].startswith("Whether shift changes the ratio cannot be told")
    ratio, *rest = (cell.text for cell in passage.table.rows[0][3:])
    assert (ratio, set(rest)) == ("not measurable", {"\u2013"})
