"""Images mirrored and moved at random in training, a batch at a time on the device.

What happens to an image depends on the seed, the epoch and the image, not on the batch that it is
in, so it is the same however many processes share the batches, and when a training is resumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.arrays import IntArray
from benchmark.registry import Recipe

if TYPE_CHECKING:
    from torch import Tensor

_STREAM = 1
"""Keeps these draws apart from those of the order of rows, which come of seed and epoch alone."""


def image_moves(recipe: Recipe, n_rows: int, *, seed: int, epoch: int) -> IntArray | None:
    """Draw what happens to each image of a split in one epoch.

    Args:
        recipe: `random_flip` and `random_shift` say what may happen.
        n_rows: of the split.
        seed: the run's seed.
        epoch: 0, 1, ...

    Returns:
        int64 [n, 3]: mirrored (0 or 1), rows and columns by which it is moved (down and to the
        right, each -`random_shift` ... `random_shift`); None where the recipe asks for neither.
    """
    if not (recipe.random_flip or recipe.random_shift):
        return None
    generator = np.random.default_rng([seed, epoch, _STREAM])
    flips = generator.integers(0, 2, size=(n_rows, 1)) * recipe.random_flip
    most = recipe.random_shift
    shifts = generator.integers(-most, most + 1, size=(n_rows, 2))
    return np.concatenate([flips, shifts], axis=1).astype(np.int64)


def moved(pixels: Tensor, moves: Tensor) -> Tensor:
    """Return images mirrored left to right, then moved; what comes in repeats the edge.

    Args:
        pixels: [rows, channels, height, width] of any type.
        moves: int64 [rows, 3] of `image_moves`, on the same device.

    Returns:
        The same shape and type.
    """
    import torch

    height, width = pixels.shape[-2:]
    flips, down, right = moves.unbind(1)
    rows = torch.arange(height, device=pixels.device) - down[:, None]
    columns = torch.arange(width, device=pixels.device) - right[:, None]
    columns = columns.clamp(0, width - 1)
    columns = torch.where(flips[:, None].bool(), width - 1 - columns, columns)
    rows = rows.clamp(0, height - 1)
    taken = pixels.gather(2, rows[:, None, :, None].expand(-1, pixels.shape[1], -1, width))
    return taken.gather(3, columns[:, None, None, :].expand_as(taken))
