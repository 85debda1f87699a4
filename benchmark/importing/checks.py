"""What a source holds -> the splits that are stored, or an error that says where and what."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmark.arrays import AnyArray, BoolArray, Float32Array, IntArray
from benchmark.importing.errors import SourceError
from benchmark.importing.layout import SPLITS, RawSplit, SplitName
from benchmark.importing.order import check_order
from benchmark.importing.values import (
    PROBABILITY_FLOOR,
    Values,
    one_column_to_two,
    refuse,
    to_logits,
)
from benchmark.records import LogitsSplit
from benchmark.registry import did_you_mean

_HOLD_OUT_SEED = 0
"""The same for every model, so that models imported from the same rows hold out the same."""


@dataclass(frozen=True)
class Reading:
    """How the values are to be understood.

    Attributes:
        label_names: names in class order, if the user gave them.
        values: what the values are; None: nobody said.
        probability_floor: smaller probabilities are raised to it before the logarithm.
        calibration_fraction: share of the test rows to hold out for calibration.
        keep_class_order: columns and labels are in one order, however low the accuracy.
    """

    label_names: tuple[str, ...] | None = None
    values: Values | None = None
    probability_floor: float = PROBABILITY_FLOOR
    calibration_fraction: float | None = None
    keep_class_order: bool = False


@dataclass(frozen=True)
class Checked:
    """Splits that can be stored, the classes' names, and what a person should know of them."""

    splits: dict[str, LogitsSplit]
    label_names: tuple[str, ...]
    notes: tuple[str, ...]


def check_splits(found: Mapping[SplitName, RawSplit], reading: Reading) -> Checked:
    """Check every value and return the splits as they are stored.

    Logits become float32. Row ids are the source's own, or else positions: those of the test
    rows from 0, those of the calibration rows after them.

    Raises:
        SourceError: a value is unusable; the message names file, row, column and the remedy.
    """
    _require_splits(found, reading)
    if all(split.logits.shape[1] == 1 for split in found.values()):
        found = {name: one_column_to_two(s, name, reading.values) for name, s in found.items()}
    found = {name: _in_name_order(split) for name, split in found.items()}
    label_names = _common_classes(found, reading)
    notes: list[str] = []
    splits: dict[str, LogitsSplit] = {}
    for name in [name for name in SPLITS if name in found]:
        raw = found[name]
        labels = _labels(raw, label_names)
        logits = _logits(raw, name, labels, reading, notes)
        splits[name] = LogitsSplit(_ids(raw), logits, labels)
    if "calibration" not in splits:
        splits = _hold_out(splits["test"], float(reading.calibration_fraction or 0), notes)
    elif found["test"].ids is None and found["calibration"].ids is None:
        splits["calibration"] = replace(
            splits["calibration"], ids=splits["calibration"].ids + len(splits["test"].ids)
        )
    _check_apart(splits, found)
    if not reading.keep_class_order:
        notes += check_order(found["test"].path, splits, label_names, reading.values)
    return Checked(splits, label_names, tuple(notes))


def _require_splits(found: Mapping[SplitName, RawSplit], reading: Reading) -> None:
    where = ", ".join(dict.fromkeys(str(split.path) for split in found.values())) or "the source"
    if "test" not in found:
        raise SourceError(
            f"{where}: no test rows found; give --test FILE, or name arrays with --test-logits "
            f"and --test-labels{_as_test(found)}"
        )
    if "calibration" in found and reading.calibration_fraction is not None:
        raise SourceError(
            f"{where}: there are calibration rows, so --calibration-fraction has nothing to do"
        )
    if "calibration" not in found and reading.calibration_fraction is None:
        taken = _taken_as_test(found["test"])
        raise SourceError(
            f"{where}: {taken}no calibration rows found, and a temperature must not be fitted on "
            "the rows it is judged by; give --calibration FILE, name arrays with "
            "--calibration-logits and --calibration-labels, or hold out part of the test rows "
            "with --calibration-fraction 0.2"
        )
    for name, split in found.items():
        if len(split.logits) == 0:
            raise SourceError(f"{split.path}: the {name} split has no rows")


