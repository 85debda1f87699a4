"""What a model can take of what its preprocessor gives, and how its rows are put together.

A row's logits must not depend on the rows it is batched with. Encoders mask padding out, decoders
read their logits at the last token that is not padding, XLNet reads them at the very last one, and
FNet has no mask; some tokenizers have no token for padding, or another one than the model. So the
padding is tried on the model before hours are spent on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from benchmark.arrays import Float32Array, IntArray
from benchmark.failures import RunError, first_line
from benchmark.models.batches import collate
from benchmark.models.encoding import EncodedSplit
from benchmark.models.padding import Padding
from benchmark.models.preprocessor import LoadedPreprocessor
from benchmark.models.pretrained import Preprocessor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRIED_ROWS = 4
_ROUNDING_ON_CPU, _ROUNDING_ELSEWHERE = 1e-3, 1e-2
"""Largest difference between the logits of a row alone and in a batch, as a share of the largest
logit, that rounding explains. Other devices choose another kernel for each shape."""
_FEW_SHAPES = 8
_NO_MAXIMUM = 10**6
"""Tokenizers without a maximum say a huge one."""


def fit_to_model(
    preprocessor: LoadedPreprocessor, model: PreTrainedModel, max_length: int | None
) -> LoadedPreprocessor:
    """Return the preprocessor as the model needs it: cut texts, channels of images.

    Its tokenizer and the model agree on the token of padding afterwards: the model's, where its
    config names one of its vocabulary, for it is the model that tells padding from text.

    Args:
        preprocessor: tokenizer or image processor of the checkpoint.
        model: the checkpoint.
        max_length: tokens after which the data set cuts its texts; None: as the model says.

    Raises:
        RunError: the processor gives images of other channels than the model takes.
    """
    if preprocessor.is_tokenizer:
        _agree_on_padding(preprocessor.processor, model)
        return replace(preprocessor, max_length=_text_limit(preprocessor, model, max_length))
    return _with_channels(preprocessor, getattr(model.config, "num_channels", None))


# --- texts ----------------------------------------------------------------------------------------


def _agree_on_padding(tokenizer: Preprocessor, model: PreTrainedModel) -> None:
    config: Any = model.config.get_text_config()
    token_id = getattr(config, "pad_token_id", None)
    if token_id is None or not 0 <= token_id < len(tokenizer):
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
        token_id = next(token for token in known if token is not None)
        config.pad_token_id = token_id
    if tokenizer.pad_token_id != token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(token_id)


def _text_limit(
    preprocessor: LoadedPreprocessor, model: PreTrainedModel, max_length: int | None
) -> int | None:
    """Return the tokens after which texts are cut; None: where the tokenizer does by itself."""
    own = preprocessor.processor.model_max_length
    limits = [*_positions(model), *([max_length] if max_length else [])]
    shortest = min(limits, default=_NO_MAXIMUM)
    if max_length is None and own <= shortest:
        return None if own < _NO_MAXIMUM else max_length
    return int(min(shortest, own)) if max_length is None else int(shortest)


def _positions(model: PreTrainedModel) -> Iterator[int]:
    """Yield upper limits of a text's tokens: the config's, and those of tables of positions."""
    configured = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if configured is not None and configured > 0:
        yield configured
    for name, module in model.named_modules():
        if name.endswith(".position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from the one after the padding token's id.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            yield module.num_embeddings - unused


# --- images ---------------------------------------------------------------------------------------


def _with_channels(preprocessor: LoadedPreprocessor, channels: int | None) -> LoadedPreprocessor:
    processor = preprocessor.processor
    if channels == 1:
        preprocessor = replace(preprocessor, channels=1, key=f"{preprocessor.key}-grey")
    if channels in (1, 3):
        means = getattr(processor, "image_mean", None) or ()
        if getattr(processor, "do_normalize", True) and len(means) not in (0, channels):
            raise RunError(
                f"the model takes images of {channels} channel{'s' * (channels > 1)}, but the "
                f"image processor's image_mean and image_std are of {len(means)}: give "
                f"{channels} value{'s' * (channels > 1)} each under 'processor' of the model"
            )
    elif channels is not None:
        raise RunError(f"the model takes images of {channels} channels; 1 or 3 can be read")
    return preprocessor


# --- rows in batches ------------------------------------------------------------------------------


def choose_padding(
    model: PreTrainedModel, preprocessor: LoadedPreprocessor, split: EncodedSplit
) -> Padding:
    """Return the padding with which the model's logits of a row are its own.

    The tokenizer's side is tried first, then the other, then one length for all rows (the only
    choice for a model without a mask). Afterwards the tokenizer pads on the side found, so that
    it goes with the saved model.

    Args:
        model: on any device; put into evaluation mode.
        preprocessor: as `fit_to_model` returned it.
        split: encoded rows; a few of unlike lengths are tried.

    Raises:
        RunError: the model refuses its inputs, or no padding will do.
    """
    model.eval()
    if not preprocessor.is_tokenizer:
        require_row_independence(model, split, Padding())
        return Padding()
    tokenizer = preprocessor.processor
    differences = []
    for padding in _candidates(model, preprocessor):
        differences.append(_difference(model, split, padding))
        if differences[-1] <= _rounding(model):
            tokenizer.padding_side = padding.side
            return padding
    raise _dependence(differences[-1])


def _candidates(model: PreTrainedModel, preprocessor: LoadedPreprocessor) -> Iterator[Padding]:
    tokenizer = preprocessor.processor
    sides: tuple[Literal["left", "right"], ...] = ("right", "left")
    length = preprocessor.max_length or tokenizer.model_max_length
    first = Padding(
        token_id=tokenizer.pad_token_id,
        token_type_id=getattr(tokenizer, "pad_token_type_id", 0),
        side=tokenizer.padding_side,
        masked=_takes_mask(model),
        # Libraries of GPUs look for the best kernel anew for each shape they have not seen.
        multiple=_FEW_SHAPES if model.device.type == "cuda" else 1,
        longest=length,
    )
    if first.masked:
        yield first
        yield replace(first, side=sides[tokenizer.padding_side == "right"])
    if length >= _NO_MAXIMUM:
        raise RunError(
            "the model's logits depend on padding, so all texts need one length, and neither "
            "model nor tokenizer names a maximum: set 'max_length' on the dataset"
        )
    yield replace(first, length=length, multiple=1)


def _takes_mask(model: PreTrainedModel) -> bool:
    names = inspect.signature(model.forward).parameters
    return "attention_mask" in names or "input_ids" not in names


def require_row_independence(model: PreTrainedModel, split: EncodedSplit, padding: Padding) -> None:
    """Refuse a model whose logits of a row depend on the rows it is batched with.

    Args:
        model: in evaluation mode, on any device.
        split: encoded rows; a few of unlike lengths are tried, each alone and all in one batch.
        padding: as `choose_padding` returned it.

    Raises:
        RunError: the logits differ by more than rounding, or the model refuses its inputs.
    """
    difference = _difference(model, split, padding)
    if difference > _rounding(model):
        raise _dependence(difference)


def _rounding(model: PreTrainedModel) -> float:
    return _ROUNDING_ON_CPU if model.device.type == "cpu" else _ROUNDING_ELSEWHERE


def _dependence(difference: float) -> RunError:
    return RunError(
        f"the model's logits of a row depend on the rows it is batched with (they differ by "
        f"{difference:.1%} of the largest logit): its scores would change with the batch size"
    )


def _difference(model: PreTrainedModel, split: EncodedSplit, padding: Padding) -> float:
    """Return the largest |alone - in a batch| over the largest |logit|; 0 where not finite."""
    tried = _tried_rows(split)
    together = _logits(model, split, tried, padding)
    alone = np.concatenate(
        [_logits(model, split, tried[i : i + 1], padding) for i in range(len(tried))]
    )
    if not (np.isfinite(together).all() and np.isfinite(alone).all()):
        return 0.0  # said where all rows are scored, with the reason
    scale = max(float(np.abs(alone).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(alone - together).max()) / scale


def _tried_rows(split: EncodedSplit) -> IntArray:
    """Return positions of the shortest row, the longest, and some between."""
    lengths = split.lengths
    order = np.arange(len(split)) if lengths is None else np.argsort(lengths, kind="stable")
    chosen = np.linspace(0, len(order) - 1, min(_TRIED_ROWS, len(order))).round().astype(np.int64)
    return order[chosen]


@torch.inference_mode()
def _logits(
    model: PreTrainedModel, split: EncodedSplit, positions: IntArray, padding: Padding
) -> Float32Array:
    inputs = collate(split, positions, padding)
    inputs.pop("labels")
    try:
        output = model(**{name: value.to(model.device) for name, value in inputs.items()})
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise RunError(
            f"the model refuses what its preprocessor makes ({shapes}): {first_line(error)}"
        ) from error
    logits: Float32Array = output.logits.float().cpu().numpy()
    return logits
