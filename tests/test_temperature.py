"""The temperature against float64 references, published figures and invariances."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from benchmark.statistics import Predictions, logit_arrays
from benchmark.statistics.temperature import fit_temperature, log_probabilities

LOGITS = Path(__file__).parents[1].parent / "shared" / "data" / "logits"
needs_logits = pytest.mark.skipif(not LOGITS.is_dir(), reason=f"no published logits in {LOGITS}")


def sample(n, n_classes, seed=0, temperature=1.7, dtype=np.float32):
    """Logits whose best temperature is about `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes)).astype(dtype)
    labels = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def mean_nll(logits, labels, inverse):
    scaled = inverse * np.asarray(logits, np.float64)
    return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))


def optimum(logits, labels, near):
    """Float64 bounded minimum of the NLL over log(1/T), within a factor e of `near`."""
    found = minimize_scalar(
        lambda log_inverse: mean_nll(logits, labels, math.exp(log_inverse)),
        bounds=(-math.log(near) - 1, -math.log(near) + 1),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return found.fun


@pytest.mark.parametrize(("n", "n_classes"), [(10_000, 2), (10_000, 100), (220_000, 5)])
def test_gap_to_float64_optimum(n, n_classes):
    logits, labels = sample(n, n_classes)
    fit = fit_temperature(logits, labels)
    reached = mean_nll(logits, labels, 1 / fit.temperature)
    assert reached - optimum(logits, labels, fit.temperature) <= 1e-9
    assert fit.nll_after == pytest.approx(reached, abs=3e-8)
    assert fit.nll_before == pytest.approx(mean_nll(logits, labels, 1.0), abs=3e-8)
    assert abs(fit.gradient) < 1e-6
    assert fit.status == "converged"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_classes"), [(50_000, 1000), (1_000_000, 2)])
def test_gap_to_float64_optimum_at_scale(n, n_classes):
    logits, labels = sample(n, n_classes)
    fit = fit_temperature(logits, labels)
    gap = mean_nll(logits, labels, 1 / fit.temperature) - optimum(logits, labels, fit.temperature)
    assert gap <= 1e-9


@needs_logits
@pytest.mark.parametrize(
    ("name", "published"), [("c10_resnet110", 2.39501), ("c10_resnet50_cross_entropy", 2.4975)]
)
def test_published_temperature(name, published):
    data = np.load(LOGITS / f"{name}.npz")
    logits, labels = data["val_logits"], data["val_labels"]
    fit = fit_temperature(logits, labels)
    digits = len(str(published).split(".")[1])
    assert round(fit.temperature, digits) == published
    gap = mean_nll(logits, labels, 1 / fit.temperature) - optimum(logits, labels, fit.temperature)
    assert gap <= 1e-9


@needs_logits
def test_logits_times_200():
    data = np.load(LOGITS / "c10_resnet110.npz")
    fit = fit_temperature(data["val_logits"] * 200, data["val_labels"])
    assert fit.temperature == pytest.approx(200 * 2.3950122, rel=1e-6)


def test_temperature_of_about_403():
    logits, labels = sample(20_000, 10, temperature=2.015)
    fit = fit_temperature(logits * 200, labels)
    assert fit.temperature == pytest.approx(200 * fit_temperature(logits, labels).temperature)
    assert fit.temperature == pytest.approx(403, rel=0.03)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 100])
def test_numpy_types(dtype, n_classes):
    logits, labels = sample(3000, n_classes, dtype=dtype)
    expected = fit_temperature(logits.astype(np.float64), labels)
    assert fit_temperature(logits, labels).temperature == pytest.approx(expected.temperature)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_types(dtype):
    logits, labels = sample(3000, 10)
    tensor = torch.from_numpy(logits).to(dtype).requires_grad_()
    expected = fit_temperature(tensor.detach().double().numpy(), labels)
    fit = fit_temperature(tensor, torch.from_numpy(labels))
    assert fit.temperature == pytest.approx(expected.temperature)


def test_non_contiguous():
    logits, labels = sample(2000, 10)
    expected = fit_temperature(logits, labels).temperature
    assert fit_temperature(np.asfortranarray(logits), labels).temperature == pytest.approx(expected)
    wide = np.repeat(logits, 2, axis=1)[:, ::2]
    assert fit_temperature(wide, labels).temperature == pytest.approx(expected)
    assert fit_temperature(
        torch.from_numpy(logits.T.copy()).T, labels
    ).temperature == pytest.approx(expected)
    assert fit_temperature(logits[::-1], labels[::-1]).temperature == pytest.approx(expected)


def test_class_missing_from_the_split():
    logits, labels = sample(4000, 6)
    kept = labels != 3
    fit = fit_temperature(logits[kept], labels[kept])
    reached = mean_nll(logits[kept], labels[kept], 1 / fit.temperature)
    assert reached - optimum(logits[kept], labels[kept], fit.temperature) <= 1e-9


@pytest.mark.parametrize("mask", [-np.inf, -1e9, np.finfo(np.float32).min])
def test_masked_class_counts_for_nothing(mask):
    logits, labels = sample(5000, 5)
    masked = np.column_stack([logits, np.full(len(logits), mask, np.float32)])
    expected = fit_temperature(logits, labels)
    fit = fit_temperature(masked, labels)
    assert fit.status == "converged"
    assert fit.temperature == pytest.approx(expected.temperature, rel=1e-6)
    assert fit.nll_after == pytest.approx(expected.nll_after)


def masked_sample(seed, n_classes, share, mask, *, added=False, dtype=np.float32):
    """Return logits with a share of the wrong classes masked, the same with -inf, and labels."""
    logits, labels = sample(600, n_classes, seed, dtype=dtype)
    masked = np.random.default_rng(seed).random(logits.shape) < share
    masked[np.arange(len(labels)), labels] = False
    with np.errstate(over="ignore"):
        value = logits + dtype(mask) if added else dtype(mask)
    return np.where(masked, value, logits), np.where(masked, -np.inf, logits), labels


class TestFiniteMasks:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.integers(2, 60),
        st.sampled_from([0.001, 0.3, 0.9, 0.995]),
        st.floats(6, 38.53).map(lambda power: -(10.0**power)),
        st.booleans(),
        st.sampled_from([np.float32, np.float64]),
    )
    def test_any_subset_and_value(self, seed, n_classes, share, mask, added, dtype):
        given, open_only, labels = masked_sample(
            seed, n_classes, share, mask, added=added, dtype=dtype
        )
        fit, expected = fit_temperature(given, labels), fit_temperature(open_only, labels)
        assert fit.status == expected.status
        assert fit.temperature == pytest.approx(expected.temperature, rel=1e-6)
        assert fit.nll_after == pytest.approx(expected.nll_after, abs=1e-9)
        assert abs(fit.gradient) < 1e-6

    @pytest.mark.parametrize("mask", [-1e4, -65504, -1e9, np.finfo(np.float32).min])
    @pytest.mark.parametrize("n", [3000, 100_000])
    def test_most_classes_masked_against_the_open_ones_alone(self, n, mask):
        logits, labels = sample(n, 3)
        wide = np.full((n, 40), mask, np.float32)
        wide[:, 7:10] = logits
        fit = fit_temperature(wide, labels + 7)
        found = optimum(logits, labels, 1.7)
        assert fit.status == "converged"
        assert mean_nll(logits, labels, 1 / fit.temperature) - found <= 1e-9
        assert abs(fit.gradient) < 1e-6

    def test_two_masks_and_the_lowest_of_float64(self):
        given, open_only, labels = masked_sample(1, 12, 0.8, np.finfo(np.float64).min, dtype=float)
        given[np.isneginf(open_only) & (np.arange(12) % 2 == 0)] = -1e9
        fit, expected = fit_temperature(given, labels), fit_temperature(open_only, labels)
        assert fit.temperature == pytest.approx(expected.temperature, rel=1e-9)

    def test_label_on_a_mask_is_named(self):
        given, _, labels = masked_sample(2, 6, 0.7, -1e9)
        given[11, labels[11]] = -1e9
        with pytest.raises(ValueError, match=r"row 11: the label \d has logit -1e\+09, a masked"):
            fit_temperature(given, labels)

    def test_limits_are_those_of_the_open_classes(self):
        mask = np.finfo(np.float32).min
        worse_than_chance = np.array([[1, 0, mask], [1, 0, mask]], np.float32)
        fit = fit_temperature(worse_than_chance, [1, 1])
        assert (fit.status, fit.nll_after) == ("at_infinity", pytest.approx(math.log(2)))
        probabilities = np.exp(log_probabilities(worse_than_chance, math.inf))
        np.testing.assert_allclose(probabilities, [[0.5, 0.5, 0]] * 2)
        predictions = Predictions.from_logits(worse_than_chance, [1, 1], math.inf)
        assert predictions.nll.mean() == pytest.approx(fit.nll_after)
        assert fit_temperature([[2, 2, mask], [0, 0, mask]], [0, 1]).status == "flat"

    @pytest.mark.parametrize("size", [1e4, 1e8, 1e15, 1e30])
    def test_saturated_logits_are_no_masks(self, size):
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 4, 2000)
        logits = np.where(np.eye(4)[labels] == 1, size, 0)
        wrong = rng.random(2000) < 0.1
        logits[wrong] = np.roll(logits[wrong], 1, axis=1)
        # In closed form: the right class has odds 9 : 1 against all others.
        error = wrong.mean()
        expected = size / math.log(3 * (1 - error) / error)
        fit = fit_temperature(logits, labels)
        assert fit.temperature == pytest.approx(expected, rel=1e-9)
        assert abs(fit.gradient) < 1e-9

    def test_one_logit_that_ran_away_upwards_is_no_mask(self):
        logits, labels = sample(2000, 5)
        logits[9, (labels[9] + 1) % 5] = 1e7
        assert fit_temperature(logits, labels).status == "at_infinity"
        logits[9, labels[9]] = 2e7
        without = np.delete(logits, 9, axis=0), np.delete(labels, 9)
        expected = fit_temperature(*without).temperature
        assert fit_temperature(logits, labels).temperature == pytest.approx(expected, rel=1e-6)

    def test_no_error_in_the_rows_of_the_warm_start(self):
        rng = np.random.default_rng(4)
        labels = rng.integers(0, 3, 65_536)
        logits = 200 * np.eye(3)[labels]
        labels[3::1600] = (labels[3::1600] + 1) % 3
        fit = fit_temperature(logits, labels)
        error = len(labels[3::1600]) / len(labels)
        assert fit.temperature == pytest.approx(200 / math.log(2 * (1 - error) / error), rel=1e-6)


def test_masked_in_large_blocks():
    logits, labels = sample(30_000, 100)
    logits[:, 7] = -np.inf
    logits, labels = logits[labels != 7], labels[labels != 7]
    without = np.delete(logits, 7, axis=1)
    expected = fit_temperature(without, labels - (labels > 7))
    assert fit_temperature(logits, labels).temperature == pytest.approx(expected.temperature)


class TestLimits:
    def test_at_zero(self):
        fit = fit_temperature([[2.0, 1, 0], [0, 3, 3]], [0, 2])
        assert (fit.status, fit.temperature, fit.gradient) == ("at_zero", 0.0, 0.0)
        assert fit.nll_after == pytest.approx(math.log(2) / 2)

    def test_nearly_separable_is_not_at_zero(self):
        logits = np.array([[3.0, 0.0]] * 999 + [[1e-3, 0.0]])
        fit = fit_temperature(logits, [0] * 999 + [1])
        assert fit.status == "converged"
        reached = mean_nll(logits, [0] * 999 + [1], 1 / fit.temperature)
        assert reached <= optimum(logits, [0] * 999 + [1], fit.temperature) + 1e-12

    def test_at_infinity(self):
        fit = fit_temperature([[2.0, 1, 0], [0, 3, 1]], [2, 0])
        assert (fit.status, fit.temperature) == ("at_infinity", math.inf)
        assert fit.nll_after == pytest.approx(math.log(3))

    def test_balanced_contradiction_is_at_infinity(self):
        assert fit_temperature([[1.0, 0], [1.0, 0]], [0, 1]).status == "at_infinity"

    def test_at_infinity_counts_open_classes_only(self):
        fit = fit_temperature([[1.0, 0, -np.inf], [1.0, 0, -np.inf]], [1, 1])
        assert fit.status == "at_infinity"
        assert fit.nll_after == pytest.approx(math.log(2))

    def test_flat(self):
        fit = fit_temperature(np.full((4, 3), 7.0), [0, 1, 2, 0])
        assert (fit.status, fit.temperature) == ("flat", 1.0)
        assert fit.nll_before == fit.nll_after == pytest.approx(math.log(3))

    @pytest.mark.parametrize(
        ("row", "label", "status"),
        [([2, 1, -5], 0, "at_zero"), ([2, 1, -5], 2, "at_infinity"), ([2, 1, -5], 1, "converged")],
    )
    def test_one_row(self, row, label, status):
        fit = fit_temperature([row], [label])
        assert fit.status == status
        if status == "converged":
            assert fit.nll_after <= optimum([row], [label], fit.temperature) + 1e-12


class TestBadInput:
    logits, labels = sample(50, 3)

    def fails(self, message, logits=None, labels=None):
        with pytest.raises(ValueError, match=message):
            fit_temperature(
                self.logits if logits is None else logits, self.labels if labels is None else labels
            )

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_bad_logit_names_row_and_class(self, value):
        logits = self.logits.copy()
        logits[30, 1] = logits[40, 0] = value
        self.fails(rf"row 30: the logit of class 1 is {value}", logits)

    def test_bad_row_in_a_later_block(self):
        logits, labels = sample(200_000, 3)
        logits[150_001, 2] = np.nan
        self.fails("row 150001", logits, labels)

    def test_all_masked(self):
        logits = self.logits.copy()
        logits[4] = -np.inf
        self.fails("row 4: every logit is -inf", logits)

    def test_label_masked(self):
        logits = self.logits.copy()
        logits[7, self.labels[7]] = -np.inf
        self.fails(f"row 7: the label {self.labels[7]} has logit -inf", logits)

    @pytest.mark.parametrize("label", [-100, 3])
    def test_label_out_of_range(self, label):
        labels = self.labels.copy()
        labels[11] = label
        self.fails(rf"row 11: label {label} is not in 0 \.\.\. 2", labels=labels)

    def test_shapes(self):
        self.fails("at least 2 classes", self.logits[:, :1])
        self.fails("no rows", self.logits[:0], self.labels[:0])
        self.fails("50 rows but labels", labels=self.labels[:-1])
        self.fails(r"shape \[n, K\]", self.logits[:, 0])
        self.fails("integers", labels=self.labels + 0.5)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 7.0, math.inf])
def test_log_probabilities(temperature):
    logits = np.array([[1.0, 3, 3, -np.inf], [5, 1, 0, 2]])
    result = log_probabilities(logits, temperature)
    if 0 < temperature < math.inf:
        np.testing.assert_allclose(result, log_softmax(logits / temperature, axis=1))
    elif temperature == 0:
        np.testing.assert_allclose(np.exp(result), [[0, 0.5, 0.5, 0], [1, 0, 0, 0]])
    else:
        np.testing.assert_allclose(np.exp(result), [[1 / 3] * 3 + [0], [0.25] * 4])


def test_negative_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        log_probabilities([[1.0, 2.0]], -1.0)


seeds = st.integers(0, 2**32 - 1)
class_numbers = st.integers(2, 70)


class TestInvariance:
    @settings(max_examples=25, deadline=None)
    @given(seeds, class_numbers, st.floats(1e-8, 1e8))
    def test_scale(self, seed, n_classes, scale):
        logits, labels = sample(400, n_classes, seed, dtype=np.float64)
        expected = fit_temperature(logits, labels)
        fit = fit_temperature(logits * scale, labels)
        assert fit.status == expected.status
        assert fit.temperature == pytest.approx(scale * expected.temperature, rel=1e-6)

    @settings(max_examples=25, deadline=None)
    @given(seeds, class_numbers)
    def test_order_of_rows_and_classes_and_row_constants(self, seed, n_classes):
        rng = np.random.default_rng(seed)
        logits, labels = sample(400, n_classes, seed, dtype=np.float64)
        expected = fit_temperature(logits, labels).temperature
        rows, classes = rng.permutation(400), rng.permutation(n_classes)
        renamed = np.argsort(classes)[labels]
        shifted = logits + rng.normal(scale=1000, size=(400, 1))
        for variant, answers in (
            (logits[rows], labels[rows]),
            (logits[:, classes], renamed),
            (shifted, labels),
        ):
            assert fit_temperature(variant, answers).temperature == pytest.approx(
                expected, rel=1e-6
            )

    @settings(max_examples=15, deadline=None)
    @given(seeds, st.integers(64, 5000))
    def test_block_size(self, seed, elements):
        logits, labels = sample(500, 7, seed)
        expected = fit_temperature(logits, labels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logit_arrays, "BLOCK_ELEMENTS", elements)
            fit = fit_temperature(logits, labels)
        assert fit.temperature == pytest.approx(expected.temperature, rel=1e-9)

    @settings(max_examples=25, deadline=None)
    @given(seeds, class_numbers, st.floats(0.01, 100))
    def test_argmax_and_ranks_stay(self, seed, n_classes, temperature):
        logits, _ = sample(50, n_classes, seed, dtype=np.float64)
        scaled = log_probabilities(logits, temperature)
        np.testing.assert_array_equal(scaled.argmax(axis=1), logits.argmax(axis=1))


def test_unkept_logits_give_the_same_fit(monkeypatch):
    logits, labels = sample(5000, 10)
    expected = fit_temperature(logits, labels)
    monkeypatch.setattr("benchmark.statistics.temperature.KEPT_ELEMENTS", 0)
    assert fit_temperature(logits, labels) == expected


def test_extra_memory_stays_small():
    import tracemalloc

    logits, labels = sample(9_000, 1000)
    tracemalloc.start()
    fit_temperature(logits, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
