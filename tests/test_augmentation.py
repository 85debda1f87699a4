"""Images mirrored and moved in training: against numpy, and the same however launched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.models import image_moves, moved
from benchmark.registry import Recipe


def recipe(**fields: object) -> Recipe:
    return Recipe.model_validate({"epochs": 1, "batch_size": 4, "learning_rate": 0.1, **fields})


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 12),
    st.integers(0, 2**32 - 1),
)
def test_against_padding_and_cutting_in_numpy(
    rows: int, channels: int, height: int, width: int, most: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (rows, channels, height, width))
    images = images.astype(np.uint8)
    moves = image_moves(recipe(random_flip=True, random_shift=most), rows, seed=seed, epoch=0)
    if moves is None:
        return
    found = moved(torch.from_numpy(images), torch.from_numpy(moves)).numpy()
    assert found.dtype == np.uint8
    for image, (flip, down, right), made in zip(images, moves, found, strict=True):
        turned = image[:, :, ::-1] if flip else image
        wide = np.pad(turned, ((0, 0), (most, most), (most, most)), mode="edge")
        top, left = most - down, most - right
        assert np.array_equal(made, wide[:, top : top + height, left : left + width])


def test_moves_depend_on_seed_and_epoch_and_cover_what_is_allowed() -> None:
    flipping = recipe(random_flip=True, random_shift=2)
    first = image_moves(flipping, 4000, seed=0, epoch=0)
    assert first is not None
    assert np.array_equal(first, image_moves(flipping, 4000, seed=0, epoch=0))
    for seed, epoch in ((1, 0), (0, 1)):
        other = image_moves(flipping, 4000, seed=seed, epoch=epoch)
        assert other is not None
        assert 0.05 < (other == first).all(axis=1).mean() * 50 < 2  # by chance: one in fifty
    assert {*first[:, 0].tolist()} == {0, 1}
    assert abs(first[:, 0].mean() - 0.5) < 0.04
    assert {*first[:, 1].tolist()} == {*first[:, 2].tolist()} == {-2, -1, 0, 1, 2}


def test_one_alone() -> None:
    flips = image_moves(recipe(random_flip=True), 100, seed=0, epoch=0)
    shifts = image_moves(recipe(random_shift=1), 100, seed=0, epoch=0)
    assert flips is not None
    assert shifts is not None
    assert not flips[:, 1:].any()
    assert flips[:, 0].any()
    assert not shifts[:, 0].any()
    assert shifts[:, 1:].any()
    assert image_moves(recipe(), 100, seed=0, epoch=0) is None


@pytest.mark.parametrize("fields", [{"random_flip": True}, {"random_shift": 1}])
def test_recipes_without_are_keyed_as_before(fields: dict[str, object]) -> None:
    assert recipe(random_flip=False, random_shift=0).model_dump(exclude_defaults=True) == (
        recipe().model_dump(exclude_defaults=True)
    )
    assert recipe(**fields).model_dump(exclude_defaults=True) != (
        recipe().model_dump(exclude_defaults=True)
    )
