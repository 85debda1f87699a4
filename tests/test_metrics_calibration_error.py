"""Calibration errors against brute force and the peers where those are right."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from benchmark.statistics.calibration_error import (
    assign_bins,
    debiased_calibration_error,
    debiased_sums,
    expected_calibration_error,
    max_calibration_error,
    rms_calibration_error,
)
from benchmark.statistics.calibration_tests import (
    ks_calibration_error,
    ks_calibration_test,
    spiegelhalter_test,
)
from benchmark.statistics.smooth_ece import smooth_ece

ERRORS = [
    expected_calibration_error,
    max_calibration_error,
    rms_calibration_error,
    ks_calibration_error,
    smooth_ece,
]


def sample(n, seed=0, gap=0.0, concentration=(6, 2)):
    """Confidences with outcomes that are right `gap` less often than claimed."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(*concentration, size=n)
    return confidence, rng.random(n) < confidence - gap


def brute_force_gaps(confidence, correct, edges):
    """Sum of gaps and count of each bin (lower, upper], the first one closed."""
    for k, (lower, upper) in enumerate(itertools.pairwise(edges)):
        inside = (confidence > lower) & (confidence <= upper) | (k == 0) & (confidence == lower)
        yield float((confidence[inside] - correct[inside]).sum()), int(inside.sum())


@pytest.mark.parametrize("n_bins", [1, 3, 15, 100])
@pytest.mark.parametrize("scheme", ["equal_width", "equal_mass"])
def test_binned_errors_by_brute_force(n_bins, scheme):
    confidence, correct = sample(1234, gap=0.03)
    if scheme == "equal_width":
        edges = np.linspace(0, 1, n_bins + 1)
    else:
        ordered = np.sort(confidence)
        last = [math.ceil(k * 1234 / n_bins) - 1 for k in range(1, n_bins)]
        edges = np.concatenate([[0], ordered[last], [1]])
    bins = list(brute_force_gaps(confidence, correct, edges))
    ece = sum(abs(gap) for gap, _ in bins) / 1234
    largest = max(abs(gap) / n for gap, n in bins if n)
    rms = math.sqrt(sum(gap**2 / n for gap, n in bins if n) / 1234)
    assert expected_calibration_error(confidence, correct, n_bins, scheme) == pytest.approx(ece)
    assert max_calibration_error(confidence, correct, n_bins, scheme) == pytest.approx(largest)
    assert rms_calibration_error(confidence, correct, n_bins, scheme) == pytest.approx(rms)


def test_torchmetrics_agrees_below_confidence_one():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    confidence, correct = sample(5000, gap=0.05)
    for norm_name, ours in (
        ("l1", expected_calibration_error),
        ("max", max_calibration_error),
        ("l2", rms_calibration_error),
    ):
        theirs = functional.binary_calibration_error(
            torch.from_numpy(confidence), torch.from_numpy(correct).int(), 15, norm_name
        )
        assert ours(confidence, correct, 15, "equal_width") == pytest.approx(
            float(theirs), abs=1e-6
        )


def test_netcal_agrees():
    confidence_metrics = pytest.importorskip("netcal.metrics")
    confidence, correct = sample(5000, gap=0.05)
    for theirs, ours in (
        (confidence_metrics.ECE, expected_calibration_error),
        (confidence_metrics.MCE, max_calibration_error),
    ):
        value = theirs(15).measure(confidence, correct.astype(int))
        assert ours(confidence, correct, 15, "equal_width") == pytest.approx(value, abs=1e-9)


def test_confidence_one_belongs_to_the_last_bin():
    # 21 wrong of 40 at exactly 1 and .95: one bin, whose gap is not split.
    confidence = np.array([1.0] * 20 + [0.95] * 20)
    correct = np.array([True] * 20 + [False] * 20)
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.475)
    np.testing.assert_array_equal(assign_bins(np.array([0, 1.0]), 15, "equal_width"), [0, 14])


def test_bins_are_closed_on_the_right():
    bins = assign_bins(np.array([0.25, 0.5, 0.75, 0.750001]), 4, "equal_width")
    np.testing.assert_array_equal(bins, [0, 1, 2, 3])


def test_ties_share_a_bin():
    bins = assign_bins(np.array([0.2, 0.9, 0.9, 0.9, 0.9, 0.95]), 3, "equal_mass")
    assert len(set(bins[1:5])) == 1


def test_fewer_rows_than_bins():
    confidence, correct = np.array([0.9, 0.6]), np.array([True, False])
    for scheme in ("equal_width", "equal_mass"):
        error = expected_calibration_error(confidence, correct, 100, scheme)
        assert error == pytest.approx((0.1 + 0.6) / 2)


