"""Images for checkpoints of timm, whose processor takes pictures and gives torch tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmark.arrays import AnyArray, Float32Array
from benchmark.models.pretrained import Preprocessor


def is_of_timm(processor: Preprocessor) -> bool:
    """Say whether an image processor wraps timm's own transform."""
    return hasattr(processor, "val_transforms")


def transform_pictures(processor: Preprocessor, images: Sequence[AnyArray]) -> list[Float32Array]:
    """Return what timm's evaluation transform makes of images, one at a time.

    Args:
        processor: the library's wrapper of a timm transform.
        images: uint8 [height, width, 3], or [height, width, 1] for grey ones.

    Returns:
        float32 [channels, height, width] each.
    """
    pictures = (
        Image.fromarray(np.asarray(i)[..., 0] if i.shape[-1] == 1 else np.asarray(i))
        for i in images
    )
    return [processor.val_transforms(picture).numpy() for picture in pictures]


def resized_pictures(processor: Preprocessor, size: int) -> Preprocessor:
    """Return a transform to `size` x `size` pixels; the share that is cut off stays the same."""
    channels = processor.data_config["input_size"][0]
    sized = {**processor.data_config, "input_size": (channels, size, size)}
    return type(processor)(pretrained_cfg=sized)
