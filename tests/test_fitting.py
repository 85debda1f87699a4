"""A row's logits are its own: padding, positions, channels and masks of many architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
)

from benchmark.data import ImageSequence, Rows
from benchmark.failures import RunError
from benchmark.models import (
    EncodedSplit,
    LoadedPreprocessor,
    Padding,
    choose_padding,
    collate,
    encode_rows,
    fit_to_model,
    require_row_independence,
)

WORDS = ("barley", "tractor", "meadow", "harbour", "crane", "ferry", "signal", "track", "tunnel")
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<other>")
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
POSITIONS = 24


@dataclass(frozen=True)
class Architecture:
    """A small model and what its tokenizer is like."""

    model_type: str
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    pad_id: int | None = 3
    ends: bool = False
    side: str = "right"


def decoder(model_type: str, pad_id: int | None, **tokenizer: Any) -> Architecture:
    config = SMALL | {"max_position_embeddings": POSITIONS, "num_key_value_heads": 1}
    return Architecture(model_type, config, {"eos_token": "</s>", **tokenizer}, pad_id)


GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
BERT = SMALL | {"max_position_embeddings": POSITIONS}
PAD: dict[str, Any] = {"pad_token": "<pad>"}
ARCHITECTURES = {
    "bert": Architecture("bert", BERT, PAD, ends=True),
    "bert, another id": Architecture("bert", BERT, PAD, pad_id=0, ends=True),
    "roberta": Architecture("roberta", BERT | {"type_vocab_size": 1}, PAD, ends=True),
    "albert": Architecture("albert", BERT | {"embedding_size": 8}, PAD, ends=True),
    "deberta-v2": Architecture("deberta-v2", BERT, PAD, ends=True),
    "gpt2 without a token for padding": Architecture("gpt2", GPT2, {"eos_token": "</s>"}, None),
    "gpt2 padded left": Architecture("gpt2", GPT2, PAD | {"padding_side": "left"}, None),
    "llama without": decoder("llama", None),
    "llama, another id": decoder("llama", 4, pad_token="<pad>"),
    "llama, impossible id": decoder("llama", -1, pad_token="<pad>"),
    "llama padded left": decoder("llama", None, pad_token="<pad>", padding_side="left"),
    "qwen2": decoder("qwen2", None, pad_token="<other>"),
    "qwen3": decoder("qwen3", None, pad_token="<other>"),
    "mistral": decoder("mistral", None),
    "gemma": Architecture("gemma", BERT | {"num_key_value_heads": 1, "head_dim": 8}, PAD),
    "modernbert-decoder": Architecture("modernbert-decoder", BERT, PAD),
    "modernbert": Architecture("modernbert", BERT, PAD, ends=True),
    "xlnet": Architecture("xlnet", XLNET, PAD | {"padding_side": "left"}, ends=True, side="left"),
    "xlnet padded right": Architecture("xlnet", XLNET, PAD, ends=True, side="left"),
    "fnet": Architecture("fnet", BERT, PAD, ends=True),
    "electra": Architecture("electra", BERT | {"embedding_size": 16}, PAD, ends=True),
}  # fmt: skip


def tokenizer_of(architecture: Architecture, **more: Any) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    if architecture.ends:
        whole.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    options = architecture.tokenizer | more
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>", **options)


def model_of(architecture: Architecture) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        architecture.model_type,
        vocab_size=len(SPECIAL) + len(WORDS),
        num_labels=3,
        initializer_range=0.5,
        pad_token_id=architecture.pad_id,
        **architecture.config,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    for name, parameter in model.named_parameters():  # heads that start at zero would say nothing
        if "norm" not in name.lower():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def text_rows(texts: list[str]) -> Rows:
    ids = np.arange(len(texts))
    return Rows(ids, np.zeros(len(texts), dtype=np.int64), texts=tuple(texts))


def fitted(name: str, texts: list[str]) -> tuple[Any, Any, EncodedSplit, Padding]:
    architecture = ARCHITECTURES[name]
    model, tokenizer = model_of(architecture), tokenizer_of(architecture)
    loaded = fit_to_model(LoadedPreprocessor(tokenizer, "key"), model, None)
    split = encode_rows(text_rows(texts), loaded)
    return model, tokenizer, split, choose_padding(model, loaded, split)


def batch_logits(model: Any, split: EncodedSplit, rows: Any, padding: Padding) -> Any:
    inputs = collate(split, np.asarray(rows), padding)
    inputs.pop("labels")
    with torch.no_grad():
        return model(**inputs).logits.numpy()


TEXTS = ["crane", "barley tractor meadow", "ferry " * 11, "signal track", "tunnel " * 60]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_in_a_batch_has_the_logits_of_the_library_for_it_alone(name: str) -> None:
    model, tokenizer, split, padding = fitted(name, TEXTS)
    architecture = ARCHITECTURES[name]
    together = batch_logits(model, split, range(len(TEXTS)), padding)
    limit = {"max_length": POSITIONS - (4 if name == "roberta" else 0)}
    if architecture.model_type == "xlnet":
        limit = {}
    options: dict[str, Any] = {"truncation": bool(limit), "return_tensors": "pt", **limit}
    if name == "fnet":  # it sees padding, so that all texts are of one length
        options |= {"padding": "max_length", "return_attention_mask": False}
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            alone = model(**tokenizer(text, **options)).logits[0].numpy()
        np.testing.assert_allclose(together[row], alone, atol=2e-5, rtol=2e-5)
    assert together.std() > 0.01
    if name != "fnet":
        assert padding.length is None
    if architecture.model_type == "xlnet":
        assert padding.side == "left"
    if "gpt2" in name:
        assert padding.side == "right"
    assert (tokenizer.pad_token_id, tokenizer.padding_side) == (padding.token_id, padding.side)
    assert model.config.pad_token_id == tokenizer.pad_token_id


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), min_size=2, max_size=6
    ),
    name=st.sampled_from(sorted(ARCHITECTURES)),
)
def test_any_texts_in_any_batch(texts: list[str], name: str) -> None:
    """Empty ones too, for which a decoder's tokenizer gives no token at all."""
    model, _, split, padding = fitted(name, texts)
    together = batch_logits(model, split, range(len(texts)), padding)
    for row in range(len(texts)):
        alone = batch_logits(model, split, [row], padding)[0]
        np.testing.assert_allclose(together[row], alone, atol=5e-5, rtol=5e-5)


