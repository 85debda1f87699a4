"""Scratch entries: a preprocessor made from the training split, and a config the data complete.

A `scratch` entry then goes the same way as a hub checkpoint: its tokenizer or image processor is
saved as a checkpoint folder, and loaded by the Auto classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedTokenizerFast, ViTImageProcessorPil

from benchmark.data import Corpus
from benchmark.failures import RunError, first_line
from benchmark.models.pretrained import Preprocessor
from benchmark.models.stored import make_folder
from benchmark.plan import RunSpec
from benchmark.records import explained_errors

_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def scratch_config(
    spec: RunSpec, corpus: Corpus, preprocessor: Preprocessor, label_options: dict[str, Any]
) -> Any:
    """Return a scratch entry's configuration, completed with what the data decide.

    Raises:
        RunError: the architecture refuses the entry's settings.
    """
    settings = dict(spec.model.scratch or {})
    model_type = settings.pop("model_type")
    if spec.model.modality == "image":
        filled = {"image_size": _image_size(spec, corpus), "num_channels": 3}
    else:
        filled = {
            "vocab_size": len(preprocessor),
            "pad_token_id": preprocessor.pad_token_id,
            "max_position_embeddings": preprocessor.model_max_length,
        }
    try:
        return AutoConfig.for_model(model_type, **{**settings, **filled}, **label_options)
    except Exception as error:  # each architecture validates its config in its own way
        raise RunError(f"model {spec.model.name}: scratch config: {first_line(error)}") from error


def _image_size(spec: RunSpec, corpus: Corpus) -> int:
    wanted = (spec.model.scratch or {}).get("image_size", spec.dataset.image_size)
    if wanted is not None:
        return int(wanted)
    assert corpus.train.images is not None
    height, width, _ = corpus.train.images[0].shape
    return int(max(height, width))


def preprocessor_facts(spec: RunSpec) -> list[Any]:
    """Return, as JSON values, all that decides what a scratch entry's preprocessor gives."""
    scratch = spec.model.scratch or {}
    made_from = {"image_size": spec.dataset.image_size}
    made_from |= {name: scratch[name] for name in ("vocab_size", "image_size") if name in scratch}
    return [spec.data_key(), spec.dataset.max_length, made_from]


def preprocessor_folder(spec: RunSpec, corpus: Corpus, folder: Path) -> Path:
    """Return `folder` with the entry's preprocessor in it, made unless it is there.

    Safe with several processes at once.
    """

    def write(empty: Path) -> None:
        preprocessor = _make_preprocessor(spec, corpus)
        with explained_errors(folder):
            preprocessor.save_pretrained(empty)

    make_folder(folder, write)
    return folder


def _make_preprocessor(spec: RunSpec, corpus: Corpus) -> Preprocessor:
    if spec.model.modality == "image":
        return _fit_image_processor(corpus, _image_size(spec, corpus))
    vocab_size = int((spec.model.scratch or {}).get("vocab_size", 8000))
    return _train_tokenizer(corpus, vocab_size, spec.dataset.max_length or 512)


def _fit_image_processor(corpus: Corpus, size: int) -> Preprocessor:
    """Return a processor that standardises each channel by the training split's statistics."""
    assert corpus.train.images is not None
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    for index in range(len(corpus.train.images)):
        image = corpus.train.images[index].astype(np.float64).reshape(-1, 3) / 255
        sums, squares = sums + image.sum(axis=0), squares + (image**2).sum(axis=0)
        pixels += len(image)
    mean = sums / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-12))
    return ViTImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=[round(float(value), 6) for value in mean],
        image_std=[round(float(value), 6) for value in deviation],
    )


def _train_tokenizer(corpus: Corpus, vocab_size: int, max_length: int) -> Preprocessor:
    """Return a byte-level BPE tokenizer (Radford et al. 2019) of the training split.

    Trainers that mark the parts of a word (WordPiece's ##) number them in the order of a hash
    table that differs from process to process; this one gives the same tokenizer each time.
    """
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    assert corpus.train.texts is not None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*corpus.train.texts, *(corpus.train.text_pairs or [])], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, **_SPECIAL_TOKENS
    )
