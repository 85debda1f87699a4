"""Twins: the contrast within pairs of models that differ in the mixer only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from claim_frames import METRICS, runs
from scipy import stats

from benchmark.claim import evaluate_claim
from benchmark.claim.text import render_markdown
from benchmark.claim.twins import paired_rows
from benchmark.registry import Claim
from benchmark.report.claim_figures import _forest_rows, forest

METRIC = METRICS[0]


def twins(pairs: int = 9, *, pair_sd: float = 0.5, **options: object) -> pd.DataFrame:
    """Runs of pairs of twins; `pair_sd` is the spread that twins share."""
    frame = runs(families=(pairs, pairs), checkpoints=1, family_sd=0.0, **options)  # type: ignore[arg-type]
    sides = {"attention": "convolution", "convolution": "attention"}
    frame["twin"] = [
        model.replace(mixer, sides[mixer])
        for model, mixer in zip(frame["model"], frame["mixer"], strict=True)
    ]
    numbers = frame["model"].str.extract(r"-(\d+)-0$")[0].astype(int)
    shared = np.exp(np.random.default_rng(5).normal(0, pair_sd, pairs))[numbers]
    for metric in METRICS:
        power = 2 if metric.endswith("calibration") and "error" not in metric else 1
        for name in ("none", "temperature"):
            frame[f"{metric}_{name}"] *= shared**power
    return frame


def logs(frame: pd.DataFrame, mixer: str) -> np.ndarray:
    rows = frame[(frame["mixer"] == mixer) & (frame["split"] == "test")].sort_values("model")
    return np.log(rows[f"{METRIC}_none"].to_numpy())


def test_exact_errors_give_the_paired_t_test() -> None:
    """What twins share drops out, however much it varies."""
    for spread in (0.0, 2.0):
        frame = twins(seeds=1, shifts=(), ratio=0.85, noise_sd=0.15, pair_sd=spread, seed=4)
        result = evaluate_claim(frame)
        attention, convolution = logs(frame, "attention"), logs(frame, "convolution")
        expected = stats.ttest_rel(attention, convolution)
        assert result.unit == "twins"
        assert result.primary is not None
        estimate = result.primary.estimate
        assert np.log(estimate.ratio) == pytest.approx(
            float((attention - convolution).mean()), abs=1e-4
        )
        assert estimate.p_value == pytest.approx(float(expected.pvalue), rel=1e-3)
        ends = expected.confidence_interval()
        assert np.log([estimate.low, estimate.high]) == pytest.approx([*ends], abs=2e-3)


def test_labels_are_exchanged_within_twins() -> None:
    frame = twins(6, seeds=1, shifts=(), ratio=0.8, seed=2)
    result = evaluate_claim(frame)
    assert result.permutation is not None
    assert (result.permutation.assignments, result.permutation.exact) == (64, True)
    gap = logs(frame, "attention") - logs(frame, "convolution")
    flips = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    sums = np.abs(gap @ flips)
    expected = np.mean(sums >= np.abs(gap.sum()) * (1 - 1e-9))
    assert result.permutation.p_value == pytest.approx(float(expected))


def test_the_verdict_speaks_of_twins_and_says_of_which_models() -> None:
    result = evaluate_claim(twins(ratio=0.7, noise_sd=0.05))
    text = " ".join([*result.verdict.sentences, *result.verdict.numbers])
    assert result.verdict.outcome == "supported"
    assert "better calibrated than their convolution twins" in text
    assert "with 9 pairs of twins" in text
    assert "These are 18 models of" in text
    assert "trained from scratch: of larger or otherwise trained ones they say nothing" in text
    assert "families" not in text
    assert "families like these" not in render_markdown(result)
    assert not result.matched_pairs.pairs
    assert len(result.twin_points) == 9


def test_the_forest_plot_of_twins_counts_pairs() -> None:
    result = evaluate_claim(twins(ratio=0.7, noise_sd=0.05))
    assert result.primary is not None
    labels = [row.label for row in _forest_rows(result, result.primary)]
    assert labels[0] == "image-data (9 pairs of twins)"
    drawing = forest(result, "contrast")
    assert drawing is not None
    assert ": 9 pairs of twins." in drawing.method
    assert "famil" not in drawing.method + drawing.caption
    assert "nothing" not in drawing.caption
    families = evaluate_claim(runs(families=(4, 5)))
    assert families.primary is not None
    assert _forest_rows(families, families.primary)[0].label == "image-data (9 families)"


def test_other_models_keep_families_as_the_unit() -> None:
    """Twins then have a passage of their own, with the estimate they have alone."""
    alone = twins(ratio=0.8)
    others = runs(families=(3, 3), seed=9)
    for column in ("model", "family"):
        others[column] = "other-" + others[column]
    result = evaluate_claim(pd.concat([alone, others]))
    assert result.unit == "family"
    within, whole = result.within_twins, evaluate_claim(alone).primary
    assert within is not None
    assert whole is not None
    assert within.effect.estimate == whole.estimate
    assert "Within twins" in render_markdown(result)


def test_twins_without_their_twin_are_no_pair() -> None:
    frame = twins(4)
    frame = frame[~((frame["mixer"] == "attention") & frame["model"].str.endswith("-0-0"))]
    assert paired_rows(frame, Claim().contrast)["family"].nunique() == 3
    assert evaluate_claim(frame).unit == "family"
    assert paired_rows(frame.drop(columns="twin"), Claim().contrast).empty
    assert paired_rows(frame.assign(twin=None), Claim().contrast).empty


def test_two_pairs_are_too_few_to_speak_of() -> None:
    result = evaluate_claim(twins(2))
    assert (result.unit, result.within_twins) == ("family", None)


def test_adjusting_for_accuracy_removes_what_accuracy_explains() -> None:
    """The mixer changes accuracy, and accuracy alone the error: at equal accuracy, no effect."""
    frame = twins(20, seeds=1, shifts=(), noise_sd=0.02, pair_sd=0.0)
    first = (frame["mixer"] == "attention").to_numpy()
    generator = np.random.default_rng(3)
    error = 0.2 + 0.1 * generator.random(len(frame)) - 0.1 * first
    frame["accuracy_none"] = 1 - error
    frame[f"{METRIC}_none"] = 0.05 * np.exp(4 * error + generator.normal(0, 0.05, len(frame)))
    result = evaluate_claim(frame)
    assert result.primary is not None
    assert result.adjusted is not None
    assert result.primary.estimate.high < 0.8
    assert result.adjusted.estimate.low < 1 < result.adjusted.estimate.high
