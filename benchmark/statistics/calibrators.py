"""Post-hoc calibration maps beside the temperature, behind one small interface.

Fit on the logits of the calibration split, call on others: `fit(logits, labels)` returns the map
itself and `map(logits)` gives log-probabilities. scipy and scikit-learn do the optimisation.
Temperature scaling stays the default and the headline; these say whether more parameters would have
helped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
from scipy.special import log_expit, log_softmax, logsumexp

from benchmark.arrays import Float64Array, IntArray
from benchmark.statistics.calibration_error import equal_mass_edges
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.temperature import TemperatureFit, fit_temperature, log_probabilities


class Calibrator(Protocol):
    """A map from logits to calibrated log-probabilities."""

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit to logits [n, K] and labels [n]; raises ValueError naming the first bad row."""
        ...

    def __call__(self, logits: Logits) -> Float64Array:
        """Return log-probabilities, float64 [n, K]; each row sums to 1 in probability."""
        ...


class TemperatureScaling:
    """softmax(z / T) (Guo et al. 2017). Keeps every prediction."""

    fitted: TemperatureFit

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit one parameter."""
        self.fitted = fit_temperature(logits, labels)
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, K]."""
        return log_probabilities(logits, self.fitted.temperature)


class EnsembleTemperatureScaling:
    """A mixture of softmax(z / T), softmax(z) and the uniform distribution (Zhang et al. 2020).

    "Mix-n-Match: Ensemble and Compositional Methods for Uncertainty Calibration". T as in
    temperature scaling; the weights are a convex problem. Keeps every prediction.
    """

    # Keeps the logarithm finite when the label's probability underflows in one part.
    least_weight = 1e-9

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit three weights given the temperature."""
        from scipy.optimize import minimize  # slow to import, and seldom needed

        rows = check_rows(logits, labels)
        self.temperature = fit_temperature(logits, labels).temperature
        at_label = np.arange(rows.n_rows), rows.labels
        parts = np.exp([part[at_label] for part in self._parts(logits)])

        def objective(weights: Float64Array) -> tuple[float, Float64Array]:
            mixed = weights @ parts
            return float(-np.log(mixed).mean()), -(parts / mixed).mean(axis=1)

        found = minimize(
            objective,
            np.full(3, 1 / 3),
            jac=True,
            method="SLSQP",
            bounds=[(self.least_weight, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-12},
        )
        self.weights = found.x / found.x.sum()
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, K]."""
        weighted = np.log(self.weights)[:, None, None] + np.array(self._parts(logits))
        return np.asarray(logsumexp(weighted, axis=0), np.float64)

    def _parts(self, logits: Logits) -> list[Float64Array]:
        temperatures = (self.temperature, 1.0, math.inf)
        return [log_probabilities(logits, temperature) for temperature in temperatures]


class DirichletCalibration:
    """softmax(W log softmax(z) + b), regularised off the diagonal and in the intercepts.

    Kull et al. 2019, "Beyond temperature scaling: obtaining well-calibrated multi-class
    probabilities with Dirichlet calibration". The same family as matrix scaling. May change
    predictions.

    Args:
        regularisation: Of the mean squared off-diagonal weights and of the mean squared intercepts.
    """

    def __init__(self, regularisation: float = 1e-2) -> None:
        self.regularisation = regularisation

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit K * K + K parameters."""
        n_classes = check_rows(logits, labels).n_classes
        free = np.ones((n_classes, n_classes), bool)
        self.weight, self.bias = _fit_affine(logits, labels, free, self.regularisation)
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, K]."""
        scores = _finite_log_probabilities(logits) @ self.weight + self.bias
        return np.asarray(log_softmax(scores, axis=1), np.float64)


