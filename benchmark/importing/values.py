"""What the values of a source are: said by the user, or plain logits where nothing speaks against.

Values that look like something else are a question, which names an answer for each thing they
could be. Softmax sees differences of logits only, so logarithms of probabilities are logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NoReturn, get_args

import numpy as np

from benchmark.arrays import AnyArray, BoolArray, Float64Array, IntArray
from benchmark.importing.errors import SourceError
from benchmark.importing.layout import RawSplit, SplitName

Values = Literal[
    "logits",
    "probabilities",
    "percentages",
    "shares",
    "sigmoids",
    "odds",
    "costs",
    "log2-probabilities",
    "log10-probabilities",
]
VALUES: tuple[Values, ...] = get_args(Values)

PROBABILITY_FLOOR = float(np.finfo(np.float32).tiny)
"""The smallest normal float32, about 1.2e-38: what a probability of zero becomes by default."""

_SUM_TOLERANCE = 1e-2
"""Half-precision probabilities of a thousand classes add up to 1 within this."""

_EXACT = 1e-3
"""The same for values of which most are far from 0 and 1, where chance is to be told apart."""

_SUSPECT = 0.5
"""Share of rows that look like something else, from which on they are asked about."""

_MOST_DECIMALS = 4
"""Values with more are not taken for rounded."""

_MEANING: dict[Values, str] = {
    "logits": "their softmax is the confidence; logarithms of probabilities are logits too",
    "probabilities": "each row adds up to 1, up to rounding (--probabilities for short)",
    "percentages": "each row adds up to 100, up to rounding",
    "shares": "each row is divided by its sum, as counts of votes are",
    "sigmoids": "one yes-or-no probability for each class; their log odds become the logits",
    "odds": "p / (1 - p), from which the probabilities are taken",
    "costs": "the smallest is best, as with losses; their negatives become the logits",
    "log2-probabilities": "logarithms to base 2; natural ones become the logits",
    "log10-probabilities": "logarithms to base 10; natural ones become the logits",
}
_BASES: dict[Values, float] = {"log2-probabilities": 2.0, "log10-probabilities": 10.0}


@dataclass(frozen=True)
class Stored:
    """Logits [n, K] as floats, and what a person should know of how they came about."""

    logits: AnyArray
    notes: tuple[str, ...]


def to_logits(
    split: RawSplit, name: SplitName, labels: IntArray, values: Values | None, floor: float
) -> Stored:
    """Return finite logits of a split's values.

    Args:
        split: values [n, K] of any numeric type, K >= 2.
        name: the split's.
        labels: class positions [n].
        values: what they are; None: nobody said.
        floor: smaller probabilities are raised to it before the logarithm.

    Raises:
        SourceError: a value is unusable, or values of which nobody said anything look like no
            logits.
    """
    if split.logits.dtype.kind not in "iuf":
        raise SourceError(f"{split.path}: the {name} logits are {split.logits.dtype}, not numbers")
    _require_finite(split)
    if values is None:
        _ask_what_they_are(split, name, labels)
    if values in (None, "logits"):
        return Stored(split.logits, ())
    wide = split.logits.astype(np.float64, copy=False)
    if values == "costs":
        return Stored(-wide, ())
    if values in _BASES:
        return Stored(wide * np.log(_BASES[values]), ())
    notes: list[str] = []
    probabilities = _probabilities(split, name, wide, values, notes)
    if values == "sigmoids":
        odds = _log(probabilities, floor) - _log(1 - probabilities, floor)
        at_limit = int(((probabilities < floor) | (1 - probabilities < floor)).sum())
        if at_limit:
            notes.append(
                f"{at_limit:,} {name} sigmoids of 0 or 1 became log odds of "
                f"{-np.log(floor):.1f} in size (--probability-floor sets another)"
            )
        return Stored(odds, tuple(notes))
    notes += _floor_notes(probabilities, name, labels, floor)
    return Stored(_log(probabilities, floor), tuple(notes))


def _log(probabilities: Float64Array, floor: float) -> Float64Array:
    return np.asarray(np.log(np.maximum(probabilities, floor)))


def one_column_to_two(split: RawSplit, name: SplitName, values: Values | None) -> RawSplit:
    """Return a column of scores for class 1 as the columns of classes 0 and 1.

    Raises:
        SourceError: nobody said what the scores are.
    """
    score = split.logits.astype(np.float64)
    whole = {"logits": 0.0, "probabilities": 1.0, "percentages": 100.0}
    if values not in whole:
        raise SourceError(
            f"{split.path}: the {name} logits are 1 column, but at least 2 classes are needed; is "
            "it a score of class 1 against class 0? --values logits (the other class then has "
            "logit 0), --values probabilities or --values percentages (the other class has the "
            "rest). If it is something else, name the columns or arrays of logits"
        )
    other = np.zeros_like(score) if values == "logits" else whole[values] - score
    return replace(
        split,
        logits=np.concatenate([other, score], axis=1),
        columns=split.columns * 2,
        class_names=None,
        named_columns=False,
    )


def _require_finite(split: RawSplit) -> None:
    if np.isfinite(split.logits).all():
        return
    row, column = np.argwhere(~np.isfinite(split.logits))[0]
    value = split.logits[row, column]
    hint = "for a class that is masked give a large negative logit, such as -10000"
    if not np.isneginf(value):
        hint = "the model overflowed or diverged there; leave the row out"
    refuse(split, int(row), split.columns[column], f"the value is {value}; {hint}")


def refuse(split: RawSplit, row: int, place: str, problem: str) -> NoReturn:
    """Raise the error of one row, which is named as the file counts it."""
    raise SourceError(f"{split.path}: row {split.rows[row]}, {place}: {problem}")


# --- values that nobody described ---------------------------------------------------------------


def _ask_what_they_are(split: RawSplit, name: SplitName, labels: IntArray) -> None:
    """Raise the question where the values look like anything but logits."""
    if (split.logits <= 0).all(axis=1).mean() >= _SUSPECT:
        _ask_about_bases(split, name, split.logits.astype(np.float64, copy=False))
    if (split.logits >= 0).all(axis=1).mean() < _SUSPECT:
        return
    wide = split.logits.astype(np.float64, copy=False)
    within = np.asarray(((wide >= 0) & (wide <= 1 + 1e-6)).all(axis=1))
    kinds: tuple[tuple[BoolArray, str, tuple[Values, ...]], ...] = (
        (_vary_but_add_up(wide, 1), "add up to 1", ("probabilities",)),
        (_vary_but_add_up(wide, 100), "add up to 100", ("percentages",)),
        (within, "lie between 0 and 1", ("probabilities", "sigmoids", "shares")),
        (_adds_up_alike(wide), "add up to the same number", ("shares",)),
        (_odds(wide), "add up to 1 as odds", ("odds",)),
        (
            _costs(wide, labels),
            "are logarithms of probabilities without minus signs",
            ("costs",),
        ),
    )
    for looks, what, answers in kinds:
        if looks.mean() >= _SUSPECT:
            raise _question(split, name, wide, looks, what, answers)


def _ask_about_bases(split: RawSplit, name: SplitName, wide: Float64Array) -> None:
    """Raise the question where powers of another base than e add up to 1."""
    capped = np.minimum(wide, 1)
    natural = np.abs(np.exp(capped).sum(axis=1) - 1) <= _EXACT
    shifted = wide.max(axis=1) == 0  # logits less the largest are no logarithms of probabilities
    for kind, base in _BASES.items():
        looks = np.asarray((np.abs((base**capped).sum(axis=1) - 1) <= _EXACT) & ~shifted)
        # Of a row that is sure of its class the powers add up to 1 in any base.
        if looks.mean() >= _SUSPECT and (looks & ~natural).mean() > (natural & ~looks).mean():
            raise _question(split, name, wide, looks, f"add up to 1 as powers of {base:g}", (kind,))


def _question(
    split: RawSplit,
    name: SplitName,
    wide: Float64Array,
    looks: BoolArray,
    what: str,
    answers: tuple[Values, ...],
) -> SourceError:
    """Return what the rows look like, which row does not, and an option for each answer."""
    n, n_looking = len(wide), int(looks.sum())
    beside = ""
    if n_looking < n:
        first = int(np.argmin(looks))
        beside = f" (but not of row {split.rows[first]}: {_row(wide[first])})"
    rows = "every row" if n_looking == n else f"{n_looking:,} of {n:,} rows"
    options = "; ".join(f"--values {kind} ({_MEANING[kind]})" for kind in (*answers, "logits"))
    return SourceError(
        f"{split.path}: the {name} values of {rows} {what}{beside}, so these look like "
        f"{' or '.join(answers)}, not logits. What are they? {options}"
    )


def _row(values: Float64Array) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:4])
    return f"{shown}{', ...' if len(values) > 4 else ''}, sum {values.sum():.4g}"


def _adds_up_to(wide: Float64Array, whole: float) -> BoolArray:
    """Say of each row whether it can be shares of `whole`, rounded as the values are."""
    near = np.abs(wide.sum(axis=1) - whole) <= _sum_tolerance(wide / whole) * whole
    return np.asarray(near & (wide >= 0).all(axis=1))


def _vary_but_add_up(wide: Float64Array, whole: float) -> BoolArray:
    """The same, but rows that hardly vary must hardly miss: logits far from 0 may come near."""
    misses = np.abs(wide.sum(axis=1) - whole)
    varies = np.maximum(0.1 * np.ptp(wide, axis=1), 1e-6 * whole)
    rounded = decimals_of(wide / whole) is not None
    return np.asarray(_adds_up_to(wide, whole) & (rounded | (misses <= varies)))


def _adds_up_alike(wide: Float64Array) -> BoolArray:
    sums = wide.sum(axis=1)
    usual = float(np.median(sums))
    alike = np.abs(sums - usual) <= 1e-3 * float(np.median(np.ptp(wide, axis=1)))
    # Rows of the same values in another order add up alike whatever they are.
    differ = np.ptp(np.sort(wide, axis=1), axis=0).max() > 1e-6 * abs(usual)
    return np.asarray(alike & differ & (usual > 0) & (wide >= 0).all(axis=1))


def _odds(wide: Float64Array) -> BoolArray:
    """Say of each row whether it is odds; zeros beside one large value are logits as well."""
    sums = _of_odds(wide).sum(axis=1)
    return np.asarray((np.abs(sums - 1) <= 0.1 * _EXACT) & (np.count_nonzero(wide > 0, axis=1) > 1))


def _of_odds(wide: Float64Array) -> Float64Array:
    """Return p of p / (1 - p); what is negative stays so."""
    return np.where(wide >= 0, wide / (1 + np.maximum(wide, 0)), wide)


def _costs(wide: Float64Array, labels: IntArray) -> BoolArray:
    """Say of each row whether it is -log p: of a sure row, only the labels tell it from logits."""
    if (wide.argmin(axis=1) == labels).sum() < (wide.argmax(axis=1) == labels).sum():
        return np.zeros(len(wide), dtype=bool)
    sums = np.exp(-np.maximum(wide, 0)).sum(axis=1)
    return np.asarray((wide >= 0).all(axis=1) & (np.abs(sums - 1) <= _SUM_TOLERANCE))


def decimals_of(wide: Float64Array) -> int | None:
    """Return how many decimals values in [0, 1] are rounded to; None: more than four."""
    for decimals in range(1, _MOST_DECIMALS + 1):
        scaled = wide * 10.0**decimals
        if np.abs(scaled - np.round(scaled)).max(initial=0) < 1e-3:
            return decimals
    return None


def _sum_tolerance(wide: Float64Array) -> float:
    """Return how far from 1 rounding or cutting off may have taken a row's sum, at most a half."""
    decimals = decimals_of(wide)
    if decimals is None or np.isin(wide, (0, 1)).all():
        return _SUM_TOLERANCE
    return float(max(_SUM_TOLERANCE, min(0.5, wide.shape[1] * 10.0**-decimals + 1e-9)))


