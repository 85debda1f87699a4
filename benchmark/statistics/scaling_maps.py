"""Maps of few parameters, the same for all classes: none, temperature, ensemble temperature."""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.calibration_map import CalibrationMap
from benchmark.statistics.logit_arrays import (
    Labels,
    LogitRows,
    Logits,
    check_rows,
    row_maximum,
    to_numpy,
)
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.temperature import (
    TemperatureFit,
    fit_temperature,
    log_probabilities,
    scale_shifted,
)


class NoMap(CalibrationMap):
    """softmax(z): the model's own probabilities."""

    name = "none"
    title = "no map"
    source = "the softmax of the logits"

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return 0."""
        return 0

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit nothing."""
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return log-probabilities [n, K]."""
        return log_probabilities(logits)

    def losses(self, rows: LogitRows) -> Float64Array:
        """Return the negative log-likelihood of each row's label [n], without the other classes."""
        return Predictions.from_rows(rows, 1.0).nll


class TemperatureScaling(CalibrationMap):
    """softmax(z / T) (Guo et al. 2017). Keeps every prediction."""

    name = "temperature"
    title = "temperature scaling"
    source = "Guo et al. 2017"
    fitted: TemperatureFit

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return 1."""
        return 1

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit one parameter."""
        self.fitted = fit_temperature(logits, labels)
        return self

    def __call__(self, logits: Logits) -> Float64Array:
        """Return calibrated log-probabilities [n, K]."""
        return log_probabilities(logits, self.fitted.temperature)

    def losses(self, rows: LogitRows) -> Float64Array:
        """Return the negative log-likelihood of each row's label [n], without the other classes."""
        return Predictions.from_rows(rows, self.fitted.temperature).nll


class EnsembleTemperatureScaling(CalibrationMap):
    """A mixture of softmax(z / T), softmax(z) and the uniform distribution (Zhang et al. 2020).

    "Mix-n-Match: Ensemble and Compositional Methods for Uncertainty Calibration". T as in
    temperature scaling; the weights are a convex problem. Keeps every prediction.
    """

    name = "ensemble_temperature"
    title = "ensemble temperature scaling"
    source = "Zhang et al. 2020"
    # Keeps the logarithm finite when the label's probability underflows in one part.
    least_weight = 1e-9

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return 3: the temperature and two free weights."""
        return 3

    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit three weights given the temperature."""
        from scipy.optimize import minimize  # slow to import, and seldom needed

        rows = check_rows(logits, labels)
        self.temperature = fit_temperature(logits, labels).temperature
        parts = np.exp(
            [-Predictions.from_rows(rows, t).nll for t in (self.temperature, 1.0, math.inf)]
        )

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
        scaled, plain, uniform = self.weights
        values = to_numpy(logits).astype(np.float64)
        values -= row_maximum(values)
        known = ~np.isneginf(values)  # a masked class stays at probability 0
        mixed = known * (uniform / known.sum(axis=1, keepdims=True))
        for weight, temperature in ((scaled, self.temperature), (plain, 1.0)):
            part = np.exp(scale_shifted(values, temperature))
            part *= weight / part.sum(axis=1, keepdims=True)
            mixed += part
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(mixed, out=mixed), np.float64)

    def losses(self, rows: LogitRows) -> Float64Array:
        """Return the negative log-likelihood of each row's label [n], without the other classes."""
        return np.asarray(-np.log(self.weights @ self._parts(rows)))

    def _parts(self, rows: LogitRows) -> Float64Array:
        """Probabilities of the labels [3, n]: at the temperature, at 1, and all the same."""
        temperatures = (self.temperature, 1.0, math.inf)
        return np.exp([-Predictions.from_rows(rows, t).nll for t in temperatures])


MAPS: tuple[type[CalibrationMap], ...] = (NoMap, TemperatureScaling, EnsembleTemperatureScaling)