def _taken_as_test(test: RawSplit) -> str:
    if test.array is None:
        return ""
    return (
        f"'{test.array}' and '{test.label_place}' were taken for the test split (--test-logits and "
        "--test-labels name others); "
    )


def _as_test(found: Mapping[SplitName, RawSplit]) -> str:
    """Return how to judge by the only rows there are, such as the validation rows of ImageNet."""
    only = found.get("calibration")
    if only is None or only.array is None:
        return ""
    return (
        f". If '{only.array}' holds the rows to judge by: --test-logits {only.array} "
        f"--test-labels {only.label_place} --calibration-fraction 0.2"
    )


# --- classes and labels ------------------------------------------------------------------------


def _in_name_order(split: RawSplit) -> RawSplit:
    """Sort columns that are named by class, so that their order in the file does not matter.

    Only where labels are names as well: labels that are positions count the file's columns.
    """
    if not split.named_columns or split.class_names is None or split.labels.dtype.kind != "U":
        return split
    names = split.class_names
    order = sorted(range(len(names)), key=names.__getitem__)
    return replace(
        split,
        logits=split.logits[:, order],
        columns=tuple(split.columns[k] for k in order),
        class_names=tuple(names[k] for k in order),
    )


def _common_classes(found: Mapping[SplitName, RawSplit], reading: Reading) -> tuple[str, ...]:
    """Return the classes' names, the same for all splits: positions where nobody named them."""
    first, *others = found.values()
    n_classes = first.logits.shape[1]
    if n_classes < 2:
        raise SourceError(f"{first.path}: the logits have no columns")
    for other in others:
        if other.logits.shape[1] != n_classes:
            raise SourceError(
                f"{other.path} has {other.logits.shape[1]} classes, but {first.path} has "
                f"{n_classes}: are the splits of one model?"
            )
        if other.class_names != first.class_names:
            raise SourceError(
                f"{other.path} has its classes as {_shown(other.class_names)}, but {first.path} "
                f"as {_shown(first.class_names)}; bring them into one order"
            )
    names = reading.label_names or first.class_names
    names = names or _positions(n_classes)
    if len(names) != n_classes:
        raise SourceError(f"{first.path}: {n_classes} classes, but {len(names)} label names")
    if len(set(names)) != len(names):
        raise SourceError(f"{first.path}: label names repeat: {_shown(names)}")
    return names


def _positions(n_classes: int) -> tuple[str, ...]:
    return tuple(str(k) for k in range(n_classes))


def _labels(split: RawSplit, names: tuple[str, ...]) -> IntArray:
    """Return class positions [n] from positions or names.

    Raises:
        SourceError: the shape is wrong, or a label is no class.
    """
    labels = split.labels
    if labels.shape == (len(split.logits), 1):
        labels = labels[:, 0]
    if labels.shape != (len(split.logits),):
        one_hot = labels.ndim == 2 and labels.shape[1] == len(names)
        hint = "; give class positions, not one-hot rows" if one_hot else ""
        raise SourceError(
            f"{split.path}: {len(split.logits):,} rows of logits, but {split.label_place} has "
            f"shape {list(labels.shape)}{hint}"
        )
    if labels.dtype.kind in "US":
        return _labels_of_names(split, labels, names)
    if labels.dtype.kind not in "iubf":
        raise SourceError(f"{split.path}: {split.label_place} holds {labels.dtype}, not labels")
    with np.errstate(invalid="ignore"):
        bad = ~((labels >= 0) & (labels < len(names)) & (labels == np.floor(labels)))
    if bad.any():
        row = int(bad.argmax())
        refuse(
            split,
            row,
            split.label_place,
            f"label {labels[row]} is not a class position 0 ... {len(names) - 1}; count classes "
            "from 0 and leave out rows without a label (-1, -100)",
        )
    return labels.astype(np.int64)


def _labels_of_names(split: RawSplit, labels: AnyArray, names: tuple[str, ...]) -> IntArray:
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    positions = {name: k for k, name in enumerate(names)}
    used, inverse = np.unique(labels, return_inverse=True)
    for name in used.tolist():
        if name not in positions:
            row = int((labels == name).argmax())
            hint = did_you_mean(name, names)
            if names == _positions(len(names)):
                hint = "; say what the classes are called with --label-names"
            refuse(split, row, split.label_place, f"label '{name}' is not a class{hint}")
    return np.array([positions[name] for name in used.tolist()], dtype=np.int64)[inverse]


