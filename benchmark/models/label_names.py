"""The classes of a published head, matched by name to those of a dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from benchmark.data import Corpus
from benchmark.failures import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PLACEHOLDER_LABEL = re.compile(r"label[_ ]\d+$", re.IGNORECASE)
_SHOWN_LABELS = 12


def label_columns(
    model: PreTrainedModel,
    corpus: Corpus,
    labels: Literal["dataset-order"] | tuple[str, ...] | None = None,
) -> list[int]:
    """Return, for each class of the dataset, the column of a published head that means it.

    Names are compared without regard to case and underscores. Of several classes with one name
    (ImageNet has two cranes) the first is taken to be the first in both lists.

    Args:
        model: has the published head.
        corpus: has the dataset's classes.
        labels: the head's classes in column order, where its config does not name them;
            dataset-order: those of the dataset, possibly under other names.

    Raises:
        RunError: the classes differ, or the head does not name them (the message prints both
            lists), or it is a head of sigmoids or of a regression.
    """
    _require_one_class_a_row(model)
    data = corpus.label_names
    head = labels if isinstance(labels, tuple) else _head_names(model)
    if labels == "dataset-order":
        if len(head) == len(data) and _half_agrees(head, data):
            return list(range(len(data)))
        raise _label_mismatch(head, data, "not in the dataset's order ('labels: dataset-order')")
    if any(_PLACEHOLDER_LABEL.match(name) for name in head):
        raise _label_mismatch(
            head, data, "not named in its config: name them in column order with 'labels: [...]'"
        )
    ours, theirs = _numbered(data), _numbered(head)
    if sorted(ours) != sorted(theirs):
        raise _label_mismatch(head, data, "not the dataset's")
    column = {name: index for index, name in enumerate(theirs)}
    return [column[name] for name in ours]


def _require_one_class_a_row(model: PreTrainedModel) -> None:
    kind = getattr(model.config, "problem_type", None)
    if kind not in (None, "single_label_classification"):
        raise RunError(
            f"the published head is not one of exclusive classes (problem_type: {kind}): its "
            "confidences are not those of a softmax, so scoring it so would give wrong ones; "
            "fine-tune it instead (leave 'evaluate' out)"
        )


def _head_names(model: PreTrainedModel) -> tuple[str, ...]:
    names: Any = model.config.id2label
    return tuple(str(names[index]) for index in sorted(names))


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return normalised names, each with how often it came before."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in map(_normalised, names):
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def _half_agrees(head: Sequence[str], data: Sequence[str]) -> bool:
    """Say whether at least half of the classes have one name in both; numbers name nothing."""
    pairs = [(_normalised(a), _normalised(b)) for a, b in zip(head, data, strict=True)]
    told = [(a, b) for a, b in pairs if not (_names_nothing(a) or _names_nothing(b))]
    return 2 * sum(a == b for a, b in told) >= len(told)


def _names_nothing(name: str) -> bool:
    return name.isdigit() or _PLACEHOLDER_LABEL.match(name) is not None


def _label_mismatch(head: Sequence[str], data: Sequence[str], what: str) -> RunError:
    lists = f"Checkpoint ({len(head)}): {_shortened(head)}. Dataset ({len(data)}): "
    lists += f"{_shortened(data)}."
    ours, theirs = set(map(_normalised, data)), set(map(_normalised, head))
    if ours & theirs and len(head) + len(data) > 2 * _SHOWN_LABELS:
        only_head = [name for name in head if _normalised(name) not in ours]
        only_data = [name for name in data if _normalised(name) not in theirs]
        lists += f" Only in the checkpoint: {_shortened(only_head)}."
        lists += f" Only in the dataset: {_shortened(only_data)}."
    return RunError(f"the checkpoint's classes are {what}. {lists}")


def _shortened(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_LABELS]) or "none"
    return f"{shown}, ..." if len(names) > _SHOWN_LABELS else shown
