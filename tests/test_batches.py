from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.models.batches import (
    BatchLimit,
    collate,
    evaluation_batches,
    load_batches,
    share_of_process,
    training_batches,
)
from benchmark.models.encoding import EncodedSplit, TokenFeatures
from benchmark.models.padding import Padding
from benchmark.models.pixels import PixelFeatures

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 40))


def token_split(lengths: list[int]) -> EncodedSplit:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(1, offsets[-1] + 1, dtype=np.int64)
    rows = np.arange(len(lengths))
    return EncodedSplit(rows, rows % 3, TokenFeatures(offsets, {"input_ids": ids}))


@given(sizes=SIZES, seed=st.integers(0, 5), bucketed=st.booleans())
def test_training_batches_are_full_and_repeat_no_row(
    sizes: tuple[int, int], seed: int, bucketed: bool
) -> None:
    n_rows, batch_size = sizes
    lengths = np.random.default_rng(seed).integers(1, 50, n_rows) if bucketed else None
    batches = training_batches(lengths, n_rows, batch_size, seed=seed, epoch=1)
    rows = np.concatenate(batches)
    assert len(np.unique(rows)) == len(rows)
    assert {len(batch) for batch in batches} == {min(batch_size, n_rows)}
    assert len(batches) == max(1, n_rows // batch_size)


def test_training_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = training_batches(None, 100, 10, seed=seed, epoch=epoch)
        return [int(row) for batch in batches for row in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_buckets_leave_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 48, 4000)

    def padding(batches: list[np.ndarray]) -> float:
        padded = sum(lengths[b].max() * len(b) for b in batches)
        return 1 - sum(lengths[b].sum() for b in batches) / padded

    bucketed = training_batches(lengths, 4000, 64, seed=0, epoch=0)
    plain = training_batches(None, 4000, 64, seed=0, epoch=0)
    assert padding(bucketed) < 0.03 < 0.3 < padding(plain)


@given(sizes=SIZES, processes=st.integers(1, 5))
def test_processes_share_each_batch_without_overlap(sizes: tuple[int, int], processes: int) -> None:
    n_rows, batch_size = sizes
    for batch in training_batches(None, n_rows, batch_size, seed=0, epoch=0):
        shares = [share_of_process(batch, rank, processes) for rank in range(processes)]
        assert sorted(np.concatenate(shares)) == sorted(batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(sizes=SIZES, bucketed=st.booleans())
def test_evaluation_covers_every_row_once(sizes: tuple[int, int], bucketed: bool) -> None:
    n_rows, batch_size = sizes
    lengths = np.arange(n_rows)[::-1].copy() if bucketed else None
    limit = BatchLimit(batch_size, 8 * batch_size)
    batches = evaluation_batches(lengths, n_rows, limit)
    assert sorted(np.concatenate(batches)) == list(range(n_rows))


def test_collate_pads_text_and_masks_padding() -> None:
    split = token_split([2, 4, 1])
    inputs = collate(split, np.array([1, 0]), Padding(token_id=99))
    assert inputs["input_ids"].tolist() == [[3, 4, 5, 6], [1, 2, 99, 99]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["tokens", "pixels"])
def test_loader_yields_the_batches_in_order(kind: str) -> None:
    if kind == "tokens":
        split = token_split([3, 1, 2, 5])
    else:
        pixels = np.arange(4 * 3 * 2 * 2, dtype=np.float32).reshape(4, 3, 2, 2)
        split = EncodedSplit(np.arange(4), np.array([3, 2, 1, 0]), PixelFeatures(pixels))
    batches = [np.array([2, 0]), np.array([3])]
    loaded = list(load_batches(split, batches, Padding()))
    assert [inputs["labels"].tolist() for inputs in loaded] == [
        split.labels[batch].tolist() for batch in batches
    ]
    assert list(load_batches(split, [], Padding())) == []


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), tokens=st.integers(1, 400))
def test_evaluation_batches_hold_few_tokens(lengths: list[int], tokens: int) -> None:
    limit = BatchLimit(8, tokens)
    batches = evaluation_batches(np.array(lengths), len(lengths), limit)
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= tokens
        assert len(batch) <= 8
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), longest=st.integers(1, 60))
def test_lengths_are_rounded_up_as_far_as_the_model_goes(lengths: list[int], longest: int) -> None:
    padding = Padding(token_id=7, multiple=8, longest=longest)
    rows = [np.arange(1, n + 1) for n in lengths]
    filled = padding.fill(rows, "input_ids")
    most = max(lengths)
    assert filled.shape[1] == (-(-most // 8) * 8 if -(-most // 8) * 8 <= longest else most)
    for row, found in zip(rows, filled, strict=True):
        assert found.tolist() == [*row.tolist(), *[7] * (filled.shape[1] - len(row))]
