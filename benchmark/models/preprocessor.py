"""Model entry -> tokenizer or image processor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.image_utils import SizeDict

from benchmark.arrays import AnyArray
from benchmark.data import Corpus, require_fetched
from benchmark.failures import RunError, UnavailableError
from benchmark.hub import fetch_settings, is_missing_file
from benchmark.models.pretrained import (
    Preprocessor,
    load_problem,
    missing_library,
    missing_text_libraries,
    naming,
    source_name,
    source_options,
)
from benchmark.models.scratch import preprocessor_facts, preprocessor_folder
from benchmark.models.timm_images import is_of_timm, resized_pictures, transform_pictures
from benchmark.plan import RunSpec
from benchmark.registry import ModelEntry


@dataclass(frozen=True)
class LoadedPreprocessor:
    """A tokenizer or image processor, and how it is applied.

    Attributes:
        processor: of the library.
        key: equal when the output is, but for `max_length`.
        max_length: longer texts are cut to this many tokens; None: the tokenizer's maximum.
        channels: of the images it is given: 3, or 1 (grey).
    """

    processor: Preprocessor
    key: str
    max_length: int | None = None
    channels: Literal[1, 3] = 3

    @property
    def is_tokenizer(self) -> bool:
        """Whether it takes texts, not images."""
        return hasattr(self.processor, "convert_ids_to_tokens")


def load_preprocessor(spec: RunSpec, corpus: Corpus, cache: Path) -> LoadedPreprocessor:
    """Return the tokenizer or image processor that belongs to the run's checkpoint.

    Args:
        spec: the run.
        corpus: its data; a scratch entry's preprocessor is made from the training split.
        cache: folder for what is made once and shared by runs.

    Raises:
        UnavailableError: the checkpoint has none, or it cannot be fetched.
    """
    if spec.model.scratch is not None:
        key = _hash(preprocessor_facts(spec))
        source = str(preprocessor_folder(spec, corpus, cache / "preprocessors" / key))
        return LoadedPreprocessor(_auto_preprocessor(spec, source), key)
    if spec.model.path is not None:
        with naming(spec.model):
            for file in sorted(path for path in spec.model.path.iterdir() if path.is_file()):
                require_fetched(file)
    size = spec.dataset.image_size
    changes = [part for part in (size, _overrides(spec.model)) if part]
    key = _hash([source_name(spec.model), spec.model_revision, *changes])
    processor = _auto_preprocessor(spec, source_name(spec.model))
    if is_of_timm(processor) and spec.model.processor is not None:
        raise RunError(
            f"model {spec.model.name}: 'processor' does not apply to checkpoints of timm, whose "
            "transform follows from their config; leave it out"
        )
    if size is not None and spec.model.modality == "image":
        if is_of_timm(processor):
            processor = resized_pictures(processor, size)
        elif hasattr(processor, "size"):
            _resize_output(processor, size)
        _require_image_size(spec, processor, size)
    return LoadedPreprocessor(processor, key)


def _overrides(entry: ModelEntry) -> dict[str, Any]:
    """Return what the entry's image processor does instead of what its file says."""
    return {} if entry.processor is None else entry.processor.options()


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _auto_preprocessor(spec: RunSpec, source: str) -> Preprocessor:
    entry, options = spec.model, source_options(spec)
    if entry.hub is not None:
        remote_code = entry.trust_remote_code
        with naming(entry):
            fetch_settings(entry.hub, str(spec.model_revision), remote_code=remote_code)
    try:
        if entry.modality == "text":
            return _with_vocabulary(entry, AutoTokenizer.from_pretrained(source, **options))
        options |= _overrides(entry)
        return AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    except ImportError as error:
        raise missing_library(entry, error) from None
    except (OSError, ValueError) as error:
        if missing := missing_text_libraries(error):
            raise missing_library(entry, missing) from None
        reason = "its files hold none" if is_missing_file(error) else load_problem(error)
        raise UnavailableError(
            f"model {entry.name}: no preprocessor at {source}: {reason}"
        ) from error


def _with_vocabulary(entry: ModelEntry, tokenizer: Preprocessor) -> Preprocessor:
    """Refuse the empty tokenizer that the library makes up where a checkpoint has none."""
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UnavailableError(
            f"model {entry.name}: no preprocessor at {source_name(entry)}: its files hold no "
            "tokenizer; name a revision or a folder that has one"
        )
    return tokenizer


def _resize_output(processor: Preprocessor, size: int) -> None:
    """Let an image processor give images of `size` x `size` pixels.

    Where it enlarges the image and cuts out the centre, the share cut off stays the same.
    """
    old, crop = processor.size, getattr(processor, "crop_size", None)
    edge, resized = old.height or old.shortest_edge or size, size
    if crop is not None and getattr(processor, "do_center_crop", False):
        resized = round(size * max(1.0, edge / crop.height))
        processor.crop_size = SizeDict(height=size, width=size)
    # LeViT's and PoolFormer's processors add a margin of their own.
    if old.height:
        processor.size = SizeDict(height=resized, width=resized)
    else:
        processor.size = SizeDict(shortest_edge=resized)


def _require_image_size(spec: RunSpec, processor: Preprocessor, size: int) -> None:
    """Refuse an image processor that cannot be set to another size."""
    shape = _output_shape(processor, size)
    if shape != (size, size) and not getattr(processor, "do_center_crop", False):
        # One that keeps the picture's shape gives as many sizes as there are shapes.
        processor.size = SizeDict(height=size, width=size)
        shape = _output_shape(processor, size)
    if shape != (size, size):
        raise RunError(
            f"model {spec.model.name}: its image processor ({type(processor).__name__}) gives "
            f"{shape[0]} x {shape[1]} pixels and cannot be set to the image_size {size} of "
            f"dataset {spec.dataset.name}; leave image_size out"
        )


def _output_shape(processor: Preprocessor, size: int) -> tuple[int, ...]:
    """Return height and width of what becomes of a picture that is not square."""
    channels = len(getattr(processor, "image_mean", None) or (0, 0, 0))
    sample = np.zeros((size + 3, size + 7, channels), dtype=np.uint8)
    return tuple(pixels_of(processor, [sample])[0].shape[-2:])


def pixels_of(
    processor: Preprocessor, images: Sequence[AnyArray], *, whole: bool = True
) -> Sequence[AnyArray]:
    """Return what an image processor makes of images, [channels, height, width] each.

    Args:
        processor: of any checkpoint.
        images: uint8 [height, width, channels].
        whole: with resizing and cutting; else only what is done to each pixel by itself.
    """
    if is_of_timm(processor):
        return transform_pictures(processor, images, "whole" if whole else "values")
    left_out = {} if whole else {"do_resize": False, "do_center_crop": False}
    return _processed(processor, images, left_out)


def bytes_of(processor: Preprocessor, images: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """Return images as an image processor resizes and cuts them: whole numbers 0 ... 255."""
    if is_of_timm(processor):
        found: Sequence[AnyArray] = transform_pictures(processor, images, "shape")
    else:
        found = _processed(processor, images, {"do_rescale": False, "do_normalize": False})
    for image in found:
        if not np.array_equal(image, image.astype(np.uint8)):
            raise ValueError("the processor resizes to values that are no bytes")
    return found


def _processed(
    processor: Preprocessor, images: Sequence[AnyArray], options: dict[str, bool]
) -> Sequence[AnyArray]:
    made = processor(images=images, input_data_format="channels_last", **options)
    pixels: Sequence[AnyArray] = made["pixel_values"]
    return pixels
