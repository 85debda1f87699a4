"""What the metrics need of every row, from one pass over its logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from benchmark.arrays import BoolArray, Float64Array, FloatArray, IntArray
from benchmark.statistics.logit_arrays import (
    Block,
    Labels,
    LogitRows,
    Logits,
    check_rows,
    row_dot,
    row_sum,
    to_numpy,
)
from benchmark.statistics.temperature import check_temperature, scale_shifted

DOUBT_BITS = 16


class Ranking(NamedTuple):
    """Rows from the most to the least confident; ties form groups.

    Attributes:
        order: int64 [n], row numbers.
        first: int64 [groups], the first position of each group.
        size: int64 [groups], its rows.
        errors: float64 [n], expected errors among the first 1 ... n rows, over the orders of ties.
    """

    order: IntArray
    first: IntArray
    size: IntArray
    errors: Float64Array


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the metrics need of each row, at one temperature.

    Attributes:
        rows: The checked logits and labels.
        temperature: In [0, inf].
        predicted: int64 [n], the most probable class (the first of several).
        confidence: float64 [n], its probability, in [1/K, 1].
        nll: float64 [n], -log probability of the label, nats, in [0, inf].
        brier: float64 [n], squared distance between probabilities and the one-hot label, in [0, 2].
        doubt: float64 [n], log of the odds against the prediction, -inf where nothing is left to
            the other classes. It ranks rows as the confidence does, but where many confidences are
            so near 1 that they round to it, it still tells them apart. Rounded to 2^-16, so that
            equal rows are tied whatever the order in which their classes were summed.
        calibration: The rows that prediction sets are calibrated on; None: there are none.
    """

    rows: LogitRows
    temperature: float
    predicted: IntArray
    confidence: Float64Array
    nll: Float64Array
    brier: Float64Array
    doubt: Float64Array
    calibration: LogitRows | None = None

    @classmethod
    def from_logits(cls, logits: Logits, labels: Labels, temperature: float = 1.0) -> Predictions:
        """Score every row in one pass over the logits.

        Args:
            logits: Float array or tensor [n, K], K >= 2; -inf marks a masked class.
            labels: Integers [n] in 0 ... K-1.
            temperature: In [0, inf]; 1 leaves the logits as they are.

        Raises:
            ValueError: Naming the first bad row, or a temperature out of range.
        """
        return cls.from_rows(check_rows(logits, labels), temperature)

    @classmethod
    def from_rows(cls, rows: LogitRows, temperature: float) -> Predictions:
        """Score checked rows; see `from_logits`."""
        check_temperature(temperature)
        if math.isinf(temperature):  # only there do finite masks make a difference
            rows = rows.without_masks()
        predicted = np.empty(rows.n_rows, np.int64)
        confidence, nll, brier, doubt = np.empty((4, rows.n_rows))
        for block in rows.blocks():
            at, label = block.rows, scale_shifted(block.label_shifted, temperature)
            top = predicted[at] = block.source.argmax(axis=1)
            weights = scale_shifted(block.shifted, temperature)
            np.exp(weights, out=weights)
            squares = row_dot(weights, weights)
            weights[np.arange(len(top)), top] = 0
            others = row_sum(weights)
            total = 1 + others
            np.divide(1, total, out=confidence[at], dtype=total.dtype)
            nll[at] = np.log1p(others) - label
            brier[at] = squares / total**2 - 2 * np.exp(label) / total + 1
            doubt[at] = _log_odds(others, block, top, temperature)
        doubt = np.rint(doubt * 2.0**DOUBT_BITS) / 2.0**DOUBT_BITS
        return cls(rows, float(temperature), predicted, confidence, nll, brier, doubt)

    @property
    def labels(self) -> IntArray:
        """int64 [n], the true classes."""
        return self.rows.labels

    @cached_property
    def correct(self) -> BoolArray:
        """Bool [n], whether the prediction is the label."""
        return np.equal(self.predicted, self.labels)

    @cached_property
    def ranking(self) -> Ranking:
        """Rows in groups of equal doubt, the most confident first."""
        order = np.argsort(self.doubt, kind="stable")
        doubt = self.doubt[order]
        first = np.flatnonzero(np.append(True, doubt[1:] != doubt[:-1]))
        size = np.diff(first, append=len(order))
        rate = np.add.reduceat((~self.correct[order]).astype(np.float64), first) / size
        return Ranking(order, first, size, np.cumsum(np.repeat(rate, size)))

    def probability_blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield consecutive rows with their probabilities [m, K], overwritten by the next block."""
        return probability_blocks(self.rows, self.temperature)


def probability_blocks(rows: LogitRows, temperature: float) -> Iterator[tuple[slice, FloatArray]]:
    """Yield consecutive rows with their probabilities [m, K], overwritten by the next block."""
    if math.isinf(temperature):  # only there do finite masks make a difference
        rows = rows.without_masks()
    for block in rows.blocks():
        weights = np.exp(scale_shifted(block.shifted, temperature))
        weights /= row_sum(weights)[:, None]
        yield block.rows, weights


def _log_odds(others: FloatArray, block: Block, top: IntArray, temperature: float) -> Float64Array:
    """Return the log of `others` [m], odds against the prediction, also where they vanish."""
    with np.errstate(divide="ignore"):
        log_odds = np.log(others, dtype=np.float64)
    # Near the smallest number of its type a sum has few digits, and below it none.
    lost = np.flatnonzero(others < 1e8 * np.finfo(others.dtype).tiny)
    if lost.size and temperature > 0:
        scores = block.source[lost].astype(np.float64)
        own = np.arange(len(lost)), top[lost]
        scores = (scores - scores[own][:, None]) / temperature
        scores[own] = -np.inf
        second = np.maximum(scores.max(axis=1), -np.finfo(np.float64).max)
        with np.errstate(divide="ignore"):
            log_odds[lost] = second + np.log(np.exp(scores - second[:, None]).sum(axis=1))
    return log_odds


def positive_margin(predictions: Predictions) -> Float64Array:
    """Logit of class 1 minus logit of class 0, [n], over the temperature.

    Raises:
        ValueError: There are not exactly two classes.
    """
    if predictions.rows.n_classes != 2:
        raise ValueError(f"needs two classes, got {predictions.rows.n_classes}")
    values = predictions.rows.values
    margin = to_numpy(values[:, 1]).astype(np.float64) - to_numpy(values[:, 0])
    if predictions.temperature == 0:
        return np.asarray(np.where(margin == 0, 0.0, np.copysign(np.inf, margin)))
    return np.asarray(margin / predictions.temperature)
