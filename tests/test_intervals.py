"""Intervals and comparisons against brute-force resampling and refitting."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from drawn_rows import sample
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from benchmark.statistics import calibration_error
from benchmark.statistics.bin_resampling import bootstrap_interval, noise_floor
from benchmark.statistics.calibration_error import expected_calibration_error
from benchmark.statistics.classification import macro_f1_influence
from benchmark.statistics.comparison import ModelOutputs, compare, compare_all, holm
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.intervals import score_split
from benchmark.statistics.metric import (
    Debiased,
    EffectiveShare,
    Excess,
    Influence,
    NoInterval,
    Share,
)
from benchmark.statistics.metrics import METRICS, metrics_for
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import (
    CALIBRATION_STREAM,
    RefittedTemperatures,
    refit_temperatures,
    resample_counts,
    resample_means,
)
from benchmark.statistics.selective import augrc_influence, aurc_influence
from benchmark.statistics.skewed_interval import TOO_FEW_CALIBRATION
from benchmark.statistics.temperature import fit_temperature

BY_ROWS = [
    name
    for name, metric in METRICS.items()
    if isinstance(metric.interval, Influence | Share) and metric.lacking is None
]


def confidences(n, seed=0, gap=0.03):
    rng = np.random.default_rng(seed)
    confidence = rng.beta(6, 2, size=n)
    return confidence, rng.random(n) < confidence - gap


class TestBootstrapInterval:
    @pytest.mark.parametrize(("n_bins", "scheme"), [(15, "equal_width"), (30, "equal_mass")])
    def test_endpoints_within_two_percent_of_brute_force(self, n_bins, scheme):
        # Many resamples on both sides: at 1,000 the endpoints themselves have an error of 2%.
        confidence, correct = confidences(1000)
        interval = bootstrap_interval(
            confidence, correct, "expected", n_bins, scheme, resamples=40_000
        )
        if scheme == "equal_mass":  # the bins stay where they are
            edges = np.sort(confidence)[
                [math.ceil(k * 1000 / n_bins) - 1 for k in range(1, n_bins)]
            ]
            index = np.searchsorted(edges, confidence)
        else:
            index = np.ceil(confidence * n_bins).astype(int) - 1
        rng = np.random.default_rng(5)
        in_bin = np.eye(n_bins)[index] * (confidence - correct)[:, None]
        errors = np.concatenate(
            [
                np.abs(rng.multinomial(1000, np.full(1000, 1e-3), size=2000) @ in_bin).sum(axis=1)
                for _ in range(10)
            ]
        )
        low, high = np.quantile(errors / 1000, [0.025, 0.975])
        assert interval.value == pytest.approx(
            expected_calibration_error(confidence, correct, n_bins, scheme)
        )
        assert abs(interval.low - low) < 0.02 * (high - low)
        assert abs(interval.high - high) < 0.02 * (high - low)

    @pytest.mark.parametrize("error", ["expected", "max", "rms"])
    def test_value_and_order(self, error):
        confidence, correct = confidences(2000)
        interval = bootstrap_interval(confidence, correct, error)
        function = getattr(calibration_error, f"{error}_calibration_error")
        value = function(confidence, correct, 15, "equal_width")
        assert interval.value == pytest.approx(value)
        assert 0 <= interval.low < interval.high <= 1

    def test_unknown_error(self):
        with pytest.raises(ValueError, match="expected, max, rms"):
            bootstrap_interval([0.5], [1], "mean")


class TestNoiseFloor:
    @pytest.mark.parametrize(("n_bins", "scheme"), [(15, "equal_width"), (100, "equal_mass")])
    def test_against_drawing_every_outcome(self, n_bins, scheme):
        confidence, _ = confidences(1500)
        confidence[:300] = 1.0
        floor = noise_floor(confidence, n_bins, scheme, resamples=4000)
        rng = np.random.default_rng(3)
        errors = [
            expected_calibration_error(confidence, rng.random(1500) < confidence, n_bins, scheme)
            for _ in range(4000)
        ]
        assert floor.mean == pytest.approx(np.mean(errors), rel=0.015)
        assert floor.q95 == pytest.approx(np.quantile(errors, 0.95), rel=0.03)

    def test_certain_confidences_have_none(self):
        assert noise_floor(np.ones(50)) == (0.0, 0.0)

    def test_mean_in_closed_form(self):
        # Bins of many rows: |normal| has mean sqrt(2 / pi) times its standard deviation.
        confidence = np.random.default_rng(0).uniform(0.5, 0.95, size=20_000)
        index = np.ceil(confidence * 15).astype(int) - 1
        variance = np.bincount(index, confidence * (1 - confidence))
        expected = np.sqrt(2 / math.pi * variance).sum() / 20_000
        assert noise_floor(confidence).mean == pytest.approx(expected, rel=0.03)


class TestResampling:
    def test_counts_are_resamples(self):
        batches = list(resample_counts(1000, 150, 0, 0))
        counts = np.concatenate([batch for _, batch in batches])
        assert counts.shape == (150, 1000)
        np.testing.assert_array_equal(counts.sum(axis=1), 1000)
        assert counts.var() == pytest.approx(1, abs=0.02)

    def test_means_by_brute_force(self):
        columns = np.random.default_rng(0).normal(size=(200, 3))
        means = resample_means(columns, 7, 1, 0)
        counts = np.concatenate([batch for _, batch in resample_counts(200, 7, 1, 0)])
        for resample in range(7):
            drawn = np.repeat(np.arange(200), counts[resample].astype(int))
            np.testing.assert_allclose(means[resample], columns[drawn].mean(axis=0))

    def test_groups_of_many_sorted_rows_keep_the_standard_error(self):
        column = np.sort(np.random.default_rng(0).exponential(size=(60_001, 1)), axis=0)
        means = resample_means(column, 4000, 0, 0)[:, 0]
        assert means.mean() == pytest.approx(column.mean(), abs=3e-4)
        assert means.std() == pytest.approx(column.std() / math.sqrt(60_001), rel=0.05)

    @pytest.mark.parametrize(
        ("name", "influence"),
        [
            ("macro_f1", macro_f1_influence),
            ("aurc", aurc_influence),
            ("augrc", augrc_influence),
        ],
    )
    def test_influence_is_the_derivative_in_row_weights(self, name, influence):
        logits, labels = sample(400, 4)
        scored = Predictions.from_logits(logits, labels)
        effect = influence(scored)
        assert effect.mean() == pytest.approx(0, abs=1e-9)
        # Ten copies of every row, and one more of row k: weight 1/4001 moves to k.
        many = np.repeat(np.arange(400), 10)
        value = METRICS[name](Predictions.from_logits(logits[many], labels[many]))
        for k in (0, 17, 200, 399):
            rows = np.append(many, k)
            moved = METRICS[name](Predictions.from_logits(logits[rows], labels[rows]))
            assert 4001 * (moved - value) == pytest.approx(
                effect[k], abs=0.01 + 0.03 * abs(effect[k])
            )


class TestRefit:
    @pytest.mark.parametrize("n_classes", [2, 10])
    def test_against_fitting_every_resample(self, n_classes):
        logits, labels = sample(800, n_classes)
        fit = fit_temperature(logits, labels)
        refitted = refit_temperatures(logits, labels, fit, resamples=60, seed=4)
        for at, counts in resample_counts(800, 60, 4, CALIBRATION_STREAM):
            for temperature, count in zip(refitted.resampled[at], counts, strict=True):
                drawn = np.repeat(np.arange(800), count.astype(int))
                again = fit_temperature(logits[drawn], labels[drawn])
                assert temperature == pytest.approx(again.temperature, rel=1e-5)

    def test_tiny_split_falls_back_to_full_refits(self):
        logits, labels = np.array([[3.0, 0], [2, 0], [1, 0], [0.5, 0]]), np.array([0, 0, 0, 1])
        fit = fit_temperature(logits, labels)
        refitted = refit_temperatures(logits, labels, fit, resamples=200)
        assert (refitted.resampled == 0).any()  # resamples without the wrong row
        for at, counts in resample_counts(4, 200, 0, CALIBRATION_STREAM):
            for temperature, count in zip(refitted.resampled[at], counts, strict=True):
                drawn = np.repeat(np.arange(4), count.astype(int))
                again = fit_temperature(logits[drawn], labels[drawn]).temperature
                assert temperature == pytest.approx(again, rel=1e-4)

    def test_fit_at_a_limit_is_not_resampled(self):
        fit = fit_temperature([[1.0, 0]], [0])
        refitted = refit_temperatures([[1.0, 0]], [0], fit, resamples=3)
        np.testing.assert_array_equal(refitted.resampled, 0)
        assert refitted.estimate.no_interval == TOO_FEW_CALIBRATION


@pytest.fixture(scope="module")
def splits():
    return {
        "test_logits": sample(1500, 5, seed=1)[0],
        "test_labels": sample(1500, 5, seed=1)[1],
        "calibration_logits": sample(1000, 5, seed=2)[0],
        "calibration_labels": sample(1000, 5, seed=2)[1],
    }


def fit_of(splits):
    return fit_temperature(splits["calibration_logits"], splits["calibration_labels"])


class TestScoreSplit:
    def test_intervals_after_scaling_against_brute_force(self, splits):
        fit = fit_of(splits)
        scores = score_split(**splits, fit=fit, resamples=1000)
        rng = np.random.default_rng(9)
        replicates = {name: [] for name in BY_ROWS}
        for _ in range(1000):
            drawn = rng.integers(0, 1000, 1000)
            again = fit_temperature(
                splits["calibration_logits"][drawn], splits["calibration_labels"][drawn]
            )
            drawn = rng.integers(0, 1500, 1500)
            scored = Predictions.from_logits(
                splits["test_logits"][drawn], splits["test_labels"][drawn], again.temperature
            )
            for name in BY_ROWS:
                replicates[name].append(METRICS[name](scored))
        for name, values in replicates.items():
            estimate = scores.after[name]
            low, high = np.quantile(values, [0.025, 0.975])
            # Two bootstraps of 1,000: each endpoint has an error of about 2.2% of the width.
            # Not percentiles, but with hundreds of mistakes much the same.
            assert estimate.low == pytest.approx(low, abs=0.15 * (high - low)), name
            assert estimate.high == pytest.approx(high, abs=0.15 * (high - low)), name

    def test_temperature_adds_uncertainty(self, splits):
        fit = fit_of(splits)
        scores = score_split(**splits, fit=fit)
        fixed = score_split(
            **splits,
            fit=fit,
            refitted=RefittedTemperatures(
                Estimate(fit.temperature), np.full(1000, fit.temperature), 100
            ),
        )
        for name in ("signed_gap", "debiased_calibration_error_squared"):
            free, held = scores.after[name], fixed.after[name]
            assert free.value == held.value
            assert free.high - free.low > 1.02 * (held.high - held.low)
        assert scores.before == fixed.before

    def test_values_are_the_metrics(self, splits):
        fit = fit_of(splits)
        scores = score_split(**splits, fit=fit, resamples=50)
        for temperature, estimates in ((1.0, scores.before), (fit.temperature, scores.after)):
            scored = Predictions.from_logits(
                splits["test_logits"], splits["test_labels"], temperature
            )
            assert list(estimates) == [metric.name for metric in metrics_for(scores.n_classes)]
            for name, metric in METRICS.items():
                if metric.two_classes:
                    continue
                # Sets need the calibration rows, which these predictions lack.
                value = math.nan if metric.lacking else estimates[name].value
                assert metric(scored) == pytest.approx(value, nan_ok=True), name

    def test_what_has_an_interval(self, splits):
        scores = score_split(**splits, fit=fit_of(splits), resamples=50)
        for name, estimate in scores.after.items():
            kinds = Debiased | Excess | Influence | Share | EffectiveShare
            has_interval = isinstance(METRICS[name].interval, kinds)
            assert (estimate.low is not None) == has_interval, name
            if has_interval:
                assert estimate.low <= max(estimate.value, 0) <= estimate.high
            is_ece = name in ("ece_15", "ece_100_equal_mass")
            assert (estimate.floor_q95 is not None) == is_ece
        assert scores.temperature.low < scores.temperature.value < scores.temperature.high

    def test_plain_floats_and_json(self, splits):
        scores = score_split(**splits, fit=fit_of(splits), resamples=50)
        again = json.loads(json.dumps(dataclasses.asdict(scores)))
        assert again["after"]["nll"]["value"] == scores.after["nll"].value
        assert type(scores.after["macro_f1"].value) is float

    def test_same_seed_same_result(self, splits):
        fit = fit_of(splits)
        first = score_split(**splits, fit=fit, resamples=50, seed=3)
        assert first == score_split(**splits, fit=fit, resamples=50, seed=3)
        other = score_split(**splits, fit=fit, resamples=50, seed=4)
        assert first.after["nll"].low != other.after["nll"].low

    @pytest.mark.parametrize("label", [0, 1])
    def test_temperature_at_a_limit(self, label):
        logits, labels = sample(200, 2, seed=5)
        fit = fit_temperature([[1.0, 0], [2.0, 0]], [label, label])
        assert fit.status == ("at_zero", "at_infinity")[label]
        scores = score_split(logits, labels, [[1.0, 0], [2.0, 0]], [label, label], fit)
        assert scores.temperature.low is None
        assert scores.after["accuracy"] == scores.before["accuracy"]
        if label == 1:
            assert scores.after["nll"].value == pytest.approx(math.log(2))

    def test_many_rows(self):
        logits, labels = sample(25_000, 3)
        fit = fit_temperature(logits[:12_000], labels[:12_000])
        scores = score_split(
            logits[12_000:], labels[12_000:], logits[:12_000], labels[:12_000], fit
        )
        exact = Predictions.from_logits(logits[12_000:], labels[12_000:])
        reach = 1.96 * exact.nll.std() / math.sqrt(13_000)
        estimate = scores.before["nll"]
        assert estimate.high - estimate.low == pytest.approx(2 * reach, rel=0.1)


def outputs(name, seed, n=600, noise=0.0):
    """A model whose logits are those of model 0 plus noise, on the same rows."""
    logits, labels = sample(n + 400, 4)
    noisy = logits + noise * np.random.default_rng(seed).normal(size=logits.shape)
    ids = np.arange(n + 400) * 10
    return ModelOutputs(
        name=name,
        test_logits=noisy[:n],
        test_labels=labels[:n],
        test_ids=ids[:n],
        calibration_logits=noisy[n:],
        calibration_labels=labels[n:],
        calibration_ids=ids[n:],
        fit=fit_temperature(noisy[n:], labels[n:]),
    )


class TestCompare:
    @pytest.mark.parametrize("after_scaling", [False, True])
    def test_paired_difference_by_brute_force(self, after_scaling):
        first, second = outputs("a", 1), outputs("b", 2, noise=1.5)
        result = compare(first, second, "nll", after_scaling=after_scaling)
        scored = [
            Predictions.from_logits(
                model.test_logits,
                model.test_labels,
                model.fit.temperature if after_scaling else 1.0,
            )
            for model in (first, second)
        ]
        gap = scored[0].nll - scored[1].nll
        assert result.difference == pytest.approx(gap.mean())
        error = gap.std() / math.sqrt(600)
        half = (result.high - result.low) / 2
        assert half == pytest.approx(1.96 * error, rel=0.1)
        # In units of the normal score: tails differ by the mended skewness.
        score = norm.isf(result.p_value / 2)
        assert score == pytest.approx(abs(gap.mean()) / (half / 1.96), rel=0.1)
        assert result.p_holm == result.p_value

    def test_a_general_metric_uses_the_same_resamples(self):
        first, second = outputs("a", 1), outputs("b", 2, noise=0.5)
        general = compare(first, second, "ece_15", after_scaling=True, resamples=60)
        assert general.low < general.difference < general.high
        same = compare(first, first, "ece_15", after_scaling=True, resamples=20)
        assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)

    def test_a_linear_metric_agrees_with_its_general_path(self, monkeypatch):
        first, second = outputs("a", 1), outputs("b", 2, noise=1.0)
        fast = compare(first, second, "nll", after_scaling=True, resamples=800)
        general = dataclasses.replace(METRICS["nll"], interval=NoInterval("scored anew"))
        monkeypatch.setitem(METRICS, "nll", general)
        slow = compare(first, second, "nll", after_scaling=True, resamples=800)
        assert fast.difference == pytest.approx(slow.difference)
        assert fast.high - fast.low == pytest.approx(slow.high - slow.low, rel=0.1)

    def test_order_of_rows_does_not_matter(self):
        first, second = outputs("a", 1), outputs("b", 2, noise=0.5)
        turned = dataclasses.replace(
            second,
            test_logits=second.test_logits[::-1],
            test_labels=second.test_labels[::-1],
            test_ids=second.test_ids[::-1],
        )
        one = compare(first, second, "brier", after_scaling=True)
        assert compare(first, turned, "brier", after_scaling=True) == one

    def test_different_ids_are_named(self):
        first, second = outputs("a", 1), outputs("b", 2)
        other = dataclasses.replace(second, test_ids=second.test_ids + (second.test_ids == 30))
        with pytest.raises(ValueError, match=r"1 ids of a are missing from b, the first \[30\]"):
            compare(first, other, "nll", after_scaling=False)

    def test_different_labels_are_named(self):
        first, second = outputs("a", 1), outputs("b", 2)
        labels = second.test_labels.copy()
        labels[7] = (labels[7] + 1) % 4
        other = dataclasses.replace(second, test_labels=labels)
        with pytest.raises(ValueError, match="disagree on 1 labels, first of id 70"):
            compare(first, other, "nll", after_scaling=False)

    def test_unknown_metric(self):
        with pytest.raises(ValueError, match="did you mean 'ece_15'"):
            compare(outputs("a", 1), outputs("b", 2), "ece15", after_scaling=False)

    def test_family(self):
        models = [outputs("a", 1), outputs("b", 2, noise=0.3), outputs("c", 3, noise=2)]
        family = compare_all(models, "nll", after_scaling=True)
        assert [(one.first, one.second) for one in family] == [("a", "b"), ("a", "c"), ("b", "c")]
        alone = compare(models[0], models[2], "nll", after_scaling=True)
        assert family[1].p_value == alone.p_value
        corrected = multipletests([one.p_value for one in family], method="holm")[1]
        np.testing.assert_allclose([one.p_holm for one in family], corrected)

    def test_null_p_values_are_uniform(self):
        p_values = []
        for seed in range(100):
            logits, labels = sample(300, 3, seed=seed)
            rng = np.random.default_rng(seed)
            models = [
                dataclasses.replace(
                    outputs("x", 0),
                    test_logits=logits + rng.normal(size=logits.shape),
                    test_labels=labels,
                    test_ids=np.arange(300),
                )
                for _ in range(2)
            ]
            p_values.append(
                compare(*models, "nll", after_scaling=False, resamples=200, seed=seed).p_value
            )
        assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.07)
        assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.9, 0.8], [0.2], []])
def test_holm_agrees_with_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    np.testing.assert_allclose(holm(p_values), expected)
