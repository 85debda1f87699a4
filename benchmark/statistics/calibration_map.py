"""What every calibration map is: a fitted function from logits to calibrated log-probabilities.

A map is fitted on the calibration split and passed, as one object, to whoever scores. Each says
itself when it cannot be fitted, so that a new one is added in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.statistics.logit_arrays import Labels, LogitRows, Logits

MOST_CLASSES = 100
"""Of maps with parameters for each class: with more, four fits (one and three for cross-validation)
take longer than all other scores of a run."""


class CalibrationMap(ABC):
    """A map that is fitted with `fit` and then called on the logits of other rows.

    Attributes:
        name: In records and columns; never changes.
        title: For people, as words in a sentence.
        source: Where it is from.
        per_class: Whether it has parameters, or a function, for each class. It then needs two
            rows of every class (cross-validation takes one away), and at most `MOST_CLASSES`.
        classes: How many classes it takes: any number, or two.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    per_class: ClassVar[bool] = False
    classes: ClassVar[Literal["any", "two"]] = "any"

    @classmethod
    @abstractmethod
    def n_parameters(cls, n_classes: int) -> int:
        """Return how many numbers are fitted; of a function, how many values it may take."""

    @classmethod
    def unsuitable(cls, rows: LogitRows) -> str | None:
        """Say why the map cannot be fitted on these rows, or return None."""
        n_classes = rows.n_classes
        if cls.classes == "two" and n_classes != 2:
            return f"for two classes only, not {n_classes}"
        if cls.per_class and n_classes > MOST_CLASSES:
            return f"fitted for each class, at most {MOST_CLASSES}; there are {n_classes}"
        rare = np.flatnonzero(np.bincount(rows.labels, minlength=n_classes) < 2)
        if cls.per_class and len(rare):
            return f"needs two rows of every class; {len(rare)} have fewer, first class {rare[0]}"
        if cls.n_parameters(n_classes) > rows.n_rows:
            return f"{cls.n_parameters(n_classes)} parameters for {rows.n_rows} calibration rows"
        return None

    @abstractmethod
    def fit(self, logits: Logits, labels: Labels) -> Self:
        """Fit to logits [n, K] and labels [n]; fitted again, start from what was found before.

        Raises:
            ValueError: Naming the first bad row.
        """

    @abstractmethod
    def __call__(self, logits: Logits) -> Float64Array:
        """Return log-probabilities, float64 [n, K]; each row sums to 1 in probability."""

    def losses(self, rows: LogitRows) -> Float64Array:
        """Return the negative log-likelihood of each row's label [n], nats."""
        scored = self(rows.values)
        return np.asarray(-scored[np.arange(rows.n_rows), rows.labels])
