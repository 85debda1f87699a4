"""Post-hoc maps: right maps, right limits, real logits, and agreement with the peers."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit

from benchmark.statistics.affine_maps import DirichletCalibration, VectorScaling
from benchmark.statistics.calibrators import FOLDS, MAPS, cross_validated_nll, fit_maps
from benchmark.statistics.logit_arrays import check_rows
from benchmark.statistics.map_scores import score_other_maps
from benchmark.statistics.one_vs_rest import BetaCalibration, HistogramBinning, IsotonicCalibration
from benchmark.statistics.scaling_maps import EnsembleTemperatureScaling, TemperatureScaling
from benchmark.statistics.temperature import fit_temperature

LOGITS = Path(__file__).parents[1].parent / "shared" / "data" / "logits"
FILES = ["c10_resnet110", "c10_resnet50_cross_entropy"]
needs_logits = pytest.mark.skipif(not LOGITS.is_dir(), reason=f"no published logits in {LOGITS}")
CHANGING = [name for name in MAPS if name != "none"]
MULTICLASS = [name for name in CHANGING if MAPS[name].classes == "any"]


def sample(n, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes))
    labels = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def nll(log_probabilities, labels):
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize(
    ("name", "n_classes"), [*((name, 4) for name in MULTICLASS), *((n, 2) for n in CHANGING)]
)
def test_probabilities_and_improvement_on_new_rows(name, n_classes):
    fitted = MAPS[name]().fit(*sample(4000, n_classes))
    logits, labels = sample(4000, n_classes, seed=1)
    result = fitted(logits)
    assert result.shape == logits.shape
    assert result.dtype == np.float64
    np.testing.assert_allclose(np.exp(result).sum(axis=1), 1)
    assert nll(result, labels) < nll(np.log(softmax(logits, axis=1)), labels)


@needs_logits
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", [n for n in MULTICLASS if n not in ("dirichlet", "histogram")])
def test_real_logits(file, name):
    data = np.load(LOGITS / f"{file}.npz")
    fitted = MAPS[name]().fit(data["val_logits"], data["val_labels"])
    scaled = TemperatureScaling().fit(data["val_logits"], data["val_labels"])
    labels = data["test_labels"]
    loss = nll(fitted(data["test_logits"]), labels)
    assert loss < 1.05 * nll(scaled(data["test_logits"]), labels)


@needs_logits
def test_real_logits_dirichlet_and_histogram():
    data = np.load(LOGITS / "c10_resnet110.npz")
    for calibrator in (DirichletCalibration(), HistogramBinning()):
        fitted = calibrator.fit(data["val_logits"], data["val_labels"])
        assert nll(fitted(data["test_logits"]), data["test_labels"]) < 0.358


def test_temperature_scaling_is_the_fit():
    logits, labels = sample(500, 3)
    fitted = TemperatureScaling().fit(logits, labels)
    expected = softmax(logits / fit_temperature(logits, labels).temperature, axis=1)
    np.testing.assert_allclose(np.exp(fitted(logits)), expected)


def test_ensemble_weights_are_optimal():
    logits, labels = sample(800, 3)
    labels[:80] = (labels[:80] + 1) % 3  # label noise, which the uniform part absorbs
    fitted = EnsembleTemperatureScaling().fit(logits, labels)
    assert fitted.weights.sum() == pytest.approx(1)
    best = nll(fitted(logits), labels)
    assert best <= nll(TemperatureScaling().fit(logits, labels)(logits), labels) + 1e-12
    weights = fitted.weights
    for other in np.eye(3):
        fitted.weights = 0.99 * weights + 0.01 * other
        assert nll(fitted(logits), labels) >= best - 1e-9
    np.testing.assert_array_equal(fitted(logits).argmax(axis=1), logits.argmax(axis=1))


def test_vector_scaling_recovers_weights_and_intercepts():
    rng = np.random.default_rng(0)
    logits = np.log(softmax(rng.normal(scale=2, size=(60_000, 3)), axis=1))
    weights, bias = np.array([0.5, 1.0, 1.5]), np.array([0.4, 0.0, -0.4])
    labels = (logits * weights + bias + rng.gumbel(size=logits.shape)).argmax(axis=1)
    fitted = VectorScaling().fit(logits, labels)
    np.testing.assert_allclose(fitted.weight, weights, atol=0.03)
    np.testing.assert_allclose(fitted.bias - fitted.bias.mean(), bias, atol=0.03)


def test_unregularised_dirichlet_is_multinomial_regression_on_log_probabilities():
    logits, labels = sample(3000, 3)
    ours = DirichletCalibration(regularisation=0.0).fit(logits, labels)(logits)
    features = np.log(softmax(logits, axis=1))
    theirs = LogisticRegression(C=np.inf, tol=1e-8, max_iter=5000).fit(features, labels)
    expected = theirs.predict_log_proba(features)
    assert nll(ours, labels) == pytest.approx(nll(expected, labels), abs=1e-6)


def test_bias_corrected_temperature_is_the_minimum_over_all_its_parameters():
    """Against a general minimiser that knows nothing of gradients or of log-probabilities."""
    logits, labels = sample(2000, 3)
    logits = logits + np.array([0.0, 1.0, -1.0])

    def loss(parameters):
        return nll(log_softmax(logits * parameters[0] + [0, *parameters[1:]], axis=1), labels)

    best = minimize(loss, [1.0, 0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6}).x
    fitted = MAPS["bias_corrected_temperature"]().fit(logits, labels)
    assert nll(fitted(logits), labels) == pytest.approx(loss(best), abs=1e-6)
    assert fitted.weight[0] == pytest.approx(best[0], abs=5e-3)
    np.testing.assert_allclose((fitted.bias - fitted.bias[0])[1:], best[1:], atol=5e-3)


def test_strong_regularisation_leaves_vector_scaling():
    logits, labels = sample(2000, 3)
    fitted = DirichletCalibration(regularisation=1e6).fit(logits, labels)
    assert np.abs(fitted.weight[~np.eye(3, dtype=bool)]).max() < 1e-4


class TestBeta:
    def test_recovers_its_own_family(self):
        rng = np.random.default_rng(0)
        probability = rng.uniform(0.02, 0.98, size=50_000)
        truth = expit(0.5 * np.log(probability) - 1.5 * np.log1p(-probability) + 0.3)
        labels = (rng.random(50_000) < truth).astype(int)
        logits = np.column_stack([np.zeros(50_000), logit(probability)])
        fitted = BetaCalibration().fit(logits, labels)
        np.testing.assert_allclose(fitted.weights, [0.5, 1.5], atol=0.06)
        np.testing.assert_allclose(np.exp(fitted(logits)[:, 1]), truth, atol=0.02)

    def test_negative_weight_is_dropped(self):
        rng = np.random.default_rng(0)
        probability = rng.uniform(0.02, 0.98, size=5000)
        truth = expit(-1.0 * np.log(probability) - 2.0 * np.log1p(-probability) - 2)
        labels = (rng.random(5000) < truth).astype(int)
        logits = np.column_stack([np.zeros(5000), logit(probability)])
        fitted = BetaCalibration().fit(logits, labels)
        assert fitted.weights[0] == 0
        assert fitted.weights[1] > 0

    def test_refuses_more_classes_and_one_sided_labels(self):
        with pytest.raises(ValueError, match="two classes, got 3"):
            BetaCalibration().fit(*sample(20, 3))
        with pytest.raises(ValueError, match="both classes"):
            BetaCalibration().fit([[1.0, 0], [0, 1]], [1, 1])


def test_isotonic_is_monotone_and_never_certain():
    logits, labels = sample(1000, 2)
    fitted = IsotonicCalibration().fit(logits, labels)
    order = np.argsort(logits[:, 1] - logits[:, 0])
    positive = np.exp(fitted(logits)[order, 1])
    assert (np.diff(positive) >= -1e-12).all()
    assert positive.min() >= 1 / 1002 - 1e-12


def test_histogram_by_hand():
    logits = np.array([[0.0, x] for x in (-3, -2, -1, 1, 2, 3)])
    fitted = HistogramBinning(2).fit(logits, [0, 1, 0, 1, 1, 0])
    positive = np.exp(fitted(logits)[:, 1])
    np.testing.assert_allclose(positive, [1 / 3] * 3 + [2 / 3] * 3)


def test_histogram_with_ties_and_more_bins_than_rows():
    fitted = HistogramBinning(50).fit([[0.0, 1], [0, 1], [0, 1]], [1, 0, 1])
    np.testing.assert_allclose(np.exp(fitted([[0.0, 1.0], [0.0, 9.0]])[:, 1]), 2 / 3)


def test_a_masked_class_stays_masked():
    logits, labels = sample(500, 3)
    masked = np.column_stack([logits, np.full(500, -np.inf)])
    for name in ("temperature", "ensemble_temperature", "vector"):
        probability = np.exp(MAPS[name]().fit(masked, labels)(masked))
        assert np.isfinite(probability).all(), name


@pytest.mark.parametrize("name", CHANGING)
def test_bad_input_names_the_row(name):
    logits, labels = sample(20, 2)
    logits[6, 1] = np.nan
    with pytest.raises(ValueError, match="row 6"):
        MAPS[name]().fit(logits, labels)


class TestFitMaps:
    def test_cross_validated_nll_against_scikit_learns_folds(self):
        """Folds deal out the rows of each class in turn; every row is scored once, held out."""
        logits, labels = sample(300, 3)
        rows = check_rows(logits, labels)
        fold = np.empty(300, int)
        fold[np.argsort(labels, kind="stable")] = np.arange(300) % FOLDS
        losses = np.empty(300)
        for train, test in PredefinedSplit(fold).split():
            fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=5000)
            fit.fit(np.log(softmax(logits, axis=1))[train], labels[train])
            expected = fit.predict_log_proba(np.log(softmax(logits, axis=1))[test])
            losses[test] = -expected[np.arange(len(test)), labels[test]]
        unpenalised = copy.copy(DirichletCalibration(0.0).fit(logits, labels))
        found = cross_validated_nll(unpenalised, rows)
        assert found == pytest.approx(losses.mean(), abs=1e-4)

    @pytest.mark.parametrize(
        ("n", "n_classes", "labels", "reasons"),
        [
            (40, 3, None, {"beta": "two classes only, not 3", "histogram": "45 parameters for 40"}),
            (300, 3, [0, 1] * 150, {"vector": "needs two rows of every class; 1 have fewer"}),
            (600, 101, None, {"isotonic": "at most 100; there are 101"}),
            (90, 10, None, {"dirichlet": "110 parameters for 90 calibration rows"}),
        ],
    )
    def test_what_cannot_be_fitted_says_why(self, n, n_classes, labels, reasons):
        logits, drawn = sample(n, n_classes)
        drawn[: 2 * n_classes] = np.arange(2 * n_classes) % n_classes
        found = fit_maps(check_rows(logits, drawn if labels is None else labels))
        for name, reason in reasons.items():
            assert reason in found.unsuitable[name]
            assert name not in found.fitted
        assert list(found.fitted)[:2] == ["none", "temperature"]
        assert found.fitted.keys() | found.unsuitable.keys() == MAPS.keys()

    def test_gain_against_a_bootstrap_that_scores_every_resample(self):
        rng = np.random.default_rng(0)
        logits, labels = sample(900, 3)
        skewed = (logits + np.array([0.0, 1.5, -1.5])).astype(np.float32)
        maps = fit_maps(check_rows(skewed[:400], labels[:400]))
        found = score_other_maps(skewed[400:], labels[400:], maps).differences["vector"]["nll"]
        losses = [
            -maps.fitted[name](skewed[400:])[np.arange(500), labels[400:]]
            for name in ("vector", "temperature")
        ]
        difference = losses[0] - losses[1]
        drawn = rng.integers(0, 500, (2000, 500))
        spread = difference[drawn].mean(axis=1).std()
        assert found.value == pytest.approx(difference.mean(), abs=1e-9)
        assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
        assert found.high < 0  # the error is of the kind that an intercept for each class mends


class TestPeers:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (TemperatureScaling, "temperature_scaling.TemperatureScalingCalibrator"),
            (VectorScaling, "logistic.VectorScalingCalibrator"),
        ],
    )
    def test_probmetrics(self, ours, theirs):
        module, name = theirs.split(".")
        calibrators = pytest.importorskip(f"probmetrics.calibrators.{module}")
        logits, labels = sample(3000, 4)
        probabilities = softmax(logits, axis=1)
        expected = getattr(calibrators, name)().fit(probabilities, labels)
        reached = nll(ours().fit(logits, labels)(logits), labels)
        reference = nll(np.log(expected.predict_proba(probabilities)), labels)
        assert reached <= reference + 1e-6
        assert reached == pytest.approx(reference, abs=2e-3)

    def test_netcal_isotonic(self):
        binning = pytest.importorskip("netcal.binning")
        logits, labels = sample(2000, 2)
        positive = softmax(logits, axis=1)[:, 1]
        theirs = binning.IsotonicRegression().fit(positive, labels).transform(positive)
        ours = np.exp(IsotonicCalibration().fit(logits, labels)(logits)[:, 1])
        inside = (theirs > 0.01) & (theirs < 0.99)
        np.testing.assert_allclose(ours[inside], np.asarray(theirs)[inside], atol=1e-6)
