"""What a temperature does to the rows it is applied to: after minus before, on the same rows."""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmark.statistics.comparison import mean_difference
from benchmark.statistics.contrast import SquaredContrast
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.logit_arrays import Labels, Logits, check_rows
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import TemperaturePath
from benchmark.statistics.skewed_interval import NO_CHANCE, too_few


class ScalingEffect(NamedTuple):
    """Differences with their 95% intervals; above 0: the temperature makes it worse.

    Attributes:
        nll: Of the mean NLL, nats.
        error: Of the debiased calibration error: the signed root of the difference of squares.
    """

    nll: Estimate
    error: Estimate


def scaling_effect(logits: Logits, labels: Labels, temperature: float) -> ScalingEffect:
    """Judge what a temperature, held fixed, does to the NLL and the calibration error of rows.

    Both are compared in pairs, row by row (see `comparison` and `SquaredContrast`), for these rows
    stand for all that the temperature will be applied to.

    Args:
        logits: [n, K] of rows that the temperature was not fitted on.
        labels: [n] their labels.
        temperature: In [0, inf].

    Raises:
        ValueError: Naming the first bad row.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(0, 2, (2000, 3))
        >>> labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # T = 1 is right
        >>> effect = scaling_effect(logits, labels, temperature=3.0)
        >>> [round(end, 2) for end in (effect.nll.low, effect.nll.high)]
        [0.15, 0.19]
    """
    rows = check_rows(logits, labels)
    before, after = (Predictions.from_rows(rows, t) for t in (1.0, temperature))
    lacking = too_few(before.correct)
    parts = [TemperaturePath.fixed(one, 2).parts() for one in (after, before)]
    contrast = SquaredContrast.of(parts, (1.0, -1.0))
    tested = contrast.test().rooted()
    error = (
        Estimate(tested.difference, tested.low, tested.high)
        if lacking is None
        else Estimate(tested.difference, no_interval=lacking)
    )
    return ScalingEffect(_nll(before, after, lacking), error)


def _nll(before: Predictions, after: Predictions, lacking: str | None) -> Estimate:
    effects = after.nll - before.nll
    difference = float(effects.mean())
    if not math.isfinite(difference):
        return Estimate(difference, no_interval=NO_CHANCE)
    if lacking is not None:
        return Estimate(difference, no_interval=lacking)
    found = mean_difference(difference, effects)
    if isinstance(found, str):
        return Estimate(difference, no_interval=found)
    return Estimate(found.difference, found.low, found.high)