# --- logits ------------------------------------------------------------------------------------


def _logits(
    split: RawSplit, name: SplitName, labels: IntArray, reading: Reading, notes: list[str]
) -> Float32Array:
    """Return finite float32 logits [n, K]; note what rounding or zeros did to them."""
    made = to_logits(split, name, labels, reading.values, reading.probability_floor)
    notes += made.notes
    with np.errstate(over="ignore"):
        stored = made.logits.astype(np.float32)
    if not np.isfinite(stored).all():
        row, column = np.argwhere(~np.isfinite(stored))[0]
        refuse(
            split,
            int(row),
            split.columns[column],
            f"{made.logits[row, column]} is too large for float32, in which logits are stored",
        )
    if reading.values in (None, "logits"):
        change = float(np.abs(stored.astype(np.float64) - made.logits).max())
        if change > 0:
            notes.append(f"{name} logits were rounded to float32 (largest change {change:.1e})")
    return stored


# --- row ids and splits ------------------------------------------------------------------------


def _ids(split: RawSplit) -> IntArray:
    """Return the source's row ids as int64 [n], texts by their hash; else positions from 0."""
    if split.ids is None:
        return np.arange(len(split.logits), dtype=np.int64)
    ids = split.ids
    if ids.shape != (len(split.logits),) or ids.dtype.kind not in "iuUS":
        raise SourceError(
            f"{split.path}: {split.id_place} is {ids.dtype} {list(ids.shape)}; row ids are one "
            "whole number or text for each row"
        )
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        again = int(np.flatnonzero(ids == unique[(counts > 1).argmax()])[1])
        refuse(split, again, split.id_place, f"id '{ids[again]}' appears a second time")
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)
    hashed = [_text_id(text) for text in np.asarray(ids, dtype=np.str_).tolist()]
    return np.array(hashed, dtype=np.int64)


def _text_id(text: str) -> int:
    """Return 63 bits of a text's SHA-256: the same id for the same text in every source."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _hold_out(test: LogitsSplit, fraction: float, notes: list[str]) -> dict[str, LogitsSplit]:
    """Move a share of the test rows to the calibration split, chosen by row id alone."""
    n = len(test.ids)
    held = max(1, round(fraction * n))
    if held >= n:
        raise SourceError(f"{n} test rows are too few to hold out {fraction:g} of them")
    by_id = np.argsort(test.ids, kind="stable")
    chosen = np.zeros(n, dtype=bool)
    chosen[by_id[np.random.default_rng(_HOLD_OUT_SEED).permutation(n)[:held]]] = True
    notes.append(f"{held:,} of {n:,} test rows were held out for calibration")
    return {"calibration": _rows(test, chosen), "test": _rows(test, ~chosen)}


def _rows(split: LogitsSplit, chosen: BoolArray) -> LogitsSplit:
    return LogitsSplit(split.ids[chosen], split.logits[chosen], split.labels[chosen])


def _check_apart(splits: Mapping[str, LogitsSplit], found: Mapping[SplitName, RawSplit]) -> None:
    """Check that the splits share no row, and that the calibration split can be fitted."""
    calibration, test = splits["calibration"], splits["test"]
    where = found.get("calibration", found["test"]).path
    if np.array_equal(calibration.logits, test.logits):
        raise SourceError(
            f"{where}: calibration and test rows are the same; the temperature would be judged by "
            "the rows it is fitted on"
        )
    shared = np.intersect1d(calibration.ids, test.ids)
    if len(shared):
        raise SourceError(
            f"{where}: {len(shared):,} row ids are in both splits, the first of them {shared[0]}; "
            "no row may be in both, and either both splits have ids or none"
        )
    if len(np.unique(calibration.labels)) < 2:
        raise SourceError(
            f"{where}: every calibration row has label {calibration.labels[0]}, so no temperature "
            "can be fitted; is the file sorted by class?"
        )


def _shown(names: tuple[str, ...] | None) -> str:
    if names is None:
        return "positions"
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
