"""Temperature fitted by plain stochastic gradient descent, as some publications do.

Nothing of ours uses such a temperature. It is repeated on cached logits to show how far from the
optimum of `temperature.fit_temperature` a publication's way of fitting ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows, to_numpy
from benchmark.statistics.row_terms import MASKED

LARGEST = 1e6


@dataclass(frozen=True)
class StochasticFit:
    """The way that gradient descent took.

    Attributes:
        path: float64 [steps + 1], the temperature before the first and after each step.
        steps_per_epoch: Batches in one pass over the rows.
    """

    path: Float64Array
    steps_per_epoch: int

    @property
    def temperature(self) -> float:
        """Where it stopped; NaN if it ran off: to 0 or below, or past `LARGEST`."""
        last = float(self.path[-1])
        return last if 0 < last < LARGEST else math.nan


def fit_by_gradient_descent(
    logits: Logits, labels: Labels, *, epochs: int, batch_size: int, learning_rate: float
) -> StochasticFit:
    """Take steps against the gradient of each batch's mean negative log-likelihood, from T = 1.

    Batches are consecutive rows in the order given, the last one perhaps smaller; no momentum.
    With z the logits and p the softmax of z / T, the gradient is (z_y - E_p[z]) / T^2, averaged
    over the batch. A step may cross 0 or run off to infinity; then it ends there.

    Args:
        logits: Float array or tensor [n, K], K >= 2; -inf marks a masked class.
        labels: Integers [n] in 0 ... K-1.
        epochs: Passes over the rows, at least 1.
        batch_size: Rows of a step, at least 1.
        learning_rate: Factor of the gradient, above 0.

    Raises:
        ValueError: Naming the first bad row.
    """
    rows = check_rows(logits, labels)
    values = np.maximum(to_numpy(rows.values).astype(np.float64), MASKED)
    values -= values[np.arange(rows.n_rows), rows.labels][:, None]
    starts = range(0, rows.n_rows, batch_size)
    path = np.full(epochs * len(starts) + 1, np.nan)
    path[0] = temperature = 1.0
    for step in range(1, len(path)):
        start = starts[(step - 1) % len(starts)]
        temperature -= learning_rate * _gradient(values[start : start + batch_size], temperature)
        path[step] = temperature
        if temperature == 0 or not math.isfinite(temperature):
            break
    return StochasticFit(path, len(starts))


def _gradient(margins: Float64Array, temperature: float) -> float:
    """Return the derivative of the mean negative log-likelihood by the temperature.

    Args:
        margins: Logits minus the label's logit, [m, K].
        temperature: Not 0.
    """
    scaled = margins / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    expected = (weights * margins).sum(axis=1) / weights.sum(axis=1)
    return float(-expected.mean() / temperature / temperature)  # its square may overflow
