"""Raw rows -> model inputs as flat arrays, encoded once and kept on disk.

Tokenised text and small images are stored as safetensors, shared by every run with the same
data and preprocessor. Images too large to store are transformed on access.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from benchmark.arrays import AnyArray, Float32Array, IntArray
from benchmark.data import ImageSequence, Rows
from benchmark.failures import RunError
from benchmark.models.preprocessor import LoadedPreprocessor, pixels_of
from benchmark.models.stored import is_whole
from benchmark.records import (
    BLANK,
    DamagedError,
    atomic_path,
    seal,
    sole_maker,
    verify,
)

STORED_PIXELS_LIMIT = 256 * 2**20
"""Images are stored when a split has at most this many values (1 GiB as float32)."""
_CHUNK = 512
_TRIED_IMAGES = 16
"""Images looked at before any is trained on: one size is enough to go on with."""


class Features(Protocol):
    """Encoded inputs of a split's rows."""

    @property
    def made_on_access(self) -> bool:
        """Whether `take` does work that is worth loader processes."""
        ...

    @property
    def lengths(self) -> IntArray | None:
        """Tokens per row; None where all rows are alike (images)."""
        ...

    def take(self, positions: IntArray) -> dict[str, list[AnyArray]]:
        """Return model inputs of the rows at `positions`, unpadded, one array a row."""
        ...


@dataclass(frozen=True)
class EncodedSplit:
    """A split ready for batching: ids and labels (int64 [n]) with their features."""

    ids: IntArray
    labels: IntArray
    features: Features

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> IntArray | None:
        """Tokens per row, int64 [n]; None for images."""
        return self.features.lengths