# --- probabilities ------------------------------------------------------------------------------


def _probabilities(
    split: RawSplit, name: SplitName, wide: Float64Array, values: Values, notes: list[str]
) -> Float64Array:
    """Return probabilities [n, K], of sigmoids as they are; else rows that add up to about 1.

    Raises:
        SourceError: a row is not what the user said.
    """
    sums = wide.sum(axis=1)
    _require(split, name, wide, np.asarray((wide >= 0).all(axis=1)), values)
    if values == "sigmoids":
        _require(split, name, wide, np.asarray((wide <= 1).all(axis=1)), values)
        return wide
    if values == "odds":
        wide = _of_odds(wide)
        _require(split, name, wide, _adds_up_to(wide, 1), values)
        return wide
    if values == "shares":
        _require(split, name, wide, sums > 0, values)
        return np.asarray(wide / sums[:, None])
    whole = 100.0 if values == "percentages" else 1.0
    _require(split, name, wide, _adds_up_to(wide, whole), values)
    scaled = wide / whole
    if np.abs(sums / whole - 1).max() > _SUM_TOLERANCE:
        notes.append(
            f"{name} rows add up to {sums.min():.4g} ... {sums.max():.4g}, as values rounded to "
            f"{decimals_of(scaled)} decimals may; each row counts relative to its sum"
        )
    return np.asarray(scaled)


