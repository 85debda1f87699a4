"""Raw labelled rows: what every dataset source yields and every encoder consumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.arrays import IntArray

Image = NDArray[np.uint8]


class ImageSequence(Protocol):
    """Images decoded on access, so that a large dataset need not fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image:
        """Return one image, uint8 [height, width, 3]."""
        ...


@dataclass(frozen=True)
class Rows:
    """The rows of one split, in a fixed order.

    Attributes:
        ids: int64 [n], unique within the dataset and stable between runs.
        labels: int64 [n], 0 ... K-1.
        texts: n strings (text tasks).
        text_pairs: n strings (text-pair tasks; then `texts` holds the first of each pair).
        images: n images, uint8 [height, width, 3] (image tasks).
    """

    ids: IntArray
    labels: IntArray
    texts: Sequence[str] | None = None
    text_pairs: Sequence[str] | None = None
    images: ImageSequence | None = None

    def __post_init__(self) -> None:
        if (self.texts is None) == (self.images is None):
            raise ValueError("rows hold either texts or images")
        for column in (self.labels, self.texts, self.text_pairs, self.images):
            if column is not None and len(column) != len(self.ids):
                raise ValueError(f"{len(self.ids)} ids but a column of {len(column)} values")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: IntArray) -> Rows:
        """Return the rows at `positions` (int64 [m], in the order given)."""

        def pick(column: Sequence[str] | None) -> list[str] | None:
            return None if column is None else [column[int(i)] for i in positions]

        return replace(
            self,
            ids=self.ids[positions],
            labels=self.labels[positions],
            texts=pick(self.texts),
            text_pairs=pick(self.text_pairs),
            images=None if self.images is None else _ImageView(self.images, positions),
        )


@dataclass(frozen=True)
class _ImageView:
    """A selection of another image sequence, still decoded on access."""

    images: ImageSequence
    positions: IntArray

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Image:
        return self.images[int(self.positions[index])]
