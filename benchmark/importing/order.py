"""Whether columns and labels speak of the same classes: asked where the rows speak against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmark.arrays import AnyArray, BoolArray, IntArray
from benchmark.importing.errors import SourceError
from benchmark.importing.values import Values
from benchmark.records import LogitsSplit

_LARGE_GAIN = 0.2
"""Gain of accuracy on the rows concerned, from which on another order is suspected."""

_CERTAIN = 5.0
"""Standard errors that the gain must be above zero."""

_MOST_CLASSES = 2000
"""The best order among more classes than these takes too long to find."""

_FEWEST_ROWS = 20


def check_order(
    path: Path, splits: Mapping[str, LogitsSplit], names: tuple[str, ...], values: Values | None
) -> list[str]:
    """Ask where the classes' order seems wrong; return a note where labels seem predictions.

    Args:
        path: the file, for messages.
        splits: the calibration and the test split.
        names: the classes' names.
        values: what the user says the values are; None: nobody said.

    Raises:
        SourceError: values are sorted in every row, the smallest value is the better prediction,
            or another order of classes, found on the calibration rows, is much better on the test
            rows.
    """
    calibration, test = splits["calibration"], splits["test"]
    _refuse_ranked(path, test.logits)
    hits = test.logits.argmax(axis=1) == test.labels
    if values is None:
        _ask_about_costs(path, test, hits)
    _ask_about_order(path, calibration, test, names, hits)
    all_hit = hits.all() and (calibration.logits.argmax(axis=1) == calibration.labels).all()
    if all_hit and len(hits) >= _FEWEST_ROWS:
        return [
            "every label is the class with the largest value; if these are predictions, name the "
            "true labels"
        ]
    return []


def _refuse_ranked(path: Path, logits: AnyArray) -> None:
    n, n_classes = logits.shape
    if n_classes < 3 or n < _FEWEST_ROWS:
        return
    steps = np.diff(logits, axis=1)
    if (steps <= 0).all() or (steps >= 0).all():
        raise SourceError(
            f"{path}: the values of every row are sorted, so they seem to be ranked (the best "
            "class first, as in a list of the top k) and not one column for each class; save the "
            "values in class order. If every row does give the classes in this order: "
            "--keep-class-order"
        )


def _ask_about_costs(path: Path, test: LogitsSplit, hits: BoolArray) -> None:
    lowest = test.logits.argmin(axis=1) == test.labels
    if _much_better(hits, lowest):
        raise SourceError(
            f"{path}: the largest value is the label's in {hits.mean():.1%} of the test rows, and "
            f"the smallest in {lowest.mean():.1%}. Is the smallest best, as with losses? "
            "--values costs. If not: --values logits"
        )


def _ask_about_order(
    path: Path,
    calibration: LogitsSplit,
    test: LogitsSplit,
    names: tuple[str, ...],
    hits: BoolArray,
) -> None:
    if len(names) > _MOST_CLASSES:
        return
    label_of = _best_labels(calibration, len(names))
    predicted = test.logits.argmax(axis=1)
    moved = [k for k in np.unique(predicted) if label_of[k] != k]
    concerned = np.isin(predicted, moved) | np.isin(test.labels, moved)
    better = label_of[predicted] == test.labels
    if not _much_better(hits[concerned], better[concerned]):
        return
    shown = ", ".join(f"'{names[k]}' is '{names[label_of[k]]}'" for k in moved[:4])
    shift = np.unique((label_of[moved] - np.array(moved)) % len(names))
    hint = "are the labels counted from 1? " if shift.tolist() == [1] else ""
    raise SourceError(
        f"{path}: the largest value is the label's in {hits.mean():.1%} of the test rows, but in "
        f"{better.mean():.1%} if the labels have another order than the columns ({shown}"
        f"{', ...' if len(moved) > 4 else ''}; found on the calibration rows). Which is so? {hint}"
        "Bring columns and labels into one order (--label-names A,B,... says what the columns "
        "are, --logit-columns puts them in order), or, if the model is that wrong: "
        "--keep-class-order"
    )


def _best_labels(split: LogitsSplit, n_classes: int) -> IntArray:
    """Return the label for each predicted class [K], one to one, that most rows agree with."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (split.logits.argmax(axis=1), split.labels), 1)
    # Where rows do not tell, the order stays as it is.
    counts += 1e-3 * np.eye(n_classes)
    return np.asarray(linear_sum_assignment(counts, maximize=True)[1], dtype=np.int64)


def _much_better(first: BoolArray, second: BoolArray) -> bool:
    """Say whether the second predictions are right on many more of the same rows (McNemar)."""
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return gained - lost > max(
        _LARGE_GAIN * len(first), _CERTAIN * math.sqrt(gained + lost), _FEWEST_ROWS / 2
    )
