"""What the metrics need of every row, from one pass over its logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmark.arrays import BoolArray, Float64Array, FloatArray, IntArray
from benchmark.statistics.logit_arrays import (
    Labels,
    LogitRows,
    Logits,
    check_rows,
    row_dot,
    row_sum,
    to_numpy,
)
from benchmark.statistics.temperature import check_temperature, scale_shifted


@dataclass(frozen=True)
class Predictions:
    """What the metrics need of each row, at one temperature.

    Attributes:
        rows: The checked logits and labels.
        temperature: In [0, inf].
        predicted: int64 [n], the most probable class (the first of several).
        confidence: float64 [n], its probability, in [1/K, 1].
        nll: float64 [n], -log probability of the label, nats, in [0, inf].
        brier: float64 [n], squared distance between probabilities and the one-hot label, in [0, 2].
    """

    rows: LogitRows
    temperature: float
    predicted: IntArray
    confidence: Float64Array
    nll: Float64Array
    brier: Float64Array

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
        confidence, nll, brier = np.empty((3, rows.n_rows))
        for block in rows.blocks():
            at, label = block.rows, scale_shifted(block.label_shifted, temperature)
            predicted[at] = block.source.argmax(axis=1)
            weights = scale_shifted(block.shifted, temperature)
            np.exp(weights, out=weights)
            total = row_sum(weights)
            np.divide(1, total, out=confidence[at], dtype=total.dtype)
            nll[at] = np.log(total) - label
            brier[at] = row_dot(weights, weights) / total**2 - 2 * np.exp(label) / total + 1
        return cls(rows, float(temperature), predicted, confidence, nll, brier)

    @property
    def labels(self) -> IntArray:
        """int64 [n], the true classes."""
        return self.rows.labels

    @cached_property
    def correct(self) -> BoolArray:
        """Bool [n], whether the prediction is the label."""
        return np.equal(self.predicted, self.labels)

    @cached_property
    def cumulative_errors(self) -> Float64Array:
        """Expected errors [n] among the most confident 1 ... n rows, averaging within ties."""
        values, group, size = np.unique(-self.confidence, return_inverse=True, return_counts=True)
        rate = np.bincount(group, ~self.correct, minlength=len(values)) / size
        return np.asarray(np.cumsum(np.repeat(rate, size)))

    def probability_blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield consecutive rows with their probabilities [m, K], overwritten by the next block."""
        for block in self.rows.blocks():
            weights = np.exp(scale_shifted(block.shifted, self.temperature))
            weights /= row_sum(weights)[:, None]
            yield block.rows, weights


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
