"""Images decoded and resized once: bytes in a memory-mapped file, made floats on the device.

After resizing and cutting, an image processor treats every pixel of a channel alike. What it makes
of the 256 values of a byte is therefore all there is to know: a table, in which a batch of bytes is
looked up and gives what the processor gives, bit for bit. That is tried on images of the split;
where it does not hold, the processor's floats are stored themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from benchmark.arrays import AnyArray, Float32Array, IntArray
from benchmark.data import ImageSequence, Rows
from benchmark.failures import RunError
from benchmark.models.preprocessor import LoadedPreprocessor, bytes_of, pixels_of
from benchmark.records import available_cores, explained_errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CHUNK = 64
_TRIED_IMAGES = 16
"""Images looked at before any is trained on: their one size, and whether bytes stand for floats."""
_BYTES = 256


@dataclass(frozen=True)
class PixelFeatures:
    """Images as their processor gives them, [n, channels, height, width].

    Attributes:
        pixels: float32, or uint8 with a table; may be memory-mapped.
        table: float32 [channels, 256]: what a byte stands for; None: pixels are what they are.
    """

    pixels: AnyArray
    table: Float32Array | None = None
    _tables: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def lengths(self) -> None:
        """See `Features.lengths`."""

    def take(self, positions: IntArray, *, pinned: bool = False) -> dict[str, Tensor]:
        """See `Features.take`."""
        import torch

        # One pass from the file's pages to where the device reads.
        shape = (len(positions), *self.pixels.shape[1:])
        source = torch.from_numpy(self.pixels)
        batch = torch.empty(shape, dtype=source.dtype, pin_memory=pinned)
        torch.index_select(source, 0, torch.from_numpy(positions), out=batch)
        return {"pixel_values": batch}

    def on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Features.on_device`."""
        if self.table is None:
            return inputs
        pixels = inputs["pixel_values"]
        return {**inputs, "pixel_values": look_up(self._table_on(pixels.device), pixels)}

    def _table_on(self, device: torch.device) -> Tensor:
        # Copied once: a copy from plain memory would make the host wait for the device each time.
        import torch

        if str(device) not in self._tables:
            self._tables[str(device)] = torch.from_numpy(self.table).to(device)
        return self._tables[str(device)]


def look_up(table: Tensor, pixels: Tensor) -> Tensor:
    """Return what bytes stand for.

    Args:
        table: float32 [channels, 256].
        pixels: uint8 [rows, channels, height, width], on the same device.

    Returns:
        float32 of the shape of `pixels`.
    """
    import torch

    channels = torch.arange(table.shape[0], dtype=torch.int32, device=pixels.device) * _BYTES
    places = pixels.int() + channels[:, None, None]
    return table.flatten().index_select(0, places.flatten()).view(pixels.shape)


class _Form(NamedTuple):
    """How images of a split are stored."""

    shape: tuple[int, ...]
    make: Callable[[ImageSequence, IntArray], AnyArray]
    table: Float32Array | None


