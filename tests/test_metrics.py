"""Point metrics against scikit-learn, torchmetrics, published figures and brute force."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn_metrics

from benchmark.statistics import logit_arrays
from benchmark.statistics.classwise import classwise_ece
from benchmark.statistics.metrics import METRICS, score
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.temperature import fit_temperature
from benchmark.statistics.two_classes import best_f1_threshold, positive_rms_calibration_error

LOGITS = Path(__file__).parents[1].parent / "shared" / "data" / "logits"
needs_logits = pytest.mark.skipif(not LOGITS.is_dir(), reason=f"no published logits in {LOGITS}")
ORDER_DEPENDENT = {"nll_calibration", "nll_refinement", "brier_calibration", "brier_refinement"}


TWO_CLASSES = [name for name, metric in METRICS.items() if metric.two_classes]


def sample(n, n_classes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes)).astype(dtype)
    labels = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


@needs_logits
@pytest.mark.parametrize(
    ("name", "error", "ece", "ece_after", "nll", "nll_after"),
    [
        ("c10_resnet110", 6.44, 0.0475035, 0.0113208, 0.358274, 0.209261),
        ("c10_resnet50_cross_entropy", 4.95, 0.04354, 0.01373, None, None),
    ],
)
def test_published_figures(name, error, ece, ece_after, nll, nll_after):
    data = np.load(LOGITS / f"{name}.npz")
    fit = fit_temperature(data["val_logits"], data["val_labels"])
    test = data["test_logits"], data["test_labels"]
    before, after = Predictions.from_logits(*test), Predictions.from_logits(*test, fit.temperature)

    def digits(published):
        return len(str(published).split(".")[1])

    assert round(100 * (1 - METRICS["accuracy"](before)), 2) == error
    assert METRICS["accuracy"](after) == METRICS["accuracy"](before)
    assert round(METRICS["ece_15"](before), digits(ece)) == ece
    assert round(METRICS["ece_15"](after), digits(ece_after)) == ece_after
    if nll is not None:
        assert round(METRICS["nll"](before), 6) == nll
        assert round(METRICS["nll"](after), 6) == nll_after


@needs_logits
def test_published_figure_at_grid_temperature():
    data = np.load(LOGITS / "c10_resnet50_cross_entropy.npz")
    scored = Predictions.from_logits(data["test_logits"], data["test_labels"], 2.5)
    assert round(METRICS["ece_15"](scored), 5) == 0.01354


@pytest.mark.parametrize("n_classes", [2, 7, 90])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_scikit_learn(n_classes, temperature):
    logits, labels = sample(2000, n_classes)
    scored = Predictions.from_logits(logits, labels, temperature)
    probabilities = softmax(logits / temperature, axis=1)
    predicted = probabilities.argmax(axis=1)
    one_hot = np.eye(n_classes)[labels]
    classes = np.arange(n_classes)
    expected = {
        "nll": sklearn_metrics.log_loss(labels, probabilities, labels=classes),
        "brier": ((probabilities - one_hot) ** 2).sum(axis=1).mean(),
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, probabilities[:, 1])
        if n_classes == 2
        else sklearn_metrics.roc_auc_score(
            labels, probabilities, multi_class="ovr", labels=classes
        ),
        "signed_gap": probabilities.max(axis=1).mean() - (predicted == labels).mean(),
    }
    for name, value in expected.items():
        assert METRICS[name](scored) == pytest.approx(value, abs=1e-12), name


def test_float32_blocks_match_float64():
    logits, labels = sample(30_000, 100, dtype=np.float32)
    scored = Predictions.from_logits(logits, labels, 1.3)
    exact = log_softmax(logits.astype(np.float64) / 1.3, axis=1)
    rows = np.arange(len(labels))
    np.testing.assert_allclose(scored.nll, -exact[rows, labels], atol=2e-6)
    np.testing.assert_allclose(scored.confidence, np.exp(exact.max(axis=1)), atol=5e-7)
    brier = ((np.exp(exact) - np.eye(100)[labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(scored.brier, brier, atol=2e-6)
    assert METRICS["nll"](scored) == pytest.approx(-exact[rows, labels].mean(), abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_torch_types(dtype):
    logits, labels = sample(500, 5)
    tensor = torch.from_numpy(logits).to(dtype)
    expected = score(Predictions.from_logits(tensor.double().numpy(), labels, 2.0))
    assert score(Predictions.from_logits(tensor, torch.from_numpy(labels), 2.0)) == pytest.approx(
        expected, abs=1e-6, nan_ok=True
    )


def test_macro_f1_with_absent_classes():
    logits = np.array([[3.0, 0, 0, 0], [3, 0, 0, 0], [0, 3, 0, 0]])
    scored = Predictions.from_logits(logits, [0, 1, 1])
    expected = sklearn_metrics.f1_score([0, 1, 1], [0, 0, 1], average="macro")
    assert METRICS["macro_f1"](scored) == pytest.approx(expected)


def test_roc_auc_ties_and_single_class():
    logits = np.array([[0.0, 1], [0, 1], [0, 2], [0, 0]])
    scored = Predictions.from_logits(logits, [0, 1, 1, 0])
    assert METRICS["roc_auc"](scored) == sklearn_metrics.roc_auc_score([0, 1, 1, 0], [1, 1, 2, 0])
    assert math.isnan(METRICS["roc_auc"](Predictions.from_logits(logits, [1, 1, 1, 1])))


def test_masked_label_gives_infinite_nll():
    scored = Predictions.from_logits([[0.0, -np.inf], [1.0, 0.0]], [1, 0])
    assert METRICS["nll"](scored) == math.inf
    assert METRICS["brier"](scored) == pytest.approx((2 + 2 * 0.26894142137**2) / 2)


def test_limits_of_temperature():
    logits, labels = [[2.0, 1, 0], [0, 3, 1]], [0, 0]
    sharp = Predictions.from_logits(logits, labels, 0.0)
    np.testing.assert_array_equal(sharp.confidence, [1, 1])
    np.testing.assert_array_equal(sharp.nll, [0, math.inf])
    uniform = Predictions.from_logits(logits, labels, math.inf)
    np.testing.assert_allclose(uniform.confidence, [1 / 3, 1 / 3])
    np.testing.assert_array_equal(uniform.predicted, [0, 1])


def test_classwise_ece_by_brute_force():
    logits, labels = sample(700, 4)
    probabilities = softmax(logits, axis=1)
    total = 0.0
    for k in range(4):
        for b in range(10):
            inside = (probabilities[:, k] > b / 10) & (probabilities[:, k] <= (b + 1) / 10)
            total += abs((probabilities[inside, k] - (labels[inside] == k)).sum())
    scored = Predictions.from_logits(logits, labels)
    assert classwise_ece(scored, 10) == pytest.approx(total / (4 * 700))


def test_aurc_and_augrc_by_brute_force():
    logits, labels = sample(400, 5)
    scored = Predictions.from_logits(logits, labels)
    order = np.argsort(-scored.confidence)
    errors = np.cumsum(~scored.correct[order])
    expected = np.mean(errors / np.arange(1, 401))
    assert METRICS["aurc"](scored) == pytest.approx(expected)
    # Traub et al. 2024, equation for AUGRC in terms of the AUROC of failure detection.
    right = scored.correct.mean()
    failure = sklearn_metrics.roc_auc_score(scored.correct, scored.confidence)
    expected = (1 - failure) * right * (1 - right) + (1 - right) ** 2 / 2
    assert METRICS["augrc"](scored) == pytest.approx(expected)


def test_ties_in_aurc_average_over_orders():
    tied = Predictions.from_logits([[1.0, 0]] * 4, [0, 1, 0, 1])
    assert METRICS["aurc"](tied) == pytest.approx(0.5)
    assert METRICS["augrc"](tied) == pytest.approx(0.25)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_refinement_and_calibration(n_classes):
    logits, labels = sample(5000, n_classes)
    before = Predictions.from_logits(logits, labels)
    after = Predictions.from_logits(logits, labels, fit_temperature(logits, labels).temperature)
    for name in ("nll", "brier"):
        refinement = METRICS[f"{name}_refinement"](before)
        assert METRICS[f"{name}_refinement"](after) == refinement
        assert METRICS[name](before) == pytest.approx(
            refinement + METRICS[f"{name}_calibration"](before)
        )
        assert METRICS[f"{name}_calibration"](before) > 0.01
        assert abs(METRICS[f"{name}_calibration"](after)) < 1e-3


def test_refinement_by_brute_force():
    logits, labels = sample(101, 3)
    fold = np.arange(101) % 5
    losses = np.empty(101)
    for held in range(5):
        fit = fit_temperature(logits[fold != held], labels[fold != held])
        scaled = log_softmax(logits / fit.temperature, axis=1)
        losses[fold == held] = -scaled[np.arange(101), labels][fold == held]
    scored = Predictions.from_logits(logits, labels)
    assert METRICS["nll_refinement"](scored) == pytest.approx(losses.mean())
    assert math.isnan(METRICS["nll_refinement"](Predictions.from_logits(logits[:4], labels[:4])))


class TestBinary:
    def test_positive_rms_calibration_error_by_brute_force(self):
        logits, labels = sample(1000, 2)
        probability = softmax(logits, axis=1)[:, 1]
        order = np.argsort(probability)
        squares = [
            50 * (probability[rows].mean() - labels[rows].mean()) ** 2
            for rows in np.split(order, 20)
        ]
        scored = Predictions.from_logits(logits, labels)
        expected = math.sqrt(sum(squares) / 1000)
        assert positive_rms_calibration_error(scored) == pytest.approx(expected)

    def test_best_f1_threshold_is_the_best(self):
        logits, labels = sample(300, 2)
        probability = softmax(logits, axis=1)[:, 1]
        precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, probability)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = best_f1_threshold(Predictions.from_logits(logits, labels))
        assert best.f1 == pytest.approx(f1.max())
        predicted = probability >= best.threshold - 1e-12
        assert best.f1 == pytest.approx(sklearn_metrics.f1_score(labels, predicted))
        assert best.precision == pytest.approx(sklearn_metrics.precision_score(labels, predicted))
        assert best.recall == pytest.approx(sklearn_metrics.recall_score(labels, predicted))

    def test_no_positive_row(self):
        best = best_f1_threshold(Predictions.from_logits([[1.0, 0], [0, 1]], [0, 0]))
        assert (best.f1, best.threshold) == (0.0, 1.0)

    @pytest.mark.parametrize("name", TWO_CLASSES)
    def test_more_classes_are_refused(self, name):
        with pytest.raises(ValueError, match="two classes, got 3"):
            METRICS[name](Predictions.from_logits(*sample(20, 3)))

    def test_score_includes_them_for_two_classes_only(self):
        assert list(score(Predictions.from_logits(*sample(50, 2)))) == list(METRICS)
        more = score(Predictions.from_logits(*sample(50, 3)))
        assert list(more) == [name for name in METRICS if name not in TWO_CLASSES]


seeds = st.integers(0, 2**32 - 1)


class TestInvariance:
    @settings(max_examples=20, deadline=None)
    @given(seeds, st.integers(2, 12), st.integers(5, 300))
    def test_rows_classes_and_row_constants(self, seed, n_classes, n):
        rng = np.random.default_rng(seed)
        logits, labels = sample(n, n_classes, seed)
        expected = score(Predictions.from_logits(logits, labels, 1.3))
        rows, classes = rng.permutation(n), rng.permutation(n_classes)
        shifted = score(
            Predictions.from_logits(logits + rng.normal(scale=100, size=(n, 1)), labels, 1.3)
        )
        assert shifted == pytest.approx(expected, abs=1e-9, nan_ok=True)
        permuted = score(Predictions.from_logits(logits[rows], labels[rows], 1.3))
        renamed = score(
            Predictions.from_logits(logits[:, classes], np.argsort(classes)[labels], 1.3)
        )
        for name in expected.keys() - set(TWO_CLASSES):
            if name not in ORDER_DEPENDENT:
                assert permuted[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name
            assert renamed[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name

    @settings(max_examples=10, deadline=None)
    @given(seeds, st.integers(32, 3000))
    def test_block_size(self, seed, elements):
        logits, labels = sample(300, 5, seed)
        expected = score(Predictions.from_logits(logits, labels))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logit_arrays, "BLOCK_ELEMENTS", elements)
            assert score(Predictions.from_logits(logits, labels)) == pytest.approx(
                expected, abs=1e-12, nan_ok=True
            )

    @settings(max_examples=20, deadline=None)
    @given(seeds, st.integers(2, 12), st.floats(0.05, 20))
    def test_ranges(self, seed, n_classes, temperature):
        scored = Predictions.from_logits(*sample(60, n_classes, seed), temperature)
        values = score(scored)
        for name in ("accuracy", "macro_f1", "aurc", "classwise_ece", "smooth_ece"):
            assert 0 <= values[name] <= 1, name
        for name in ("ece_15", "ece_100_equal_mass", "max_calibration_error"):
            assert 0 <= values[name] <= 1, name
        assert 0 <= values["brier"] <= 2
        assert 0 <= values["augrc"] <= 0.5
        assert values["nll"] >= 0
        assert (scored.confidence >= 1 / n_classes - 1e-12).all()


def test_classwise_equal_mass_error_against_sorted_chunks():
    """Without ties, bins of equal mass are consecutive chunks of the sorted probabilities."""
    logits, labels = sample(600, 4)
    probabilities = softmax(logits / 1.3, axis=1)
    gaps = []
    for k in range(4):
        order = np.argsort(probabilities[:, k])
        chunks = np.split(probabilities[order, k] - (labels[order] == k), 15)
        gaps.append(np.mean([abs(chunk.mean()) for chunk in chunks]))
    scored = Predictions.from_logits(logits, labels, 1.3)
    assert METRICS["classwise_equal_mass_error"](scored) == pytest.approx(np.mean(gaps), abs=1e-12)


def test_bad_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        Predictions.from_logits(*sample(10, 3), -1.0)
