"""Samples of one model and task -> splits: choices are classes, documents are rows.

The accuracy of what is read must be the file's own, row by row. Documents with fewer choices than
others have the rest masked with -inf, which no temperature changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmark.arrays import BoolArray, Float64Array, IntArray
from benchmark.importing.checks import Checked
from benchmark.importing.errors import SourceError
from benchmark.importing.layout import SplitName
from benchmark.importing.samples import Sample, SampleFile, read_samples
from benchmark.records import LogitsSplit

Normalisation = Literal["none", "characters", "bytes"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)

_METRICS: dict[Normalisation, str] = {
    "none": "acc",
    "characters": "acc_norm",
    "bytes": "acc_bytes",
}
"""The harness's accuracy of the choice that each normalisation prefers."""

_DIGEST_BITS = 63


@dataclass(frozen=True)
class Reference:
    """Right choices of a task by row id, as another model's file has them."""

    model: str
    labels: Mapping[int, int]


@dataclass(frozen=True)
class SamplesSource:
    """One file of samples.

    Attributes:
        file: the file.
        normalisation: what each log-likelihood is divided by: nothing, or its choice's length.
        target_field: field of the document that holds the right choice; None: `target`.
        calibration_fraction: share of the documents that are held out for calibration.
        reference: the same task of another model, which must agree on the right choices.
    """

    file: SampleFile
    normalisation: Normalisation
    target_field: str | None
    calibration_fraction: float
    reference: Reference | None = None

    @property
    def files(self) -> tuple[tuple[SplitName | None, Path], ...]:
        """The one file."""
        return ((None, self.file.path),)

    def decides(self, digests: Sequence[tuple[SplitName | None, str, str]]) -> Mapping[str, Any]:
        """Return what decides the stored logits."""
        return {
            "samples": [digest for _, _, digest in digests],
            "normalisation": self.normalisation,
            "target_field": self.target_field,
            "calibration_fraction": self.calibration_fraction,
        }

    def describe(self) -> Mapping[str, Any]:
        """Return how the values were understood."""
        return {"values": "log-likelihoods of choices", "normalisation": self.normalisation}

    def read(self) -> Checked:
        """Read and check the samples.

        Raises:
            NotMultipleChoiceError: the task is of another kind.
            SourceError: a row is unusable, or the accuracy is not that of the file.
        """
        notes: list[str] = []
        samples = _one_filter(self.file.path, list(read_samples(self.file.path)), notes)
        logits = _logits(samples, self.normalisation, notes)
        labels = _labels(samples, logits, _METRICS[self.normalisation], self.target_field, notes)
        splits = _split(self.file.path, samples, logits, labels, self.calibration_fraction, notes)
        if self.reference is not None:
            notes += _compare(self.file.path, splits, self.reference)
        return Checked(splits, _class_names(samples, logits.shape[1]), tuple(notes))


def _one_filter(path: Path, samples: Sequence[Sample], notes: list[str]) -> list[Sample]:
    """Return the samples of one filter: with several, each document comes once for each."""
    if not samples:
        raise SourceError(f"{path}: the file has no samples")
    counts = Counter(sample.filter for sample in samples)
    chosen = "none" if "none" in counts else next(iter(counts))
    if len(counts) > 1:
        notes.append(f"of the filters {', '.join(counts)}, '{chosen}' was taken")
    return [sample for sample in samples if sample.filter == chosen]


# --- values -------------------------------------------------------------------------------------


def _logits(
    samples: Sequence[Sample], normalisation: Normalisation, notes: list[str]
) -> Float64Array:
    """Return log-likelihoods [n, K], -inf for choices that a document does not have."""
    n_choices = [len(sample.log_likelihoods) for sample in samples]
    logits = np.full((len(samples), max(n_choices)), -np.inf)
    for row, sample in enumerate(samples):
        logits[row, : n_choices[row]] = _normalised(sample, normalisation)
    fewer = sum(n < max(n_choices) for n in n_choices)
    if fewer:
        notes.append(
            f"{fewer:,} of {len(samples):,} documents have fewer than {max(n_choices)} choices; "
            "the rest are masked"
        )
    return logits