@dataclass(frozen=True)
class TokenFeatures:
    """Token ids of all rows end to end: row i is columns[...][offsets[i]:offsets[i + 1]]."""

    offsets: IntArray
    columns: dict[str, IntArray]
    made_on_access: ClassVar[bool] = False

    @property
    def lengths(self) -> IntArray:
        """Tokens per row, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, positions: IntArray) -> dict[str, list[AnyArray]]:
        """See `Features.take`."""
        bounds = [(self.offsets[i], self.offsets[i + 1]) for i in positions]
        return {
            name: [flat[start:end] for start, end in bounds] for name, flat in self.columns.items()
        }


@dataclass(frozen=True)
class PixelFeatures:
    """Transformed images: stored values, float32 [n, channels, height, width]."""

    pixels: Float32Array
    made_on_access: ClassVar[bool] = False

    @property
    def lengths(self) -> None:
        """See `Features.lengths`."""

    def take(self, positions: IntArray) -> dict[str, list[AnyArray]]:
        """See `Features.take`."""
        return {"pixel_values": list(self.pixels[positions])}


@dataclass(frozen=True)
class ImageFeatures:
    """Images transformed on access, for splits too large to store."""

    images: ImageSequence
    preprocessor: LoadedPreprocessor
    made_on_access: ClassVar[bool] = True

    @property
    def lengths(self) -> None:
        """See `Features.lengths`."""

    def take(self, positions: IntArray) -> dict[str, list[AnyArray]]:
        """See `Features.take`."""
        return {"pixel_values": list(_transform(self.preprocessor, self.images, positions))}


def encode(
    make_rows: Callable[[], Rows],
    preprocessor: LoadedPreprocessor,
    *,
    cache: Path,
    key: str,
) -> EncodedSplit:
    """Encode a split, or read it back if an earlier run encoded it with the same inputs.

    Args:
        make_rows: returns the split's raw rows (shifted ones take time to make).
        preprocessor: tokenizer or image processor, as fitted to the model.
        cache: folder of the stored arrays.
        key: identity of the rows; with the preprocessor's key it names the stored file.
    """
    name = f"{preprocessor.key}-{preprocessor.max_length or 'full'}-{key}.safetensors"
    path = cache / "encoded" / name
    with sole_maker(path):  # one process encodes, the others wait and read
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of one that died
            left.unlink(missing_ok=True)
        if not is_whole(path, _verify_arrays):
            rows = make_rows()
            if rows.images is not None and _pixels(rows.images, preprocessor) > STORED_PIXELS_LIMIT:
                features = ImageFeatures(rows.images, preprocessor)
                return EncodedSplit(rows.ids, rows.labels, features)
            arrays = _encode_arrays(rows, preprocessor)
            with atomic_path(path) as temporary:
                save_file(arrays, temporary, metadata={"checksum": BLANK})
                seal(temporary)
    return _from_arrays(load_file(path))


def _verify_arrays(path: Path) -> None:
    """Check stored arrays, as `is_whole` asks: the checksum, and that they can be opened."""
    verify(path)
    try:
        with safe_open(path, framework="numpy"):
            return
    except SafetensorError as error:
        raise DamagedError(path, str(error)) from error


def encode_rows(rows: Rows, preprocessor: LoadedPreprocessor) -> EncodedSplit:
    """Encode rows in memory, without the cache (end-to-end timing measures this)."""
    return _from_arrays(_encode_arrays(rows, preprocessor))


def _from_arrays(arrays: dict[str, AnyArray]) -> EncodedSplit:
    ids, labels = arrays.pop("ids"), arrays.pop("labels")
    if "pixel_values" in arrays:
        return EncodedSplit(ids, labels, PixelFeatures(arrays["pixel_values"]))
    offsets = arrays.pop("offsets")
    return EncodedSplit(ids, labels, TokenFeatures(offsets, arrays))


def _encode_arrays(rows: Rows, preprocessor: LoadedPreprocessor) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {"ids": rows.ids, "labels": rows.labels}
    if rows.images is not None:
        return arrays | {"pixel_values": _all_pixels(rows.images, preprocessor)}
    columns = _token_lists(rows, preprocessor)
    lengths = [len(tokens) for tokens in columns["input_ids"]]
    arrays |= {name: np.concatenate(_int_arrays(lists)) for name, lists in columns.items()}
    return arrays | {"offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)}


def _token_lists(rows: Rows, preprocessor: LoadedPreprocessor) -> dict[str, list[list[int]]]:
    assert rows.texts is not None
    tokenizer = preprocessor.processor
    pairs = () if rows.text_pairs is None else (list(rows.text_pairs),)
    encoded = tokenizer(
        list(rows.texts),
        *pairs,
        truncation=True,
        max_length=preprocessor.max_length,
        return_attention_mask=False,
    )
    columns: dict[str, list[list[int]]] = {name: list(encoded[name]) for name in encoded}
    # Decoders' tokenizers add nothing to a text, so that an empty one would have no token.
    for row in (row for row, tokens in enumerate(columns["input_ids"]) if not tokens):
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        first = next((token for token in known if token is not None), 0)
        for name, lists in columns.items():
            lists[row] = [first if name == "input_ids" else 0]
    return columns


def _int_arrays(token_lists: Sequence[Sequence[int]]) -> list[IntArray]:
    return [np.asarray(tokens, dtype=np.int64) for tokens in token_lists]


def _all_pixels(images: ImageSequence, preprocessor: LoadedPreprocessor) -> Float32Array:
    starts = range(0, len(images), _CHUNK)
    chunks = [np.arange(start, min(start + _CHUNK, len(images))) for start in starts]
    parts = [_transform(preprocessor, images, chunk) for chunk in chunks]
    _require_one_size(preprocessor, parts)
    return np.concatenate(parts)


def _transform(
    preprocessor: LoadedPreprocessor, images: ImageSequence, positions: IntArray
) -> Float32Array:
    batch = [images[int(position)] for position in positions]
    if preprocessor.channels == 1:
        batch = [_grey(image) for image in batch]
    pixels = pixels_of(preprocessor.processor, batch)
    _require_one_size(preprocessor, pixels)
    return np.ascontiguousarray(np.stack(pixels), dtype=np.float32)


def _grey(image: AnyArray) -> AnyArray:
    """Return the brightness of an RGB image, uint8 [height, width, 1] (ITU-R BT.601)."""
    return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]


def _require_one_size(preprocessor: LoadedPreprocessor, images: Sequence[AnyArray]) -> None:
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(sizes) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
        raise RunError(
            f"the image processor ({type(preprocessor.processor).__name__}) gives images of "
            f"unlike sizes ({shown}{', ...' if len(sizes) > 3 else ''} pixels), which cannot be "
            "put into one batch: set 'image_size' on the dataset or 'processor: {size: N}' on the "
            "model"
        )


def _pixels(images: ImageSequence, preprocessor: LoadedPreprocessor) -> int:
    """Return how many float values the transformed split has, as some of its rows tell."""
    some = np.linspace(0, len(images) - 1, min(_TRIED_IMAGES, len(images))).astype(np.int64)
    return int(_transform(preprocessor, images, some)[0].size) * len(images)