def store_images(folder: Path, rows: Rows, preprocessor: LoadedPreprocessor) -> None:
    """Transform all images of a split into a folder of arrays, some at a time.

    Args:
        folder: exists and is empty.
        rows: of a data set of images.
        preprocessor: their image processor.

    Raises:
        RunError: the processor gives images of unlike sizes.
        OSError: the disk is full.
    """
    assert rows.images is not None
    images, form = rows.images, _form(rows.images, preprocessor)
    dtype = np.dtype(np.float32 if form.table is None else np.uint8)
    shape = (len(rows), *form.shape)
    with explained_errors(folder):
        pixels = _new_array(folder / "pixels.npy", dtype, shape)

    def fill(start: int) -> None:
        chunk = np.arange(start, min(start + _CHUNK, len(rows)))
        made = form.make(images, chunk)
        _require_one_size(preprocessor, [form.shape, made.shape[1:]])
        pixels[chunk] = made

    with ThreadPoolExecutor(available_cores()) as pool:  # decoding and resizing free the GIL
        for _ in pool.map(fill, range(0, len(rows), _CHUNK)):
            pass
    pixels.flush()
    arrays: dict[str, AnyArray] = {"ids": rows.ids, "labels": rows.labels}
    arrays |= {} if form.table is None else {"table": form.table}
    with explained_errors(folder):
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _new_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.memmap[Any, np.dtype[Any]]:
    """Return a memory-mapped array on disk, its place on the disk taken."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # Writing to a map on a full disk ends the process without a word.
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class StoredImages(NamedTuple):
    """What `store_images` stored."""

    ids: IntArray
    labels: IntArray
    features: PixelFeatures


def read_images(folder: Path) -> StoredImages:
    """Open what `store_images` stored; pixels stay on disk until a batch asks for them."""
    table = folder / "table.npy"
    return StoredImages(
        np.load(folder / "ids.npy", allow_pickle=False),
        np.load(folder / "labels.npy", allow_pickle=False),
        PixelFeatures(
            np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False),
            np.load(table, allow_pickle=False) if table.exists() else None,
        ),
    )


def transformed(
    preprocessor: LoadedPreprocessor, images: ImageSequence, positions: IntArray
) -> Float32Array:
    """Return what an image processor makes of the images at `positions`.

    Returns:
        float32 [rows, channels, height, width].

    Raises:
        RunError: they have unlike sizes.
    """
    return _transformed(preprocessor, images, positions, pixels_of, np.dtype(np.float32))


def _transformed(
    preprocessor: LoadedPreprocessor,
    images: ImageSequence,
    positions: IntArray,
    apply: Callable[..., Sequence[AnyArray]],
    dtype: np.dtype[np.generic],
) -> AnyArray:
    batch = [images[int(position)] for position in positions]
    if preprocessor.channels == 1:
        batch = [_grey(image) for image in batch]
    pixels = apply(preprocessor.processor, batch)
    _require_one_size(preprocessor, [image.shape for image in pixels])
    return np.ascontiguousarray(np.stack(pixels), dtype=dtype)


def _grey(image: AnyArray) -> AnyArray:
    """Return the brightness of an RGB image, uint8 [height, width, 1] (ITU-R BT.601)."""
    return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]


def _form(images: ImageSequence, preprocessor: LoadedPreprocessor) -> _Form:
    """Find out how a split's images are stored, by trying some of them."""
    tried = np.linspace(0, len(images) - 1, min(_TRIED_IMAGES, len(images))).astype(np.int64)
    wanted = transformed(preprocessor, images, tried)

    def floats(images: ImageSequence, positions: IntArray) -> AnyArray:
        return transformed(preprocessor, images, positions)

    def as_bytes(images: ImageSequence, positions: IntArray) -> AnyArray:
        return _transformed(preprocessor, images, positions, bytes_of, np.dtype(np.uint8))

    try:
        table = _table(preprocessor)
        found = as_bytes(images, tried)
    except Exception:  # what a processor cannot be asked to do differs from one to the next
        return _Form(wanted.shape[1:], floats, None)
    if not _stands_for(table, found, wanted):
        return _Form(wanted.shape[1:], floats, None)
    return _Form(wanted.shape[1:], as_bytes, table)


def _table(preprocessor: LoadedPreprocessor) -> Float32Array:
    """Return what the processor makes of each byte, float32 [channels, 256]."""
    ramp = np.arange(_BYTES, dtype=np.uint8).reshape(16, 16, 1)
    picture = np.repeat(ramp, preprocessor.channels, axis=2)
    (made,) = pixels_of(preprocessor.processor, [picture], whole=False)
    if made.shape[1:] != (16, 16):
        raise ValueError(f"the processor gives {made.shape} of a picture that it is not to resize")
    return np.ascontiguousarray(made.reshape(len(made), _BYTES), dtype=np.float32)


def _stands_for(table: Float32Array, found: AnyArray, wanted: Float32Array) -> bool:
    if found.shape != wanted.shape or table.shape[0] != wanted.shape[1]:
        return False
    channels = np.arange(len(table))[:, None, None]
    return bool(np.array_equal(table[channels, found], wanted))


def _require_one_size(preprocessor: LoadedPreprocessor, shapes: Sequence[tuple[int, ...]]) -> None:
    sizes = sorted({tuple(shape[-2:]) for shape in shapes})
    if len(sizes) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
        raise RunError(
            f"the image processor ({type(preprocessor.processor).__name__}) gives images of "
            f"unlike sizes ({shown}{', ...' if len(sizes) > 3 else ''} pixels), which cannot be "
            "put into one batch: set 'image_size' on the dataset or 'processor: {size: N}' on the "
            "model"
        )
