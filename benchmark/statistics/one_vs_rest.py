"""Maps of one class's probability at a time: beta calibration, isotonic regression, histograms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
from scipy.special import log_expit

from benchmark.arrays import BoolArray, Float64Array, IntArray
from benchmark.statistics.affine_maps import finite_log_probabilities
from benchmark.statistics.calibration_error import DEFAULT_BINS, equal_mass_edges
from benchmark.statistics.calibration_map import CalibrationMap
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.temperature import log_probabilities


class BetaCalibration(CalibrationMap):
    """logit q = a log p - b log(1 - p) + c with a, b >= 0, for two classes (Kull et al. 2017).

    "Beta calibration: a well-founded and easily implemented improvement on logistic calibration for
    binary classifiers". A negative weight is refitted without its term, as the paper does.
    """

    name = "beta"
    title = "beta calibration"
    source = "Kull et al. 2017"
    classes = "two"
    per_class = True

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return 3: two weights and an intercept."""
        return 3

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
        return finite_log_probabilities(logits)[:, ::-1] * np.array([1.0, -1.0])  # type: ignore[no-any-return]

    @staticmethod
    def _logistic(
        features: Float64Array, labels: IntArray, used: BoolArray
    ) -> tuple[Float64Array, float]:
        from sklearn.linear_model import LogisticRegression  # slow to import

        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        model.fit(features[:, used], labels)
        weights = np.zeros(2)
        weights[used] = model.coef_[0]
        return weights, float(model.intercept_[0])


class _OneVsRest(CalibrationMap):
    """Recalibrates the probability of each class alone and normalises (Zadrozny & Elkan 2002).

    With two classes only that of class 1 is fitted. Probabilities are kept at least 1 / (n + 2), n
    rows having been fitted: a bin without errors is no proof, and one log 0 would spoil the mean
    NLL.
    """

    per_class = True

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

    name = "isotonic"
    title = "isotonic regression"
    source = "Zadrozny & Elkan 2002"

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return 0: the function is as fine as the rows allow."""
        return 0

    def _fit_one(
        self, probability: Float64Array, positive: Float64Array
    ) -> Callable[[Float64Array], Float64Array]:
        from scipy.optimize import isotonic_regression  # slow to import, and seldom needed

        places, group, rows = np.unique(probability, return_inverse=True, return_counts=True)
        heights = isotonic_regression(np.bincount(group, positive) / rows, weights=rows).x
        return lambda values: np.interp(values, places, heights)


class HistogramBinning(_OneVsRest):
    """The observed frequency in equal-mass bins of each class's probability.

    Zadrozny & Elkan 2001. May change predictions.

    Args:
        n_bins: At least 1.
    """

    name = "histogram"
    title = "histogram binning"
    source = "Zadrozny & Elkan 2001"

    def __init__(self, n_bins: int = DEFAULT_BINS) -> None:
        self.n_bins = n_bins

    @classmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return a frequency a bin, for each class but one of two."""
        return DEFAULT_BINS * (1 if n_classes == 2 else n_classes)

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


MAPS: tuple[type[CalibrationMap], ...] = (IsotonicCalibration, HistogramBinning, BetaCalibration)
