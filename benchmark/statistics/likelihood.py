"""Proper scores, and the part of them that a temperature could win."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.calibration_error import DebiasedSums
from benchmark.statistics.logit_arrays import LogitRows
from benchmark.statistics.metric import NATS, PLAIN, Excess, Influence, Metric, NoInterval
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.row_terms import LossTerms, loss_terms
from benchmark.statistics.skewed_interval import NO_CHANCE
from benchmark.statistics.temperature import TemperatureFit, fit_temperature

CROSS_FITTING_FOLDS = 5
# Four metrics, at every temperature, share the five fits of one split.
_CROSS_FITS: WeakKeyDictionary[LogitRows, CrossFit] = WeakKeyDictionary()
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
    return _cross_fitted(predictions.rows).nll


def brier_refinement(predictions: Predictions) -> float:
    """Brier score that stays after the cross-fitted temperature; see `nll_refinement`."""
    return _cross_fitted(predictions.rows).brier


def nll_calibration(predictions: Predictions) -> float:
    """NLL minus its refinement, nats: what recalibration can win; slightly negative if nothing.

    Its interval is that of the NLL minus the least NLL of these rows, without the bias that
    choosing a temperature on them brings, so that it holds where there is nothing to win, too.
    """
    return nll(predictions) - nll_refinement(predictions)


def brier_calibration(predictions: Predictions) -> float:
    """Brier score minus its refinement; see `nll_calibration`."""
    return brier(predictions) - brier_refinement(predictions)


class Optimum(NamedTuple):
    """The losses of a split at its own best temperature.

    Attributes:
        nll: Negative log-likelihood at the inverse temperature b that the folds agree on.
        brier: Brier score there.
        step: From there to the optimum of all rows, in b.
    """

    nll: LossTerms
    brier: LossTerms
    step: float


class CrossFit(NamedTuple):
    """Mean losses with cross-fitted temperatures; the optimum, or why there is none."""

    nll: float
    brier: float
    optimum: Optimum | str


def nll_calibration_parts(predictions: Predictions) -> DebiasedSums | str:
    """Return `nll_calibration` without bias, with the parts of its variance; or why not."""
    optimum = _cross_fitted(predictions.rows).optimum
    if isinstance(optimum, str):
        return optimum
    return _excess(predictions.nll, optimum.nll, optimum)


def brier_calibration_parts(predictions: Predictions) -> DebiasedSums | str:
    """Return `brier_calibration` without bias, with the parts of its variance; or why not."""
    optimum = _cross_fitted(predictions.rows).optimum
    if isinstance(optimum, str):
        return optimum
    return _excess(predictions.brier, optimum.brier, optimum)


def _excess(loss: Float64Array, least: LossTerms, optimum: Optimum) -> DebiasedSums | str:
    """Return a mean loss minus that at the optimum b of the same rows, without bias.

    With S and W the mean noise of d NLL / db and of d loss / db at the true optimum, I the
    curvature of the NLL, L' and L'' of the loss: the optimum is off by -S / I, so that the loss
    there is too low by (L' + W) S / I - L'' S^2 / (2 I^2), a quadratic form in (S, W). For the NLL
    that is S^2 / (2 I), and the excess is distributed as a squared error of one bin. Where L' is
    not 0, which takes a model that no temperature calibrates, S counts at first order, too.

    Args:
        loss: Of every row [n] at the temperature in question.
        least: Of the same loss, at the optimum.
        optimum: From `_cross_fit`.
    """
    nll, step, n = optimum.nll, optimum.step, len(loss)
    if not np.isfinite(loss).all():
        return NO_CHANCE
    at_optimum = least.loss + least.slope * step
    excess = float(loss.mean() - at_optimum.mean()) - least.curvature * step**2 / 2
    noise = np.cov(np.stack([nll.slope, least.slope])) / n
    ratio = least.curvature / nll.curvature
    first = float(least.slope.mean()) + least.curvature * step
    by_chance = float(np.array([-ratio, 1.0]) @ noise @ np.array([-ratio, 1.0]))
    held = max(first**2 - by_chance, 0.0) * float(noise[0, 0]) / nll.curvature**2
    product = np.array([[-ratio, 1.0], [1.0, 0.0]]) / (2 * nll.curvature) @ noise
    null = 2 * float(np.trace(product @ product)) + held
    variance = float((loss - at_optimum + first / nll.curvature * nll.slope).var()) / n
    squared = excess - float(np.trace(product))
    if excess**2 <= 2 * null:  # too near 0 for a ratio of variance and excess: its limit
        return DebiasedSums(squared, null, max(2 * float(noise[1, 1]) / least.curvature, 0.0))
    if excess < 0:
        return DebiasedSums(squared, max(null, variance), 0.0)
    return DebiasedSums(squared, null, max(variance - held, 0.0) / excess)


def _cross_fitted(rows: LogitRows) -> CrossFit:
    """Return the cross-fit of a split, made once for all metrics and temperatures."""
    if rows not in _CROSS_FITS:
        _CROSS_FITS[rows] = _cross_fit(rows)
    return _CROSS_FITS[rows]


def _cross_fit(rows: LogitRows) -> CrossFit:
    if rows.n_rows < CROSS_FITTING_FOLDS:
        return CrossFit(math.nan, math.nan, "too few rows")
    fold = np.arange(rows.n_rows) % CROSS_FITTING_FOLDS
    total_nll = total_brier = 0.0
    fits = []
    for held_out in range(CROSS_FITTING_FOLDS):
        train, test = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        fits.append(fit_temperature(rows.values[train], rows.labels[train]))
        scored = Predictions.from_logits(rows.values[test], rows.labels[test], fits[-1].temperature)
        total_nll += float(scored.nll.sum())
        total_brier += float(scored.brier.sum())
    return CrossFit(total_nll / rows.n_rows, total_brier / rows.n_rows, _optimum(rows, fits))


def _optimum(rows: LogitRows, fits: Sequence[TemperatureFit]) -> Optimum | str:
    """Return the losses at the mean of the folds' optima, one Newton step from that of all rows."""
    if any(fit.status != "converged" for fit in fits):
        return "the temperature has no optimum on these rows"
    inverse = math.exp(-float(np.mean([math.log(fit.temperature) for fit in fits])))
    nll, brier = loss_terms(rows, inverse)
    return Optimum(nll, brier, -float(nll.slope.mean()) / nll.curvature)


METRICS = (
    Metric(
        "nll", "negative log-likelihood", "NLL", nll, "lower",
        Influence(lambda predictions: predictions.nll), NATS,
        "log score; Good 1952", bounds=(0, math.inf),
    ),
    Metric(
        "brier", "Brier score, summed over classes", "Brier", brier, "lower",
        Influence(lambda predictions: predictions.brier), PLAIN,
        "Brier 1950", bounds=(0, 2),
    ),
    Metric(
        "nll_calibration", "NLL that a temperature could win", "NLL calibration", nll_calibration,
        "lower", Excess(nll_calibration_parts, lambda predictions: predictions.nll), NATS,
        "Berta et al. 2025", scaling_only=True, outcome="squared error",
        bounds=(-math.inf, math.inf),
    ),
    Metric(
        "nll_refinement", "NLL after the best temperature", "NLL refinement", nll_refinement,
        "lower", _CROSS_FITTED, NATS, "Berta et al. 2025", scaling_only=True,
        bounds=(0, math.inf),
    ),
    Metric(
        "brier_calibration", "Brier score that a temperature could win", "Brier calibration",
        brier_calibration, "lower",
        Excess(brier_calibration_parts, lambda predictions: predictions.brier), PLAIN,
        "Berta et al. 2025", scaling_only=True, outcome="squared error", bounds=(-2, 2),
    ),
    Metric(
        "brier_refinement", "Brier score after the best temperature", "Brier refinement",
        brier_refinement, "lower", _CROSS_FITTED, PLAIN, "Berta et al. 2025", scaling_only=True,
        bounds=(0, 2),
    ),
)  # fmt: skip
