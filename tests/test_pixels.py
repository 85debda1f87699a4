"""Stored images: bytes that stand for what the image processor gives, bit for bit."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import Rows
from benchmark.failures import RunError
from benchmark.models import EncodedSplit, Padding, collate, load_batches
from benchmark.models.encoding import encode, encode_rows
from benchmark.models.pixels import PixelFeatures, look_up
from benchmark.models.preprocessor import LoadedPreprocessor

PROCESSORS: dict[str, tuple[Any, Any]] = {
    "vit": (t.ViTImageProcessorPil(size={"height": 24, "width": 24}), np.uint8),
    "crop": (
        t.ConvNextImageProcessorPil(size={"shortest_edge": 24}, crop_pct=0.875), np.uint8,
    ),
    "mean and deviation": (
        t.ViTImageProcessorPil(
            size={"height": 20, "width": 20},
            image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
        ), np.uint8,
    ),
    "flipped channels": (t.MobileViTImageProcessorPil(size={"shortest_edge": 24}), np.uint8),
    "own crop": (t.LevitImageProcessorPil(size={"shortest_edge": 24}), np.uint8),
    "no scale": (
        t.ViTImageProcessorPil(size={"height": 8, "width": 8}, do_rescale=False), np.uint8,
    ),
}  # fmt: skip


class Centred(t.ViTImageProcessorPil):
    """A processor whose pixels depend on the rest of their image: no table can say what it does."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        made = super().__call__(*arguments, **options)
        made["pixel_values"] = [image - image.mean() for image in made["pixel_values"]]
        return made


def image_rows(count: int, size: tuple[int, int] = (30, 26), seed: int = 0) -> Rows:
    images = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return Rows(np.arange(count) + 5, np.arange(count) % 3, images=images)


def pixels_of_all(split: EncodedSplit) -> np.ndarray:
    inputs = collate(split, np.arange(len(split)), Padding())
    return inputs["pixel_values"].numpy()


@pytest.mark.parametrize("name", PROCESSORS)
def test_stored_bytes_give_what_the_processor_gives(name: str, tmp_path: Path) -> None:
    processor, dtype = PROCESSORS[name]
    loaded, rows = LoadedPreprocessor(processor, "key"), image_rows(150)
    split = encode(lambda: rows, loaded, cache=tmp_path, key="rows")
    assert isinstance(split.features, PixelFeatures)
    assert split.features.pixels.dtype == dtype
    assert rows.images is not None
    wanted = processor(
        images=[rows.images[i] for i in range(150)], input_data_format="channels_last"
    )["pixel_values"]
    np.testing.assert_array_equal(pixels_of_all(split), np.stack(wanted).astype(np.float32))
    assert split.ids.tolist() == rows.ids.tolist()
    assert split.labels.tolist() == rows.labels.tolist()


def test_what_no_table_says_is_stored_as_floats(tmp_path: Path) -> None:
    processor = Centred(size={"height": 8, "width": 8})
    loaded, rows = LoadedPreprocessor(processor, "key"), image_rows(70)
    split = encode(lambda: rows, loaded, cache=tmp_path, key="rows")
    assert isinstance(split.features, PixelFeatures)
    assert split.features.pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels_of_all(split), pixels_of_all(encode_rows(rows, loaded)))


def test_grey_images_are_stored_too(tmp_path: Path) -> None:
    processor = t.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.3], image_std=[0.2]
    )
    loaded, rows = LoadedPreprocessor(processor, "key-grey", channels=1), image_rows(70)
    split = encode(lambda: rows, loaded, cache=tmp_path, key="rows")
    found = pixels_of_all(split)
    assert found.shape == (70, 1, 8, 8)
    np.testing.assert_array_equal(found, pixels_of_all(encode_rows(rows, loaded)))


def test_images_are_made_once_and_stay_on_disk(tmp_path: Path) -> None:
    loaded = LoadedPreprocessor(PROCESSORS["vit"][0], "key")
    calls = []

    def make() -> Rows:
        calls.append(1)
        return image_rows(70)

    first, second = (encode(make, loaded, cache=tmp_path, key="rows") for _ in "ab")
    assert len(calls) == 1
    assert isinstance(second.features, PixelFeatures)
    assert isinstance(second.features.pixels, np.memmap)
    np.testing.assert_array_equal(pixels_of_all(first), pixels_of_all(second))


def test_damaged_images_are_made_anew(tmp_path: Path) -> None:
    loaded, rows = LoadedPreprocessor(PROCESSORS["vit"][0], "key"), image_rows(70)
    wanted = pixels_of_all(encode(lambda: rows, loaded, cache=tmp_path, key="rows"))
    (stored,) = (tmp_path / "encoded").glob("*/pixels.npy")
    with stored.open("rb+") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    again = encode(lambda: rows, loaded, cache=tmp_path, key="rows")
    np.testing.assert_array_equal(pixels_of_all(again), wanted)
    assert len(list((tmp_path / "encoded").glob("*.corrupt"))) == 1


def test_a_late_image_of_another_size_is_named(tmp_path: Path) -> None:
    class Late:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int) -> np.ndarray:
            return np.zeros((20, 20 + (index == 199 - 6), 3), dtype=np.uint8)

    processor = t.ViTImageProcessorPil(do_resize=False)
    rows = Rows(np.arange(200), np.zeros(200, dtype=np.int64), images=Late())
    with pytest.raises(RunError, match="unlike sizes"):
        encode(lambda: rows, LoadedPreprocessor(processor, "key"), cache=tmp_path, key="rows")
    assert not list((tmp_path / "encoded").glob(".tmp-*"))


def test_a_full_disk_is_told_before_it_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    loaded = LoadedPreprocessor(PROCESSORS["vit"][0], "key")
    with pytest.raises(OSError, match="disk"):
        encode(lambda: image_rows(70), loaded, cache=tmp_path, key="rows")
    assert not list((tmp_path / "encoded").rglob("*.npy"))


@given(channels=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_look_up_is_indexing(channels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    table = random.normal(size=(channels, 256)).astype(np.float32)
    pixels = random.integers(0, 256, (3, channels, 4, 5), dtype=np.uint8)
    found = look_up(torch.from_numpy(table), torch.from_numpy(pixels)).numpy()
    for row, channel, y, x in np.ndindex(pixels.shape):
        assert found[row, channel, y, x] == table[channel, pixels[row, channel, y, x]]


def test_batches_are_taken_in_the_order_asked_for(tmp_path: Path) -> None:
    loaded, rows = LoadedPreprocessor(PROCESSORS["vit"][0], "key"), image_rows(70)
    split = encode(lambda: rows, loaded, cache=tmp_path, key="rows")
    whole = pixels_of_all(split)
    batches = [np.array([3, 1, 3]), np.array([69])]
    for batch, inputs in zip(batches, load_batches(split, batches, Padding()), strict=True):
        np.testing.assert_array_equal(inputs["pixel_values"].numpy(), whole[batch])
        assert inputs["labels"].tolist() == rows.labels[batch].tolist()
