"""Prediction sets that hold the label nine times of ten, by adaptive prediction sets (APS).

Romano, Sesia & Candes 2020, "Classification with Valid and Adaptive Coverage". A class's score is
the probability of the classes above it and a random share of its own; the set of a row holds the
classes whose score is at most that of nine calibration labels of ten. If calibration and test rows
are exchangeable, such sets hold the label at least that often, whatever the model. Classes of equal
probability share one score, so that they are in a set together or not at all.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.arrays import BoolArray, Float64Array, FloatArray
from benchmark.statistics.logit_arrays import LogitRows, row_sum
from benchmark.statistics.metric import PERCENT, Influence, Metric, Share, Unit
from benchmark.statistics.predictions import Predictions, probability_blocks

NINE_OF_TEN = (9, 10)
"""How often sets are to hold the label, as a ratio of integers: its quantile has no rounding."""
FEWEST_ROWS = 9
"""Calibration rows without which no score is large enough: one of ten is still to come."""
SEED = 0
CALIBRATION_STREAM, TEST_STREAM = range(2)
CLASSES = Unit("classes", 1, 2)


def set_coverage(predictions: Predictions) -> float:
    """Share of rows whose prediction set holds the label, in [0, 1]; NaN without calibration."""
    return math.nan if lacking(predictions) else float(prediction_sets(predictions).holds.mean())


def mean_set_size(predictions: Predictions) -> float:
    """Mean number of classes in a prediction set, in [0, K]; NaN without calibration rows.

    A set may be empty: with a confident model one class, dropped for some rows at random, is all
    that nine of ten take.
    """
    return math.nan if lacking(predictions) else float(prediction_sets(predictions).sizes.mean())


def lacking(predictions: Predictions) -> str | None:
    """Say why there are no sets, or return None."""
    if predictions.calibration is None:
        return "no calibration rows"
    count = predictions.calibration.n_rows
    if count < FEWEST_ROWS:
        return f"too few calibration rows: {count}, sets need {FEWEST_ROWS}"
    return None


class PredictionSets(NamedTuple):
    """The sets of all rows.

    Attributes:
        threshold: A class is in the set if its score is at most this.
        holds: Bool [n], whether the set holds the label.
        sizes: Float64 [n], the number of classes in the set.
    """

    threshold: float
    holds: BoolArray
    sizes: Float64Array


# Two metrics, and the interval of either, share the sets of one split.
_SETS: WeakKeyDictionary[Predictions, PredictionSets] = WeakKeyDictionary()


def prediction_sets(predictions: Predictions) -> PredictionSets:
    """Return the set of every row, made once for the same predictions.

    The threshold is the k-th least score among m calibration labels, with k the least integer for
    which k / (m + 1) is at least nine tenths.

    Raises:
        ValueError: There are no calibration rows, or too few.
    """
    calibration, reason = predictions.calibration, lacking(predictions)
    if calibration is None or reason is not None:
        raise ValueError(reason)
    if predictions not in _SETS:
        rows, temperature = predictions.rows, predictions.temperature
        known = label_scores(calibration, temperature, CALIBRATION_STREAM)
        nine, ten = NINE_OF_TEN
        place = -(-(len(known) + 1) * nine // ten) - 1
        threshold = float(np.partition(known, place)[place])
        shares, sizes = draws(rows, TEST_STREAM), np.empty(rows.n_rows)
        for at, probabilities in probability_blocks(rows, temperature):
            sizes[at] = _sizes(probabilities, shares[at], threshold)
        holds = label_scores(rows, temperature, TEST_STREAM) <= threshold
        _SETS[predictions] = PredictionSets(threshold, holds, sizes)
    return _SETS[predictions]


def label_scores(rows: LogitRows, temperature: float, stream: int) -> Float64Array:
    """Return the score of each row's label [n], in [0, 1].

    Args:
        rows: Checked logits and labels.
        temperature: In [0, inf].
        stream: Of the random shares; see `draws`.
    """
    shares, scores = draws(rows, stream), np.empty(rows.n_rows)
    for at, probabilities in probability_blocks(rows, temperature):
        own = probabilities[np.arange(len(probabilities)), rows.labels[at], None]
        above = row_sum(np.where(probabilities > own, probabilities, 0))
        tied = own[:, 0] * np.count_nonzero(probabilities == own, axis=1)
        scores[at] = np.minimum(above + shares[at] * tied, 1)
    return scores


def draws(rows: LogitRows, stream: int) -> Float64Array:
    """Return the random share of each row [n], the same for all models scored on the same rows.

    The labels are part of the seed, so that other rows get other shares: of one set of shares for
    all splits, coverage would be off by as much as their mean is off one half.
    """
    labels = zlib.crc32(rows.labels.astype("<i8").tobytes())
    return np.random.default_rng([SEED, stream, labels]).random(rows.n_rows)


def _sizes(probabilities: FloatArray, shares: Float64Array, threshold: float) -> Float64Array:
    """Return how many classes of each row [m, K] have a score of at most the threshold."""
    ordered = np.sort(np.ascontiguousarray(probabilities), axis=1)[:, ::-1]
    above = np.cumsum(ordered, axis=1)
    above -= ordered
    scores = ordered * shares[:, None].astype(ordered.dtype)
    scores += above
    sizes = np.count_nonzero(np.minimum(scores, 1, out=scores) <= threshold, axis=1)
    # As if no two were equal. That is wrong only for a row whose last class in the set and first
    # class out of it are: of these, either all or none are in.
    last = np.clip(sizes, 1, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    border = ordered[rows, last]
    cut = np.flatnonzero((sizes == last) & (ordered[rows, last - 1] == border))
    for row in cut:
        before = int(np.count_nonzero(ordered[row] > border[row]))
        tied = int(np.count_nonzero(ordered[row] == border[row]))
        score = min(above[row, before] + shares[row] * tied * float(border[row]), 1)
        sizes[row] = before + tied * (score <= threshold)
    return np.asarray(sizes, np.float64)


METRICS = (
    Metric(
        "aps_coverage_90", "share of prediction sets (APS, 90%) that hold the label",
        "coverage of 90% sets", set_coverage, None,
        Share(lambda p: prediction_sets(p).holds), PERCENT,
        "Romano et al. 2020", scaling_only=True, lacking=lacking,
    ),
    Metric(
        "aps_set_size_90", "mean size of the prediction sets (APS, 90%)", "size of 90% sets",
        mean_set_size, "lower",
        Influence(lambda p: prediction_sets(p).sizes, follows_temperature=False), CLASSES,
        "Romano et al. 2020", scaling_only=True, lacking=lacking, bounds=(0, math.inf),
    ),
)  # fmt: skip