def test_saved_tokenizer_and_model_agree(tmp_path: Any) -> None:
    """A pipeline of the saved folder pads as was found right."""
    model, tokenizer, split, padding = fitted("gpt2 padded left", TEXTS[:4])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = again(**read(TEXTS[:4], padding=True, return_tensors="pt")).logits.numpy()
    expected = batch_logits(model, split, range(4), padding)
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("own", "wanted", "limit"),
    [
        (None, None, POSITIONS), (16, None, None), (99, None, POSITIONS), (16, 8, 8),
        (None, 99, POSITIONS), (16, 20, 20),
    ],
)  # fmt: skip
def test_texts_are_cut_to_the_positions_of_the_model(
    own: int | None, wanted: int | None, limit: int | None
) -> None:
    """None as a result: the tokenizer cuts by itself. A data set's `max_length` goes first."""
    architecture = ARCHITECTURES["bert"]
    more = {} if own is None else {"model_max_length": own}
    loaded = LoadedPreprocessor(tokenizer_of(architecture, **more), "key")
    assert fit_to_model(loaded, model_of(architecture), wanted).max_length == limit


def test_positions_of_roberta_start_after_the_token_of_padding() -> None:
    architecture = ARCHITECTURES["roberta"]
    loaded = LoadedPreprocessor(tokenizer_of(architecture, model_max_length=POSITIONS), "key")
    assert fit_to_model(loaded, model_of(architecture), None).max_length == POSITIONS - 4


def test_model_without_a_mask_needs_a_maximum_length() -> None:
    model, tokenizer = model_of(ARCHITECTURES["fnet"]), tokenizer_of(ARCHITECTURES["fnet"])
    loaded = LoadedPreprocessor(tokenizer, "key")
    with pytest.raises(RunError, match="set 'max_length' on the dataset"):
        choose_padding(model, loaded, encode_rows(text_rows(TEXTS[:3]), loaded))


