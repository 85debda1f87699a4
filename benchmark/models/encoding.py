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
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from benchmark.arrays import AnyArray, Float32Array, IntArray
from benchmark.data import ImageSequence, Rows
from benchmark.models.preprocessor import LoadedPreprocessor
from benchmark.models.pretrained import Preprocessor
from benchmark.records import atomic_path

STORED_PIXELS_LIMIT = 256 * 2**20
"""Images are stored when a split has at most this many values (1 GiB as float32)."""
_CHUNK = 512


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
    processor: Preprocessor
    made_on_access: ClassVar[bool] = True

    @property
    def lengths(self) -> None:
        """See `Features.lengths`."""

    def take(self, positions: IntArray) -> dict[str, list[AnyArray]]:
        """See `Features.take`."""
        return {"pixel_values": list(_transform(self.processor, self.images, positions))}


def encode(
    make_rows: Callable[[], Rows],
    preprocessor: LoadedPreprocessor,
    *,
    max_length: int | None,
    cache: Path,
    key: str,
) -> EncodedSplit:
    """Encode a split, or read it back if an earlier run encoded it with the same inputs.

    Args:
        make_rows: returns the split's raw rows (shifted ones take time to make).
        preprocessor: tokenizer or image processor.
        max_length: longer texts are truncated to this many tokens (None: the tokenizer's).
        cache: folder of the stored arrays.
        key: identity of the rows; with the preprocessor's key it names the stored file.
    """
    path = cache / "encoded" / f"{preprocessor.key}-{max_length or 'full'}-{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # one process encodes, the others wait and read
        if not path.exists():
            rows = make_rows()
            if rows.images is not None and (
                _pixel_count(rows.images, preprocessor.processor) > STORED_PIXELS_LIMIT
            ):
                features = ImageFeatures(rows.images, preprocessor.processor)
                return EncodedSplit(rows.ids, rows.labels, features)
            with atomic_path(path) as temporary:
                save_file(_encode_arrays(rows, preprocessor.processor, max_length), temporary)
    return _from_arrays(load_file(path))


def encode_rows(
    rows: Rows, processor: Preprocessor, *, max_length: int | None = None
) -> EncodedSplit:
    """Encode rows in memory, without the cache (end-to-end timing measures this)."""
    return _from_arrays(_encode_arrays(rows, processor, max_length))


def _from_arrays(arrays: dict[str, AnyArray]) -> EncodedSplit:
    ids, labels = arrays.pop("ids"), arrays.pop("labels")
    if "pixel_values" in arrays:
        return EncodedSplit(ids, labels, PixelFeatures(arrays["pixel_values"]))
    offsets = arrays.pop("offsets")
    return EncodedSplit(ids, labels, TokenFeatures(offsets, arrays))


def _encode_arrays(
    rows: Rows, processor: Preprocessor, max_length: int | None
) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {"ids": rows.ids, "labels": rows.labels}
    if rows.images is not None:
        parts = [
            _transform(processor, rows.images, np.arange(start, min(start + _CHUNK, len(rows))))
            for start in range(0, len(rows), _CHUNK)
        ]
        return arrays | {"pixel_values": np.concatenate(parts)}
    assert rows.texts is not None
    pairs = () if rows.text_pairs is None else (list(rows.text_pairs),)
    encoded = processor(
        list(rows.texts),
        *pairs,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
    )
    lengths = [len(tokens) for tokens in encoded["input_ids"]]
    arrays |= {name: np.concatenate(_int_arrays(encoded[name])) for name in encoded}
    return arrays | {"offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)}


def _int_arrays(token_lists: Sequence[Sequence[int]]) -> list[IntArray]:
    return [np.asarray(tokens, dtype=np.int64) for tokens in token_lists]


def _transform(processor: Preprocessor, images: ImageSequence, positions: IntArray) -> Float32Array:
    batch = [images[int(position)] for position in positions]
    pixels = processor(images=batch, return_tensors="np", input_data_format="channels_last")
    return np.ascontiguousarray(pixels["pixel_values"], dtype=np.float32)


def _pixel_count(images: ImageSequence, processor: Preprocessor) -> int:
    """Return how many float values the transformed split has."""
    return int(_transform(processor, images, np.zeros(1, dtype=np.int64)).size) * len(images)
