"""Raw rows -> model inputs as flat arrays, encoded once and kept on disk.

They are shared by every run with the same data and preprocessor: tokens as safetensors, images as
a folder of arrays (see `pixels`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from benchmark.arrays import AnyArray, IntArray
from benchmark.data import Rows
from benchmark.models.pixels import PixelFeatures, read_images, store_images, transformed
from benchmark.models.preprocessor import LoadedPreprocessor
from benchmark.models.stored import is_whole, make_folder
from benchmark.records import BLANK, DamagedError, atomic_path, seal, sole_maker, verify

if TYPE_CHECKING:
    from torch import Tensor


class Features(Protocol):
    """Encoded inputs of a split's rows."""

    @property
    def lengths(self) -> IntArray | None:
        """Tokens per row; None where all rows are alike (images)."""
        ...

    def take(
        self, positions: IntArray, *, pinned: bool = False
    ) -> Mapping[str, Tensor | list[AnyArray]]:
        """Return inputs of the rows at `positions`: one tensor, or one array a row (texts).

        Args:
            positions: int64 [m].
            pinned: put tensors where a GPU copies from while the host goes on.
        """
        ...

    def on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch of what `take` gave, on any device, as the model takes it."""
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

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 for images."""
        return 0 if self.lengths is None else int(self.lengths.max(initial=0))


@dataclass(frozen=True)
class TokenFeatures:
    """Token ids of all rows end to end: row i is columns[...][offsets[i]:offsets[i + 1]]."""

    offsets: IntArray
    columns: dict[str, IntArray]

    @property
    def lengths(self) -> IntArray:
        """Tokens per row, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, positions: IntArray, *, pinned: bool = False) -> dict[str, list[AnyArray]]:
        """See `Features.take`; a text's few tokens are pinned once they are padded."""
        bounds = [(self.offsets[i], self.offsets[i + 1]) for i in positions]
        return {
            name: [flat[start:end] for start, end in bounds] for name, flat in self.columns.items()
        }

    def on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Features.on_device`."""
        return inputs


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
        key: identity of the rows; with the preprocessor's key it names what is stored.
    """
    path = cache / "encoded" / f"{preprocessor.key}-{preprocessor.max_length or 'full'}-{key}"
    if preprocessor.is_tokenizer:
        return _encode_texts(make_rows, preprocessor, path.with_name(f"{path.name}.safetensors"))
    make_folder(path, lambda folder: store_images(folder, make_rows(), preprocessor))
    return EncodedSplit(*read_images(path))


def _encode_texts(
    make_rows: Callable[[], Rows], preprocessor: LoadedPreprocessor, path: Path
) -> EncodedSplit:
    with sole_maker(path):  # one process encodes, the others wait and read
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of one that died
            left.unlink(missing_ok=True)
        if not is_whole(path, _verify_arrays):
            arrays = _token_arrays(make_rows(), preprocessor)
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
    if rows.images is None:
        return _from_arrays(_token_arrays(rows, preprocessor))
    pixels = transformed(preprocessor, rows.images, np.arange(len(rows)))
    return EncodedSplit(rows.ids, rows.labels, PixelFeatures(pixels))


def _from_arrays(arrays: dict[str, AnyArray]) -> EncodedSplit:
    ids, labels, offsets = (arrays.pop(name) for name in ("ids", "labels", "offsets"))
    return EncodedSplit(ids, labels, TokenFeatures(offsets, arrays))


def _token_arrays(rows: Rows, preprocessor: LoadedPreprocessor) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {"ids": rows.ids, "labels": rows.labels}
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