class VectorScaling(DirichletCalibration):
    """softmax(w * log softmax(z) + b), one weight and intercept a class (Guo et al. 2017).

    On log-probabilities rather than logits, so that a constant added to a row changes nothing. May
    change predictions.
    """

    def __init__(self) -> None:
        super().__init__(regularisation=0.0)

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit 2 K parameters."""
        n_classes = check_rows(logits, labels).n_classes
        free = np.eye(n_classes, dtype=bool)
        self.weight, self.bias = _fit_affine(logits, labels, free, self.regularisation)
        return self


def _finite_log_probabilities(logits: Logits) -> Float64Array:
    # A masked class must not turn 0 * inf into NaN; e^-700 is as good as 0.
    return np.maximum(log_probabilities(logits), -700.0)


def _fit_affine(
    logits: Logits, labels: Labels, free: np.ndarray[Any, np.dtype[np.bool_]], regularisation: float
) -> tuple[Float64Array, Float64Array]:
    """Minimise NLL plus penalty over the free weights, from the identity."""
    from scipy.optimize import minimize  # slow to import, and seldom needed

    features = _finite_log_probabilities(logits)
    answers = check_rows(logits, labels).labels
    n, n_classes = features.shape
    off_diagonal = free & ~np.eye(n_classes, dtype=bool)
    n_weights, n_off_diagonal = int(free.sum()), max(int(off_diagonal.sum()), 1)

    def unpack(parameters: Float64Array) -> tuple[Float64Array, Float64Array]:
        weight = np.zeros((n_classes, n_classes))
        weight[free] = parameters[:n_weights]
        return weight, parameters[n_weights:]

    def objective(parameters: Float64Array) -> tuple[float, Float64Array]:
        weight, bias = unpack(parameters)
        log_probability = log_softmax(features @ weight + bias, axis=1)
        error = np.exp(log_probability)
        error[np.arange(n), answers] -= 1
        pulled = np.where(off_diagonal, weight, 0)
        penalty = (pulled**2).sum() / n_off_diagonal + (bias**2).mean()
        loss = -log_probability[np.arange(n), answers].mean() + regularisation * penalty
        weight_slope = features.T @ error / n + 2 * regularisation * pulled / n_off_diagonal
        bias_slope = error.mean(axis=0) + 2 * regularisation * bias / n_classes
        return float(loss), np.concatenate([weight_slope[free], bias_slope])

    start = np.concatenate([np.eye(n_classes)[free], np.zeros(n_classes)])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return unpack(found.x)


class BetaCalibration:
    """logit q = a log p - b log(1 - p) + c with a, b >= 0, for two classes (Kull et al. 2017).

    "Beta calibration: a well-founded and easily implemented improvement on logistic calibration for
    binary classifiers". A negative weight is refitted without its term, as the paper does.
    """

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit three parameters.

        Raises:
            ValueError: There are not two classes, or only one among the labels.
        """
        rows = check_rows(logits, labels)
        if rows.n_classes != 2:
            raise ValueError(f"beta calibration needs two classes, got {rows.n_classes}")
        if len(np.unique(rows.labels)) < 2:
            raise ValueError("beta calibration needs labels of both classes")
        features = self._features(logits)
        used = np.array([True, True])
        weights, intercept = self._logistic(features, rows.labels, used)
        if (weights < 0).any():
            used[int(weights.argmin())] = False
            weights, intercept = self._logistic(features, rows.labels, used)
        self.weights, self.intercept = np.maximum(weights, 0), intercept
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, 2]."""
        score = self._features(logits) @ self.weights + self.intercept
        result: Float64Array = np.column_stack([log_expit(-score), log_expit(score)])
        return result

    @staticmethod
    def _features(logits: Logits) -> Float64Array:
        return _finite_log_probabilities(logits)[:, ::-1] * np.array([1.0, -1.0])  # type: ignore[no-any-return]

    @staticmethod
    def _logistic(
        features: Float64Array, labels: IntArray, used: np.ndarray[Any, np.dtype[np.bool_]]
    ) -> tuple[Float64Array, float]:
        from sklearn.linear_model import LogisticRegression  # slow to import

        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        model.fit(features[:, used], labels)
        weights = np.zeros(2)
        weights[used] = model.coef_[0]
        return weights, float(model.intercept_[0])


class _OneVsRest:
    """Recalibrates the probability of each class alone and normalises (Zadrozny & Elkan 2002).

    With two classes only that of class 1 is fitted. Probabilities are kept at least 1 / (n + 2), n
    rows having been fitted: a bin without errors is no proof, and one log 0 would spoil the mean
    NLL.
    """

    def _fit_one(
        self, probability: Float64Array, positive: Float64Array
    ) -> Callable[[Float64Array], Float64Array]:
        raise NotImplementedError

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit one function a class (one in all if K = 2)."""
        rows = check_rows(logits, labels)
        probabilities = np.exp(log_probabilities(logits))
        classes = [1] if rows.n_classes == 2 else range(rows.n_classes)
        self.floor = 1 / (rows.n_rows + 2)
        self.maps = [
            self._fit_one(probabilities[:, k], (rows.labels == k).astype(np.float64))
            for k in classes
        ]
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, K]."""
        probabilities = np.exp(log_probabilities(logits))
        if len(self.maps) == 1:
            positive = np.clip(self.maps[0](probabilities[:, 1]), self.floor, 1 - self.floor)
            return np.log(np.column_stack([1 - positive, positive]))
        mapped = np.column_stack([one(probabilities[:, k]) for k, one in enumerate(self.maps)])
        mapped = np.maximum(mapped, self.floor)
        return np.asarray(np.log(mapped / mapped.sum(axis=1, keepdims=True)))


class IsotonicCalibration(_OneVsRest):
    """Isotonic regression of each class's probability (Zadrozny & Elkan 2002).

    May change predictions.
    """

    def _fit_one(
        self, probability: Float64Array, positive: Float64Array
    ) -> Callable[[Float64Array], Float64Array]:
        from sklearn.isotonic import IsotonicRegression  # slow to import

        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return model.fit(probability, positive).predict  # type: ignore[no-any-return]


class HistogramBinning(_OneVsRest):
    """The observed frequency in equal-mass bins of each class's probability.

    Zadrozny & Elkan 2001. May change predictions.

    Args:
        n_bins: At least 1.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = n_bins

    def _fit_one(
        self, probability: Float64Array, positive: Float64Array
    ) -> Callable[[Float64Array], Float64Array]:
        edges = np.unique(equal_mass_edges(probability, self.n_bins))
        index = np.searchsorted(edges, probability)
        count = np.bincount(index, minlength=len(edges) + 1)
        frequency = np.bincount(index, positive, minlength=len(edges) + 1)
        # The last bin is empty if all greater probabilities are tied with the last edge.
        height: Float64Array = np.where(
            count > 0, frequency / np.maximum(count, 1), positive.mean()
        ).astype(np.float64)
        return lambda values: np.asarray(height[np.searchsorted(edges, values)])


CALIBRATORS: dict[str, Callable[[], Calibrator]] = {
    "temperature": TemperatureScaling,
    "ensemble_temperature": EnsembleTemperatureScaling,
    "vector_scaling": VectorScaling,
    "dirichlet": DirichletCalibration,
    "isotonic": IsotonicCalibration,
    "histogram": HistogramBinning,
    "beta": BetaCalibration,
}