def _normalised(sample: Sample, normalisation: Normalisation) -> Float64Array:
    values = np.array(sample.log_likelihoods)
    if normalisation == "none":
        return values
    if not sample.choices:
        raise SourceError(
            f"{sample.place}: no texts of the choices in 'arguments', so their lengths are not "
            "known; import with --normalise none"
        )
    lengths = [
        len(choice if normalisation == "characters" else choice.encode("utf-8", "surrogatepass"))
        for choice in sample.choices
    ]
    if not all(lengths):
        raise SourceError(f"{sample.place}: a choice is empty, so it cannot be normalised")
    return np.asarray(values / np.array(lengths, dtype=np.float64))


def _class_names(samples: Sequence[Sample], n_classes: int) -> tuple[str, ...]:
    """Return the choices' texts where all documents have the same, else positions."""
    first = samples[0].choices
    same = all(sample.choices == first for sample in samples)
    if same and len({text.strip() for text in first}) == n_classes and all(map(str.strip, first)):
        return tuple(text.strip() for text in first)
    return tuple(str(k) for k in range(n_classes))


# --- labels -------------------------------------------------------------------------------------

_Meaning = Callable[[Any, Sample], int | None]


def _as_position(target: Any, sample: Sample) -> int | None:
    text = str(target).strip()
    within = text.isdecimal() and int(text) < len(sample.log_likelihoods)
    return int(text) if within and not isinstance(target, bool) else None


def _as_text(target: Any, sample: Sample) -> int | None:
    texts = [choice.strip() for choice in sample.choices]
    text = str(target).strip()
    return texts.index(text) if texts.count(text) == 1 else None


def _as_letter(target: Any, sample: Sample) -> int | None:
    text = str(target).strip().upper()
    position = ord(text) - ord("A") if len(text) == 1 else -1
    return position if 0 <= position < len(sample.log_likelihoods) else None


_MEANINGS: tuple[_Meaning, ...] = (_as_position, _as_text, _as_letter)


def _labels(
    samples: Sequence[Sample],
    logits: Float64Array,
    metric: str,
    target_field: str | None,
    notes: list[str],
) -> IntArray:
    """Return the right choices [n]: by the one way to read the targets that the accuracy fits.

    Raises:
        SourceError: the targets cannot be read, or the accuracy is not that of the file.
    """
    hits = _hits(samples, metric)
    best = logits.argmax(axis=1)
    if hits is None:
        notes.append(f"the file has no {metric}, so the accuracy could not be checked")
    targets = [
        sample.target if target_field is None else sample.fields.get(target_field)
        for sample in samples
    ]
    wrong = None
    for meaning in _MEANINGS:
        found = [meaning(target, sample) for target, sample in zip(targets, samples, strict=True)]
        if any(position is None for position in found):
            continue
        labels = np.array(found, dtype=np.int64)
        if hits is None or ((best == labels) == hits).all():
            return labels
        wrong = labels if wrong is None else wrong
    if hits is not None and wrong is None and (np.isfinite(logits).sum(axis=1) == 2).all():
        notes.append(f"the right one of two choices was told from {metric}: 'target' names none")
        return np.asarray(np.where(hits, best, 1 - best), dtype=np.int64)
    if hits is not None and wrong is not None:
        raise _wrong_accuracy(samples, best, wrong, hits, metric)
    raise _unreadable(samples, targets, target_field)


def _hits(samples: Sequence[Sample], metric: str) -> BoolArray | None:
    """Return whether each document was counted as right, or None where the file does not say."""
    values = [sample.metrics.get(metric) for sample in samples]
    if all(value is None for value in values):
        return None
    for value, sample in zip(values, samples, strict=True):
        if str(value).strip().lower() not in ("0", "1", "0.0", "1.0", "true", "false"):
            raise SourceError(
                f"{sample.place}: {metric} is {value}, neither 0 nor 1; a task with one right "
                "choice a document is needed"
            )
    return np.array([str(value).strip().lower() in ("1", "1.0", "true") for value in values])