def _require(
    split: RawSplit, name: SplitName, wide: Float64Array, good: BoolArray, values: Values
) -> None:
    """Refuse the first row that is not good, with what else the values may be."""
    if good.all():
        return
    row = int(np.argmin(good))
    if wide[row].min() < 0:
        what = "holds a negative value"
    elif values == "sigmoids":
        what = f"holds {wide[row].max():.4g}, which is above 1"
    else:
        what = f"adds up to {wide[row].sum():.4g}"
    if good.mean() >= _SUSPECT:
        raise SourceError(
            f"{split.path}: row {split.rows[row]} of the {name} split {what}, unlike "
            f"{int(good.sum()):,} other rows; mend the row or leave it out, or say what all are "
            f"with --values {'|'.join(VALUES)}"
        )
    options = "; ".join(f"--values {kind} ({_MEANING[kind]})" for kind in VALUES if kind != values)
    raise SourceError(
        f"{split.path}: row {split.rows[row]} of the {name} split {what}, so these are not "
        f"{values}. What are they? {options}"
    )


def _floor_notes(
    probabilities: Float64Array, name: SplitName, labels: IntArray, floor: float
) -> list[str]:
    low = probabilities < floor
    if not low.any():
        return []
    at_label = int(low[np.arange(len(labels)), labels].sum())
    note = (
        f"{int(low.sum()):,} {name} probabilities below {floor:.2g} (zeros included) became "
        f"{floor:.2g}, a logit of {np.log(floor):.1f}; {at_label:,} of them belong to the true "
        "class, where each adds that much to the NLL (--probability-floor sets another)"
    )
    decimals = decimals_of(probabilities)
    if decimals is not None and not np.isin(probabilities, (0, 1)).all():
        half = 0.5 * 10.0**-decimals
        note += (
            f". The values have {decimals} decimals, so a zero stands for anything below {half:g}: "
            f"consider --probability-floor {half / 2:g}"
        )
    return [note]
