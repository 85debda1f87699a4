"""What training and the forward pass work on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.data import Corpus, Rows, shifted_rows, shifted_split_names
from benchmark.plan import RunSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from benchmark.models import EncodedSplit, LoadedPreprocessor, Padding


@dataclass(frozen=True)
class Inputs:
    """A run's data, encoded for its model, and the model on this launch's device."""

    corpus: Corpus
    preprocessor: LoadedPreprocessor
    splits: dict[str, EncodedSplit]
    model: PreTrainedModel
    padding: Padding

    @property
    def scored_splits(self) -> dict[str, EncodedSplit]:
        """All splits but the one that is trained on."""
        return {name: split for name, split in self.splits.items() if name != "train"}


def encode_splits(
    spec: RunSpec, corpus: Corpus, preprocessor: LoadedPreprocessor, cache: Path, *, train: bool
) -> dict[str, EncodedSplit]:
    """Encode the splits that a run needs, or find them in the cache.

    Args:
        spec: the resolved run.
        corpus: its data.
        preprocessor: of its checkpoint, fitted to the model.
        cache: folder shared by runs.
        train: whether the training split is needed too (where there is a recipe).

    Returns:
        Splits by name: train (if needed), calibration, test, then the shifted ones.
    """
    from benchmark.models import encode

    rows: dict[str, Callable[[], Rows]] = {
        "calibration": lambda: corpus.calibration,
        "test": lambda: corpus.test,
    }
    if train and spec.recipe is not None:
        rows = {"train": lambda: corpus.train, **rows}
    shifted = shifted_split_names(spec.dataset)
    for name in shifted:
        rows[name] = functools.partial(shifted_rows, spec.dataset, corpus.test, name)
    keys = {name: f"{spec.data_key()}-{name}" for name in rows}
    keys |= {name: f"{keys[name]}-{spec.dataset.shift_rows or 'all'}" for name in shifted}
    return {
        name: encode(make_rows, preprocessor, cache=cache, key=keys[name])
        for name, make_rows in rows.items()
    }
