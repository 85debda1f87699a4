"""Proper scores, and the part of them that a temperature could win."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.statistics.logit_arrays import LogitRows
from benchmark.statistics.metric import NATS, PLAIN, Influence, Metric, NoInterval
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.temperature import fit_temperature

CROSS_FITTING_FOLDS = 5
# Four metrics, at every temperature, share the five fits of one split.
_CROSS_FITTED_SCORES: WeakKeyDictionary[LogitRows, tuple[float, float]] = WeakKeyDictionary()
_CROSS_FITTED = NoInterval("folds share rows, so resampling rows misstates its spread")


def nll(predictions: Predictions) -> float:
    """Mean negative log-likelihood of the labels, nats; inf if any has probability 0."""
    return float(predictions.nll.mean())


def brier(predictions: Predictions) -> float:
    """Mean squared distance between the probability vector and the one-hot label, in [0, 2].

    Brier 1950: summed over classes, so for K = 2 it is twice the score of P(y = 1) alone.
    """
    return float(predictions.brier.mean())


def nll_refinement(predictions: Predictions) -> float:
    """NLL that stays after the best temperature, nats: the part that is not calibration error.

    Berta et al. 2025 "Rethinking Early Stopping: Refine, Then Calibrate". The temperature is
    cross-fitted over five folds (row index modulo five), so no row is scored with a temperature
    that has seen it. It does not depend on the temperature of `predictions`, but weakly on the
    order of rows. NaN with fewer rows than folds.
    """
    return _cross_fitted(predictions.rows)[0]


def brier_refinement(predictions: Predictions) -> float:
    """Brier score that stays after the cross-fitted temperature; see `nll_refinement`."""
    return _cross_fitted(predictions.rows)[1]


def nll_calibration(predictions: Predictions) -> float:
    """NLL minus its refinement, nats: what recalibration can win; slightly negative if nothing."""
    return nll(predictions) - nll_refinement(predictions)


def brier_calibration(predictions: Predictions) -> float:
    """Brier score minus its refinement; see `nll_calibration`."""
    return brier(predictions) - brier_refinement(predictions)


def _cross_fitted(rows: LogitRows) -> tuple[float, float]:
    """Mean NLL and Brier score, each fold at the temperature fitted on the other folds."""
    if rows not in _CROSS_FITTED_SCORES:
        _CROSS_FITTED_SCORES[rows] = _cross_fit(rows)
    return _CROSS_FITTED_SCORES[rows]


def _cross_fit(rows: LogitRows) -> tuple[float, float]:
    if rows.n_rows < CROSS_FITTING_FOLDS:
        return math.nan, math.nan
    fold = np.arange(rows.n_rows) % CROSS_FITTING_FOLDS
    total_nll = total_brier = 0.0
    for held_out in range(CROSS_FITTING_FOLDS):
        train, test = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        fit = fit_temperature(rows.values[train], rows.labels[train])
        scored = Predictions.from_logits(rows.values[test], rows.labels[test], fit.temperature)
        total_nll += float(scored.nll.sum())
        total_brier += float(scored.brier.sum())
    return total_nll / rows.n_rows, total_brier / rows.n_rows


METRICS = (
    Metric(
        "nll", "negative log-likelihood", "NLL", nll, "lower",
        Influence(lambda predictions: predictions.nll), NATS,
        "log score; Good 1952",
    ),
    Metric(
        "brier", "Brier score, summed over classes", "Brier", brier, "lower",
        Influence(lambda predictions: predictions.brier), PLAIN,
        "Brier 1950",
    ),
    Metric(
        "nll_calibration", "NLL that a temperature could win", "NLL calibration", nll_calibration,
        "lower", _CROSS_FITTED, NATS, "Berta et al. 2025", scaling_only=True,
        outcome="squared error",
    ),
    Metric(
        "nll_refinement", "NLL after the best temperature", "NLL refinement", nll_refinement,
        "lower", _CROSS_FITTED, NATS, "Berta et al. 2025", scaling_only=True,
    ),
    Metric(
        "brier_calibration", "Brier score that a temperature could win", "Brier calibration",
        brier_calibration, "lower", _CROSS_FITTED, PLAIN, "Berta et al. 2025", scaling_only=True,
        outcome="squared error",
    ),
    Metric(
        "brier_refinement", "Brier score after the best temperature", "Brier refinement",
        brier_refinement, "lower", _CROSS_FITTED, PLAIN, "Berta et al. 2025", scaling_only=True,
    ),
)  # fmt: skip