def test_wrong_padding_is_found_out() -> None:
    """What XLNet did before: padded right, where it reads its logits."""
    model, _, split, padding = fitted("xlnet", TEXTS)
    require_row_independence(model, split, padding)
    wrong = Padding(token_id=padding.token_id, side="right")
    with pytest.raises(RunError, match="depend on the rows it is batched with"):
        require_row_independence(model, split, wrong)


def test_inputs_that_the_model_refuses_are_told_before_training() -> None:
    model = model_of(ARCHITECTURES["bert"])
    tokenizer = tokenizer_of(ARCHITECTURES["bert"])
    split = encode_rows(text_rows(TEXTS), LoadedPreprocessor(tokenizer, "key"))  # not fitted
    with pytest.raises(RunError, match=r"refuses what its preprocessor makes \(.*\[4, 62\]"):
        require_row_independence(model, split, Padding())


# --- images ---------------------------------------------------------------------------------------


class Pictures(ImageSequence):
    """Random pictures of given heights and widths."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        chance = np.random.default_rng(0)
        self.pictures = [chance.integers(0, 256, (*s, 3)).astype(np.uint8) for s in shapes]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.pictures[index]


def image_rows(shapes: list[tuple[int, int]]) -> Rows:
    ids = np.arange(len(shapes))
    return Rows(ids, np.zeros(len(shapes), dtype=np.int64), images=Pictures(shapes))


def vit(channels: int, size: int = 16) -> Any:
    config = transformers.ViTConfig(
        num_channels=channels, image_size=size, patch_size=8, num_labels=3, **SMALL
    )
    return AutoModelForImageClassification.from_config(config)


def processor_of(channels: int, **size: int) -> Any:
    values = [0.5] * channels
    return ViTImageProcessorPil(size=size, image_mean=values, image_std=values)


def test_model_of_one_channel_is_given_grey_pictures() -> None:
    loaded = LoadedPreprocessor(processor_of(1, height=16, width=16), "key")
    loaded = fit_to_model(loaded, vit(1), None)
    assert (loaded.channels, loaded.key) == (1, "key-grey")
    rows = image_rows([(16, 16)] * 3)
    split = encode_rows(rows, loaded)
    assert choose_padding(vit(1), loaded, split) == Padding()
    assert rows.images is not None
    pixels = split.features.take(np.arange(3))["pixel_values"]
    for image, found in zip(rows.images, pixels, strict=True):
        grey = image.astype(np.float64) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
        np.testing.assert_allclose(found[0], grey / 255 * 2 - 1, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("channels", "means", "message"),
    [(1, 3, "1 channel, .* are of 3: give 1 value"), (3, 1, "3 channels, .* are of 1: give 3"),
     (4, 4, "takes images of 4 channels; 1 or 3 can be read")],
)  # fmt: skip
def test_channels_that_disagree_are_named(channels: int, means: int, message: str) -> None:
    loaded = LoadedPreprocessor(processor_of(means, height=16, width=16), "key")
    with pytest.raises(RunError, match=message):
        fit_to_model(loaded, vit(channels), None)


def test_processor_of_uneven_sizes_is_named() -> None:
    loaded = LoadedPreprocessor(processor_of(3, shortest_edge=16), "key")
    assert len(encode_rows(image_rows([(20, 30)] * 4), loaded)) == 4
    with pytest.raises(RunError, match=r"unlike sizes \(16 x 16, 16 x 24 pixels\).*'image_size'"):
        encode_rows(image_rows([(20, 30), (20, 20)]), loaded)


def test_pictures_of_another_size_than_the_model_takes_are_told_before_training() -> None:
    loaded = LoadedPreprocessor(processor_of(3, height=24, width=24), "key")
    split = encode_rows(image_rows([(20, 30)] * 4), loaded)
    with pytest.raises(RunError, match=r"refuses .*pixel_values \[4, 3, 24, 24\]"):
        choose_padding(vit(3), loaded, split)