def test_debiased_error_by_brute_force():
    confidence, correct = sample(300, gap=0.1)
    index = assign_bins(confidence, 5, "equal_mass")
    gap = confidence - correct
    total = 0.0
    for b in range(5):
        d = gap[index == b]
        products = np.outer(d, d)
        total += (products.sum() - np.trace(products)) / (len(d) - 1)
    result = debiased_calibration_error(confidence, correct, 5)
    assert result.squared == pytest.approx(total / 300)
    assert result.root == pytest.approx(math.copysign(math.sqrt(abs(total / 300)), total))
    assert result.squared_low < result.squared < result.squared_high
    assert result.low <= result.root <= result.high


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_debiased_error_is_unbiased_with_the_right_variance(gap):
    confidence = np.random.default_rng(0).uniform(0.3, 0.9, size=400)
    rng = np.random.default_rng(1)
    results = [
        debiased_calibration_error(confidence, rng.random(400) < confidence - gap, 10)
        for _ in range(1500)
    ]
    values = np.array([result.squared for result in results])
    spread = values.std()
    assert values.mean() == pytest.approx(gap**2, abs=4 * spread / math.sqrt(1500))
    variances = np.mean([result.standard_error**2 for result in results])
    # On the side of caution at gap 0, where a positive part of the estimate adds variance.
    assert 0.95 * spread < math.sqrt(variances) < 1.2 * spread


def test_debiased_error_without_a_pair_is_nan():
    assert math.isnan(debiased_calibration_error([0.2, 0.9], [0, 1], 2).squared)


def test_ks_error_by_brute_force():
    confidence, correct = sample(200, gap=0.1)
    confidence = confidence.round(2)
    cumulative = [(confidence - correct)[confidence <= t].sum() / 200 for t in confidence]
    assert ks_calibration_error(confidence, correct) == pytest.approx(np.abs(cumulative).max())


@pytest.mark.parametrize("test", [ks_calibration_test, spiegelhalter_test])
def test_p_values_are_uniform_under_calibration(test):
    p_values = np.array([test(*sample(1000, seed)).p_value for seed in range(1500)])
    for level in (0.05, 0.2, 0.5):
        assert (p_values < level).mean() == pytest.approx(level, abs=0.045)


@pytest.mark.parametrize("test", [ks_calibration_test, spiegelhalter_test])
def test_power_against_overconfidence(test):
    assert test(*sample(3000, gap=0.05)).p_value < 1e-6


def test_spiegelhalter_by_hand():
    confidence, correct = np.array([0.9, 0.6]), np.array([1, 0])
    z = (0.1 * -0.8 + -0.6 * -0.2) / math.sqrt(0.64 * 0.09 + 0.04 * 0.24)
    result = spiegelhalter_test(confidence, correct)
    assert result.statistic == pytest.approx(z)
    assert result.p_value == pytest.approx(2 * norm.sf(abs(z)))


def test_brownian_maximum_series_agree():
    from benchmark.statistics.calibration_tests import _exceed_brownian_maximum

    assert _exceed_brownian_maximum(1 - 1e-9) == pytest.approx(_exceed_brownian_maximum(1 + 1e-9))
    assert _exceed_brownian_maximum(2.2414) == pytest.approx(0.05, abs=1e-4)
    assert _exceed_brownian_maximum(0) == 1.0


@pytest.mark.parametrize(("correct", "p_value"), [([1, 1, 0], 1.0), ([1, 0, 0], 0.0)])
def test_certain_confidences(correct, p_value):
    assert ks_calibration_test([1.0, 1.0, 0.0], correct).p_value == p_value
    assert spiegelhalter_test([1.0, 1.0, 0.0], correct).p_value == p_value


