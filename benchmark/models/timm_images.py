"""Images for checkpoints of timm, whose processor takes pictures and gives torch tensors only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from benchmark.arrays import AnyArray
from benchmark.models.pretrained import Preprocessor


def is_of_timm(processor: Preprocessor) -> bool:
    """Say whether an image processor wraps timm's own transform."""
    return hasattr(processor, "val_transforms")


Part = Literal["whole", "shape", "values"]
"""Of a transform: all of it; up to the tensor it makes of a picture; from there on."""


def transform_pictures(
    processor: Preprocessor, images: Sequence[AnyArray], part: Part = "whole"
) -> list[AnyArray]:
    """Return what timm's evaluation transform makes of images, one at a time.

    Args:
        processor: the library's wrapper of a timm transform.
        images: uint8 [height, width, 3], or [height, width, 1] for grey ones.
        part: which part of it.

    Returns:
        [channels, height, width] each; uint8 of the part "shape", else float32.
    """
    pictures = (
        Image.fromarray(np.asarray(i)[..., 0] if i.shape[-1] == 1 else np.asarray(i))
        for i in images
    )
    if part == "whole":
        return [processor.val_transforms(picture).numpy() for picture in pictures]
    steps = processor.val_transforms.transforms
    tensor = next(n for n, step in enumerate(steps) if type(step).__name__.endswith("ToTensor"))
    chosen = steps[:tensor] if part == "shape" else steps[tensor:]
    made: list[Any] = list(pictures)
    for step in chosen:
        made = [step(one) for one in made]
    return [_channels_first(one) if part == "shape" else one.numpy() for one in made]


def _channels_first(picture: Image.Image) -> AnyArray:
    values = np.asarray(picture)
    return np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0)


def resized_pictures(processor: Preprocessor, size: int) -> Preprocessor:
    """Return a transform to `size` x `size` pixels; the share that is cut off stays the same."""
    channels = processor.data_config["input_size"][0]
    sized = {**processor.data_config, "input_size": (channels, size, size)}
    return type(processor)(pretrained_cfg=sized)
