"""Which rows go together, in which order, and how they become padded tensors.

The order depends on the seed and the epoch only, never on the number of processes: every
process computes the same global batches and takes its share of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.arrays import IntArray
from benchmark.models.encoding import EncodedSplit
from benchmark.models.padding import Padding

_BUCKET_BATCHES = 50
"""Texts are sorted by length within this many batches: little padding, still well shuffled."""

_LOADERS = 4
_ROWS_WORTH_LOADERS = 1000
"""Loader processes take about a second to start."""


def training_batches(
    lengths: IntArray | None, n_rows: int, batch_size: int, *, seed: int, epoch: int
) -> list[IntArray]:
    """Return the row positions of each global batch of one epoch, shuffled.

    Every batch is full, so that each optimiser step weighs the same; the rows left over
    differ from epoch to epoch. A split smaller than one batch is one batch.

    Args:
        lengths: tokens per row (int64 [n]) for length buckets; None: no buckets.
        n_rows: rows in the split.
        batch_size: rows per optimiser step, over all processes.
        seed: the run's seed.
        epoch: 0, 1, ...
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(n_rows)
    n_batches = max(1, n_rows // batch_size)
    order = order[: n_batches * batch_size]
    if lengths is not None:
        order = _sort_within_buckets(order, lengths, _BUCKET_BATCHES * batch_size)
    batches = np.array_split(order, n_batches)
    return [batches[i] for i in generator.permutation(n_batches)]


def _sort_within_buckets(order: IntArray, lengths: IntArray, bucket: int) -> IntArray:
    parts = [order[start : start + bucket] for start in range(0, len(order), bucket)]
    return np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])


def evaluation_batches(lengths: IntArray | None, n_rows: int, batch_size: int) -> list[IntArray]:
    """Return batches that cover every row once, longest texts first.

    Longest first: padding is least, and running out of memory shows in the first batch.
    """
    order = np.arange(n_rows) if lengths is None else np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, n_rows, batch_size)]


def share_of_process(batch: IntArray, process: int, n_processes: int) -> IntArray:
    """Return the rows of a global batch that one process works on; sizes differ by at most 1."""
    return batch[process::n_processes]


def collate(split: EncodedSplit, positions: IntArray, padding: Padding) -> dict[str, Tensor]:
    """Return model inputs and `labels` for the rows at `positions`, texts padded.

    Text inputs get an `attention_mask` that is 0 on padding, where the model takes one.
    """
    features = split.features.take(positions)
    tensors = {"labels": torch.from_numpy(split.labels[positions])}
    for name, rows in features.items():
        whole = np.stack(rows) if name == "pixel_values" else padding.fill(rows, name)
        tensors[name] = torch.from_numpy(whole)
    if "input_ids" in features and padding.masked:
        ones = [np.ones_like(row) for row in features["input_ids"]]
        tensors["attention_mask"] = torch.from_numpy(padding.fill(ones, "attention_mask"))
    return tensors


def load_batches(
    split: EncodedSplit, batches: Sequence[IntArray], padding: Padding
) -> Iterator[dict[str, Tensor]]:
    """Yield the collated tensors of each batch.

    Loader processes only help where images are decoded and transformed on access; tokens and
    stored pixels are sliced faster than they could be sent from one process to another.
    """
    many_rows = sum(len(batch) for batch in batches) >= _ROWS_WORTH_LOADERS
    workers = _LOADERS if split.features.made_on_access and many_rows else 0
    loader: DataLoader[Any] = DataLoader[Any](
        _Positions(batches),
        batch_size=None,
        num_workers=workers,
        collate_fn=_CollateBatch(split, padding),
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


class _Positions(torch.utils.data.Dataset[IntArray]):
    """The batches themselves as the loader's items."""

    def __init__(self, batches: Sequence[IntArray]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> IntArray:
        return self.batches[index]


class _CollateBatch:
    """`collate` with its split bound; a class, so that loader processes can receive it."""

    def __init__(self, split: EncodedSplit, padding: Padding) -> None:
        self.split = split
        self.padding = padding

    def __call__(self, positions: Any) -> dict[str, Tensor]:
        return collate(self.split, positions, self.padding)