def _wrong_accuracy(
    samples: Sequence[Sample], best: IntArray, labels: IntArray, hits: BoolArray, metric: str
) -> SourceError:
    unlike = (best == labels) != hits
    row = int(unlike.argmax())
    return SourceError(
        f"{samples[row].place}: the choice with the largest value is {best[row]} and the right one "
        f"{labels[row]}, so {metric} would be {int(best[row] == labels[row])}, but the file says "
        f"{int(hits[row])} ({int(unlike.sum()):,} of {len(labels):,} rows differ). Is another "
        "field of 'doc' the right choice (--target-field), or another --normalise meant?"
    )


def _unreadable(
    samples: Sequence[Sample], targets: Sequence[Any], target_field: str | None
) -> SourceError:
    row = next(
        row
        for row, (target, sample) in enumerate(zip(targets, samples, strict=True))
        if all(meaning(target, sample) is None for meaning in _MEANINGS) or row == len(samples) - 1
    )
    sample = samples[row]
    name = "target" if target_field is None else f"doc.{target_field}"
    return SourceError(
        f"{sample.place}: {name} is {str(targets[row])[:60]!r}, which is neither the position of "
        f"one of the {len(sample.log_likelihoods)} choices, nor its text, nor its letter; name the "
        "field of 'doc' that is with --target-field"
        + (f" (it has {', '.join(list(sample.fields)[:8])})" if sample.fields else "")
    )


# --- rows ---------------------------------------------------------------------------------------


def _split(
    path: Path,
    samples: Sequence[Sample],
    logits: Float64Array,
    labels: IntArray,
    fraction: float,
    notes: list[str],
) -> dict[str, LogitsSplit]:
    """Hold out documents by their digest alone, so that all models hold out the same ones.

    A document that comes twice is in one split; its second row has an id of its own.
    """
    seen: Counter[str] = Counter()
    ids, held = [], []
    for sample in samples:
        digest = int(sample.document[:16], 16) >> 1
        held.append(digest < fraction * 2**_DIGEST_BITS)
        ids.append((digest + seen[sample.document]) % 2**_DIGEST_BITS)
        seen[sample.document] += 1
    chosen = np.array(held)
    if chosen.all() or not chosen.any():
        raise SourceError(
            f"{path}: {len(samples)} documents are too few to hold out {fraction:g} of them"
        )
    _require_label_unmasked(samples, logits, labels)
    notes.append(
        f"{int(chosen.sum()):,} of {len(samples):,} documents were held out for calibration, by "
        "their digest"
    )
    rows = {"calibration": np.flatnonzero(chosen), "test": np.flatnonzero(~chosen)}
    stored = logits.astype(np.float32)
    row_ids = np.array(ids, dtype=np.int64)
    return {
        name: LogitsSplit(row_ids[chosen], stored[chosen], labels[chosen])
        for name, chosen in rows.items()
    }


def _require_label_unmasked(
    samples: Sequence[Sample], logits: Float64Array, labels: IntArray
) -> None:
    """Refuse a right choice of likelihood 0, which has no temperature."""
    masked = np.isneginf(logits[np.arange(len(labels)), labels])
    if masked.any():
        raise SourceError(
            f"{samples[int(masked.argmax())].place}: the right choice has log-likelihood -inf, so "
            "no temperature can be fitted; evaluate the model again, or leave the row out"
        )


def _compare(path: Path, splits: Mapping[str, LogitsSplit], reference: Reference) -> list[str]:
    """Return a note where the models were not evaluated on the same documents.

    Raises:
        SourceError: they disagree on the right choice of a document.
    """
    ours = {
        row_id: label
        for split in splits.values()
        for row_id, label in zip(split.ids.tolist(), split.labels.tolist(), strict=True)
    }
    common = ours.keys() & reference.labels.keys()
    unlike = sum(ours[row_id] != reference.labels[row_id] for row_id in common)
    if unlike:
        raise SourceError(
            f"{path}: {unlike:,} of {len(common):,} documents have another right choice than for "
            f"{reference.model}; were the models evaluated with one version of the task?"
        )
    if len(common) == len(ours) == len(reference.labels):
        return []
    return [
        f"{len(common):,} of {len(ours):,} documents are among the {len(reference.labels):,} of "
        f"{reference.model}; models are compared row by row only where all documents are the same"
    ]
