"""Which rows go together, in which order, and how they become padded tensors.

The order depends on the seed and the epoch only, never on the number of processes: every
process computes the same global batches and takes its share of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmark.arrays import IntArray
from benchmark.models.augmentation import moved
from benchmark.models.encoding import EncodedSplit
from benchmark.models.padding import Padding

_BUCKET_BATCHES = 50
"""Texts are sorted by length within this many batches: little padding, still well shuffled."""

_AHEAD = 4
"""Batches made ready on the host while the device works on earlier ones."""
_MAKERS = 2
"""Threads that make them: one alone feeds 1,800 images of 224 pixels a second, fewer than an H100
takes."""


_MOVES = "moves"
"""What `image_moves` says of a batch, among its tensors on their way to the device."""


class BatchLimit(NamedTuple):
    """How much goes through a model at once where no gradient is needed.

    Attributes:
        rows: at most.
        tokens: of texts, padding included, unless a single row has more.
    """

    rows: int
    tokens: int


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


def evaluation_batches(lengths: IntArray | None, n_rows: int, limit: BatchLimit) -> list[IntArray]:
    """Return batches that cover every row once, longest texts first.

    Longest first: padding is least, and running out of memory shows in the first batch.
    """
    if lengths is None:
        return [np.arange(i, min(i + limit.rows, n_rows)) for i in range(0, n_rows, limit.rows)]
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < n_rows:
        longest = max(int(lengths[order[start]]), 1)
        rows = min(limit.rows, max(1, limit.tokens // longest))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def share_of_process(batch: IntArray, process: int, n_processes: int) -> IntArray:
    """Return the rows of a global batch that one process works on; sizes differ by at most 1."""
    return batch[process::n_processes]


def collate(split: EncodedSplit, positions: IntArray, padding: Padding) -> dict[str, Tensor]:
    """Return model inputs and `labels` for the rows at `positions`, texts padded.

    Text inputs get an `attention_mask` that is 0 on padding, where the model takes one.
    """
    return split.features.on_device(_on_host(split, positions, padding))


def _on_host(
    split: EncodedSplit,
    positions: IntArray,
    padding: Padding,
    moves: IntArray | None = None,
    *,
    pinned: bool = False,
) -> dict[str, Tensor]:
    features = split.features.take(positions, pinned=pinned)
    tensors = {"labels": torch.from_numpy(split.labels[positions])}
    if moves is not None:
        tensors[_MOVES] = torch.from_numpy(moves[positions])
    for name, rows in features.items():
        if isinstance(rows, Tensor):
            tensors[name] = rows
        else:
            tensors[name] = torch.from_numpy(padding.fill(rows, name))
    if "input_ids" in features and padding.masked:
        ones = [np.ones_like(row) for row in features["input_ids"]]
        tensors["attention_mask"] = torch.from_numpy(padding.fill(ones, "attention_mask"))
    return {name: value.pin_memory() for name, value in tensors.items()} if pinned else tensors


def _finished(split: EncodedSplit, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a model takes of what has come to its device, images moved."""
    moves = tensors.pop(_MOVES, None)
    if moves is not None:
        tensors["pixel_values"] = moved(tensors["pixel_values"], moves)
    return split.features.on_device(tensors)


def load_batches(
    split: EncodedSplit,
    batches: Sequence[IntArray],
    padding: Padding,
    device: torch.device | str = "cpu",
    moves: IntArray | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield what `collate` makes of each batch, on the device; images moved as `moves` says.

    For a GPU, batches are put together ahead in a thread and copied from pinned memory, so that
    neither the device nor the host waits for the other. A CPU does one thing at a time.
    """
    device = torch.device(device)
    if device.type != "cuda":
        for positions in batches:
            on_host = _on_host(split, positions, padding, moves)
            yield _finished(split, {k: v.to(device) for k, v in on_host.items()})
        return

    def pinned(positions: IntArray) -> dict[str, Tensor]:
        return _on_host(split, positions, padding, moves, pinned=True)

    # A thread starts with the first GPU as its own, whichever its process works on.
    gpu = torch.cuda.current_device() if device.index is None else device.index
    pool = ThreadPoolExecutor(_MAKERS, initializer=torch.cuda.set_device, initargs=(gpu,))
    try:
        ready = deque(pool.submit(pinned, positions) for positions in batches[:_AHEAD])
        for following in (*batches[_AHEAD:], *[None] * min(_AHEAD, len(batches))):
            on_host = ready.popleft().result()
            if following is not None:
                ready.append(pool.submit(pinned, following))
            copied = {k: v.to(device, non_blocking=True) for k, v in on_host.items()}
            yield _finished(split, copied)
    finally:
        pool.shutdown(cancel_futures=True)
