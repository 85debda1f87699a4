"""Maps that are affine in the log-probabilities, found by minimising the NLL with its gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np
from scipy.special import log_softmax

from benchmark.arrays import Float32Array, Float64Array, FloatArray, IntArray
from benchmark.statistics.calibration_map import CalibrationMap
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.temperature import log_probabilities


def finite_log_probabilities(logits: Logits) -> Float64Array:
    """Return log-probabilities [n, K] of at least -700, which is as good as the log of 0.

    A masked class must not turn 0 * inf into NaN.
    """
    return np.maximum(log_probabilities(logits), -700.0)


class _AffineMap(CalibrationMap):
    """softmax of weights times log-probabilities plus an intercept a class.

    On log-probabilities rather than logits, so that a constant added to a row changes nothing.
    Subclasses say what form the weights have.

    Attributes:
        weight: As the subclass has it.
        bias: [K].
    """

    regularisation = 0.0
    per_class = True
    weight: Float64Array
    bias: Float64Array

    @staticmethod
    @abstractmethod
    def _identity(n_classes: int) -> Float64Array:
        """Return the weights that leave log-probabilities as they are."""

    @staticmethod
    @abstractmethod
    def _weighted(features: FloatArray, weight: FloatArray) -> FloatArray:
        """Return scores [K, n] of log-probabilities [K, n]."""

    @staticmethod
    @abstractmethod
    def _slope(features: FloatArray, error: FloatArray) -> FloatArray:
        """Return the gradient of the summed NLL in the weights, given that in the scores [K, n]."""

    @staticmethod
    def _penalised(weight: Float64Array) -> Float64Array:
        """Return the weights that are pulled to 0; the others as 0."""
        return np.zeros_like(weight)

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Minimise the mean NLL plus the penalty."""
        from scipy.optimize import minimize  # slow to import, and seldom needed

        # Class-major, for numpy reduces few classes many times faster that way. Single precision
        # halves the time and costs less than 1e-7 nats; sums over rows are double.
        features = np.ascontiguousarray(finite_log_probabilities(logits).T, np.float32)
        answers = check_rows(logits, labels).labels, np.arange(features.shape[1])
        n_classes, n = features.shape
        if not hasattr(self, "weight"):
            self.weight, self.bias = self._identity(n_classes), np.zeros(n_classes)
        shape, n_weights = self.weight.shape, self.weight.size
        n_penalised = max(int(self._penalised(np.ones(shape)).sum()), 1)

        def objective(parameters: Float64Array) -> tuple[float, Float64Array]:
            weight, bias = parameters[:n_weights].reshape(shape), parameters[n_weights:]
            scores = self._weighted(features, weight.astype(np.float32))
            scores += bias.astype(np.float32)[:, None]
            loss, error = _nll_and_error(scores, answers)
            pulled = self._penalised(weight)
            penalty = (pulled**2).sum() / n_penalised + (bias**2).mean()
            weight_slope = self._slope(features, error) / n
            weight_slope += 2 * self.regularisation * pulled / n_penalised
            bias_slope = (
                error.mean(axis=1, dtype=np.float64) + 2 * self.regularisation * bias / n_classes
            )
            slope = np.concatenate([weight_slope.ravel(), bias_slope])
            return float(loss + self.regularisation * penalty), slope

        start = np.concatenate([self.weight.ravel(), self.bias])
        options = {"maxiter": 1000, "ftol": 1e-7}  # a gain of less no sample could show
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self.weight, self.bias = found.x[:n_weights].reshape(shape), found.x[n_weights:]
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, K]."""
        features = finite_log_probabilities(logits).T
        scores = self._weighted(features, self.weight).T + self.bias
        return np.asarray(log_softmax(scores, axis=1), np.float64)


def _nll_and_error(
    scores: Float32Array, answers: tuple[IntArray, IntArray]
) -> tuple[float, Float32Array]:
    """Return the mean NLL and its gradient in the scores, times n, from scores [K, n]."""
    scores -= scores.max(axis=0)
    loss = -float(scores[answers].mean(dtype=np.float64))
    np.exp(scores, out=scores)
    total = scores.sum(axis=0)
    loss += float(np.log(total).mean(dtype=np.float64))
    scores /= total
    scores[answers] -= 1
    return loss, scores


class VectorScaling(_AffineMap):
    """softmax(w * log softmax(z) + b), one weight and intercept a class (Guo et al. 2017).

    May change predictions.
    """

    name = "vector"
    title = "vector scaling"
    source = "Guo et al. 2017"

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return 2 K."""
        return 2 * n_classes

    @staticmethod
    def _identity(n_classes: int) -> Float64Array:
        return np.ones(n_classes)

    @staticmethod
    def _weighted(features: FloatArray, weight: FloatArray) -> FloatArray:
        return features * weight[:, None]

    @staticmethod
    def _slope(features: FloatArray, error: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("kn,kn->k", features, error))


class DirichletCalibration(_AffineMap):
    """softmax(W log softmax(z) + b), regularised off the diagonal and in the intercepts.

    Kull et al. 2019, "Beyond temperature scaling: obtaining well-calibrated multi-class
    probabilities with Dirichlet calibration". The same family as matrix scaling. May change
    predictions.

    Args:
        regularisation: Of the mean squared off-diagonal weights and of the mean squared intercepts.
    """

    name = "dirichlet"
    title = "Dirichlet calibration"
    source = "Kull et al. 2019"

    def __init__(self, regularisation: float = 1e-2) -> None:
        self.regularisation = regularisation

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return K * K + K."""
        return n_classes * n_classes + n_classes

    @staticmethod
    def _identity(n_classes: int) -> Float64Array:
        return np.eye(n_classes)

    @staticmethod
    def _weighted(features: FloatArray, weight: FloatArray) -> FloatArray:
        return np.asarray(weight.T @ features)

    @staticmethod
    def _slope(features: FloatArray, error: FloatArray) -> FloatArray:
        return np.asarray(features @ error.T)

    @staticmethod
    def _penalised(weight: Float64Array) -> Float64Array:
        pulled = weight.copy()
        np.fill_diagonal(pulled, 0)
        return pulled


class BiasCorrectedTemperature(_AffineMap):
    """softmax(z / T + b), one temperature and an intercept a class (Alexandari et al. 2020).

    "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation".
    The intercepts mend what a temperature cannot: classes that are predicted too often. May change
    predictions.
    """

    name = "bias_corrected_temperature"
    title = "bias-corrected temperature scaling"
    source = "Alexandari et al. 2020"

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return K + 1."""
        return n_classes + 1

    @staticmethod
    def _identity(n_classes: int) -> Float64Array:
        return np.ones(1)

    @staticmethod
    def _weighted(features: FloatArray, weight: FloatArray) -> FloatArray:
        return features * weight

    @staticmethod
    def _slope(features: FloatArray, error: FloatArray) -> FloatArray:
        return np.asarray([np.vdot(features, error)])


MAPS: tuple[type[CalibrationMap], ...] = (
    VectorScaling,
    DirichletCalibration,
    BiasCorrectedTemperature,
)
