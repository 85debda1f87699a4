"""A metric as one value that carries its facts.

Records, the frame's columns, tables, comparisons, legends, the claim's list and docs/metrics.md are
derived from these values, so that a metric is added in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmark.arrays import BoolArray, Float64Array
from benchmark.statistics.calibration_error import DebiasedSums, Scheme
from benchmark.statistics.predictions import Predictions


@dataclass(frozen=True)
class Unit:
    """How a number is shown to people: times `scale`, with `places` decimals, then `name`."""

    name: str
    scale: float
    places: int


PERCENT = Unit("%", 100, 1)
POINTS = Unit("pp", 100, 2)
NATS = Unit("nats", 1, 3)
PLAIN = Unit("", 1, 3)


@dataclass(frozen=True)
class Share:
    """The exact interval of a share of rows (Clopper & Pearson 1934)."""

    hits: Callable[[Predictions], BoolArray]

    def describe(self) -> str:
        """Say how the interval is made."""
        return "exact (Clopper & Pearson 1934)"


@dataclass(frozen=True)
class EffectiveShare:
    """The exact interval of a share, for as many rows as its variance is worth.

    Attributes:
        rows: How many those are.
    """

    rows: Callable[[Predictions], float]

    def describe(self) -> str:
        """Say how the interval is made."""
        return "exact, for as many rows as its variance is worth (Korn & Graubard 1998)"


@dataclass(frozen=True)
class Influence:
    """An interval from the first-order effect of every row; see `skewed_interval`.

    Attributes:
        effect: Of every row [n]: the metric moves with their mean (infinitesimal jackknife, Efron
            1982). For a mean over rows, its values.
        follows_temperature: Whether a temperature that was fitted adds its own uncertainty.
        by_class: Whether every class must have been right and wrong often enough.
    """

    effect: Callable[[Predictions], Float64Array]
    follows_temperature: bool = True
    by_class: bool = False

    def describe(self) -> str:
        """Say how the interval is made."""
        after = ", plus the variance of the temperature" if self.follows_temperature else ""
        return f"normal, mended for skewness (Hall 1992){after}"


@dataclass(frozen=True)
class Debiased:
    """The normal interval of the debiased squared error, or of its root.

    Attributes:
        squared: Of the square itself.
        by_class: Of the mean square over classes, not of the predicted class.
    """

    squared: bool
    by_class: bool = False

    def describe(self) -> str:
        """Say how the interval is made."""
        return "normal, at each hypothesised value, plus the variance of the temperature"


@dataclass(frozen=True)
class Excess:
    """The interval of a loss minus its least value, a square near 0, made as `Debiased`.

    Attributes:
        parts: The excess without bias and the parts of its variance; or why there are none.
        loss: Of every row [n], which a temperature that was fitted moves.
    """

    parts: Callable[[Predictions], DebiasedSums | str]
    loss: Callable[[Predictions], Float64Array]

    def describe(self) -> str:
        """Say how the interval is made."""
        return "normal, at each hypothesised value, plus the variance of the temperature"


@dataclass(frozen=True)
class SimulatedFloor:
    """No interval, for none covers 0, but what perfect calibration would show, simulated."""

    n_bins: int
    scheme: Scheme

    def describe(self) -> str:
        """Say how the interval is made."""
        return "none, for it would never cover 0; a simulated noise floor"


@dataclass(frozen=True)
class NoInterval:
    """No interval, and why."""

    reason: str

    def describe(self) -> str:
        """Say how the interval is made."""
        return f"none: {self.reason}"


POSITIVE = NoInterval("never negative, so it would not cover 0 at perfect calibration")


@dataclass(frozen=True)
class Metric:
    """A metric of one split's predictions, with all that anybody needs to know of it.

    Attributes:
        name: In records and columns; never changes.
        title: For people, as words in a sentence.
        label: For columns and axes.
        compute: The function of the predictions.
        better: Which way is better; `zero`: nearer to 0, from either side; None: neither.
        interval: How its interval is made, or why it has none.
        unit: How it is shown.
        source: Where it is from.
        over_seeds: How values of several seeds are averaged. `root_mean_square`: the signed root of
            the mean of signed squares, for the root of a quantity that is unbiased itself.
        two_classes: Whether it needs exactly two classes.
        scaling_only: Whether it is made after none and temperature only: it splits the loss by what
            a temperature can win, which says nothing once another map has been applied, or it
            needs the calibration rows.
        lacking: Says of predictions what they lack for it; None: they lack nothing, ever.
        outcome: How the test of the claim takes it: as an `error`, as a `squared error` (a
            divergence that grows with the square), or not at all.
        bins: Number of bins of a binned error.
        bounds: Its least and greatest value.
    """

    name: str
    title: str
    label: str
    compute: Callable[[Predictions], float]
    better: Literal["higher", "lower", "zero"] | None
    interval: Share | EffectiveShare | Influence | Debiased | Excess | SimulatedFloor | NoInterval
    unit: Unit
    source: str
    over_seeds: Literal["mean", "root_mean_square"] = "mean"
    two_classes: bool = False
    scaling_only: bool = False
    lacking: Callable[[Predictions], str | None] | None = None
    outcome: Literal["error", "squared error"] | None = None
    bins: int | None = None
    bounds: tuple[float, float] = (0, 1)

    def __call__(self, predictions: Predictions) -> float:
        """Compute the metric."""
        return self.compute(predictions)