class TestSmoothEce:
    def test_mass_at_one_is_kept(self):
        confidence = np.concatenate([np.ones(900), np.full(100, 0.5)])
        correct = np.concatenate([np.ones(900), np.zeros(100)])
        assert smooth_ece(confidence, correct) == pytest.approx(0.05, abs=1e-9)

    @pytest.mark.parametrize("concentration", [(2, 2), (6, 3)])
    def test_relplot_agrees_away_from_the_ends(self, concentration):
        relplot = pytest.importorskip("relplot")
        rng = np.random.default_rng(0)
        confidence = rng.beta(*concentration, size=20_000)
        correct = rng.random(20_000) < confidence + 0.1 * np.sin(8 * confidence)
        theirs = relplot.smECE(confidence, correct.astype(float))
        assert smooth_ece(confidence, correct) == pytest.approx(theirs, abs=1e-3)

    def test_reflected_kernel_by_brute_force(self):
        rng = np.random.default_rng(0)
        confidence = np.concatenate([rng.beta(8, 2, size=150), np.ones(50)])
        correct = rng.random(200) < confidence**2
        gap = confidence - correct
        grid = (np.arange(1000) + 0.5) / 1000

        def error(bandwidth):
            images = [s * confidence + 2 * k for k in range(-1, 2) for s in (-1, 1)]
            kernel = sum(norm.pdf(grid[:, None], image, bandwidth) for image in images)
            return float(np.abs(kernel @ gap).mean() / 200)

        low, high = 0.0, 1.0
        for _ in range(16):
            middle = (low + high) / 2
            low, high = (middle, high) if error(middle) > middle else (low, middle)
        assert smooth_ece(confidence, correct) == pytest.approx(error(low), abs=1e-4)


def test_sums_stay_exact_for_many_rows():
    n = 10_000_000
    confidence = np.full(n, 0.7, np.float32)
    correct = np.arange(n) % 10 < 6
    expected = float(np.float32(0.7)) - 0.6
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("function", ERRORS)
class TestBadInput:
    def test_shapes(self, function):
        with pytest.raises(ValueError, match="one length"):
            function([0.5, 0.5], [1])
        with pytest.raises(ValueError, match="no rows"):
            function([], [])

    @pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
    def test_confidence_out_of_range_names_the_row(self, function, value):
        with pytest.raises(ValueError, match="row 1: confidence"):
            function([0.5, value, 0.5], [1, 0, 1])

    def test_outcome_out_of_range_names_the_row(self, function):
        with pytest.raises(ValueError, match="row 2: correct is 2"):
            function([0.5, 0.5, 0.5], [1, 0, 2])


def test_bad_bins():
    with pytest.raises(ValueError, match="n_bins"):
        expected_calibration_error([0.5], [1], 0)
    with pytest.raises(ValueError, match="equal_mass"):
        expected_calibration_error([0.5], [1], 5, "quantile")


rows = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


class TestProperties:
    @settings(max_examples=80, deadline=None)
    @given(rows, st.integers(1, 120), st.sampled_from(["equal_width", "equal_mass"]), st.randoms())
    def test_binned_errors(self, pairs, n_bins, scheme, random):
        confidence, correct = map(np.array, zip(*pairs, strict=True))
        ece = expected_calibration_error(confidence, correct, n_bins, scheme)
        rms = rms_calibration_error(confidence, correct, n_bins, scheme)
        largest = max_calibration_error(confidence, correct, n_bins, scheme)
        gap = abs(float((confidence - correct).mean()))
        assert 0 <= ece <= 1
        assert gap - 1e-9 <= ece <= rms + 1e-9
        assert rms <= largest + 1e-9
        random.shuffle(pairs)
        confidence, correct = map(np.array, zip(*pairs, strict=True))
        assert expected_calibration_error(confidence, correct, n_bins, scheme) == pytest.approx(ece)

    @settings(max_examples=60, deadline=None)
    @given(rows, st.randoms())
    def test_errors_without_bins(self, pairs, random):
        confidence, correct = map(np.array, zip(*pairs, strict=True))
        ks, smooth = ks_calibration_error(confidence, correct), smooth_ece(confidence, correct)
        gap = abs(float((confidence - correct).mean()))
        assert gap - 1e-9 <= ks <= 1
        assert gap - 1e-9 <= smooth <= np.abs(confidence - correct).mean() + 1e-9
        random.shuffle(pairs)
        confidence, correct = map(np.array, zip(*pairs, strict=True))
        assert ks_calibration_error(confidence, correct) == pytest.approx(ks)
        assert smooth_ece(confidence, correct) == pytest.approx(smooth)


@given(st.integers(2, 60), st.integers(1, 16), st.floats(1e-4, 1))
@example(18, 13, 0.002738500170148095)
def test_rows_that_are_all_off_by_the_same_have_an_interval(n: int, bins: int, gap: float) -> None:
    """The variance of the gaps is then 0, and by rounding may come out below it."""
    sums = debiased_sums(np.full(n, gap), np.arange(n) % bins, bins)
    if math.isnan(sums.squared):  # no bin has two rows
        return
    assert sums.variance_slope >= 0
    found = sums.interval()
    assert 0 <= found.standard_error < 1e-6
    assert found.root == pytest.approx(gap, rel=1e-6)
