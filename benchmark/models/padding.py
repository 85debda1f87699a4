"""How texts of unlike lengths become one rectangle of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmark.arrays import AnyArray, IntArray


@dataclass(frozen=True)
class Padding:
    """What fills up the shorter rows of a batch of texts; images need none.

    Attributes:
        token_id: fills up `input_ids`.
        token_type_id: fills up `token_type_ids`.
        side: where it goes.
        length: tokens that every row is filled up to; None: the batch's longest row.
        multiple: that length is rounded up to a multiple of this, if no longer than `longest`.
        longest: tokens that the model takes.
        masked: whether the model is told by an `attention_mask` which tokens are padding.
    """

    token_id: int = 0
    token_type_id: int = 0
    side: Literal["left", "right"] = "right"
    length: int | None = None
    masked: bool = True
    multiple: int = 1
    longest: int = 0

    def fill(self, rows: Sequence[AnyArray], name: str) -> IntArray:
        """Return the rows of the model input `name` as int64 [rows, length]."""
        value = {"input_ids": self.token_id, "token_type_ids": self.token_type_id}.get(name, 0)
        length = max(*map(len, rows), self.length or 0, 0)
        rounded = -(-length // self.multiple) * self.multiple
        length = rounded if rounded <= self.longest else length
        filled = np.full((len(rows), length), value, dtype=np.int64)
        for index, row in enumerate(rows):
            start = length - len(row) if self.side == "left" else 0
            filled[index, start : start + len(row)] = row
        return filled
