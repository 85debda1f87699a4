"""Architectures of the hub: stored logits are those of each row alone in plain transformers.

What each repository holds are the files that the real one of its kind holds, with small random
weights: a SentencePiece model beside DeBERTa-v3's pickle, no token of padding in GPT-2's.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub, read_folder
from test_hub import (
    WORDS,
    data_entry,
    data_set,
    head,
    model_entry,
    pickled,
    records,
    run,
    write_registry,
)

from benchmark.records import RunFolder
from benchmark.records.logits import read_split

VOCABULARY = (
    *("good", "bad", "day", "night", "the", "a", "very", "fine", "awful", "sad", "glad", "film"),
    *("plot", "actor", "scene", "end", "begin", "long", "short", "story", "of", "and", "with"),
)


def unlike_texts(seed: int, rows: int) -> list[str]:
    """Return texts of 2 to 14 words, no two alike."""
    chance = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < rows:
        texts[" ".join(chance.choices(VOCABULARY, k=2 + len(texts) % 13))] = None
    return list(texts)


def split_rows(seed: int, rows: int) -> dict[str, list[Any]]:
    return {"text": unlike_texts(seed, rows), "label": [i % 2 for i in range(rows)]}


# --- tokenizers as the real repositories have them ------------------------------------------------


def sentencepiece_model(**options: Any) -> bytes:
    import sentencepiece

    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(unlike_texts(9, 400)), model_writer=stream, vocab_size=60,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    return stream.getvalue()


def word_tokenizer(folder: Path, special: dict[str, str], **options: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*dict.fromkeys(special.values()), "<spare>", *VOCABULARY]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=special["unk_token"])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options).save_pretrained(
        folder
    )


# --- checkpoints ----------------------------------------------------------------------------------


def save_model(folder: Path, model_type: str, **settings: Any) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        model_type, vocab_size=100, initializer_range=0.5, **settings, **head(WORDS)
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def deberta_v3(folder: Path) -> dict[str, bytes]:
    """A pickle, and a SentencePiece model that no tokenizer.json stands beside."""
    save_model(
        folder, "deberta-v2", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, relative_attention=True,
        position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], type_vocab_size=0, position_biased_input=False,
    )  # fmt: skip
    model = sentencepiece_model(
        pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
    )  # fmt: skip
    (folder / "spm.model").write_bytes(model)
    settings = {"do_lower_case": False, "vocab_type": "spm"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return pickled(read_folder(folder))


def gpt2(folder: Path) -> dict[str, bytes]:
    """No token of padding, neither in the tokenizer nor in the config."""
    save_model(
        folder, "gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    word_tokenizer(folder, {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    return read_folder(folder)


def llama(folder: Path) -> dict[str, bytes]:
    """The config pads with the spare token, the tokenizer with that of the sentence's end."""
    save_model(
        folder, "llama", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_key_value_heads=1, max_position_embeddings=32, pad_token_id=3,
    )  # fmt: skip
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    word_tokenizer(folder, special)
    return read_folder(folder)


def xlnet(folder: Path) -> dict[str, bytes]:
    """Padded on the left, for its head reads the last position."""
    save_model(folder, "xlnet", d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=5)
    special = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    model = sentencepiece_model(user_defined_symbols=special)
    (folder / "spiece.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLNetTokenizer"}))
    return read_folder(folder)


def fnet(folder: Path) -> dict[str, bytes]:
    """No attention mask: what a row is padded with changes what the model makes of it."""
    save_model(
        folder, "fnet", hidden_size=16, num_hidden_layers=2, intermediate_size=32,
        max_position_embeddings=32, tpu_short_seq_length=32, pad_token_id=1,
    )  # fmt: skip
    special = {"unk_token": "<unk>", "pad_token": "<pad>"}
    word_tokenizer(folder, special, model_input_names=["input_ids"])
    return read_folder(folder)


ARCHITECTURES: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "deberta": deberta_v3, "gpt2": gpt2, "llama": llama, "xlnet": xlnet, "fnet": fnet,
}  # fmt: skip


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as server:
        yield server


def alone(folder: Path, texts: list[str]) -> np.ndarray:
    """Return logits of texts one at a time, by the library's own classes and nothing of ours.

    FNet has no mask, so padding is part of what it reads: its authors fill every text up to one
    length, and so does who calls it.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    options = {"padding": "max_length", "max_length": 32} if folder.name == "fnet" else {}
    encoded = [tokenizer(text, return_tensors="pt", **options) for text in texts]
    with torch.inference_mode():
        rows = [model(**inputs).logits[0] for inputs in encoded]
    return torch.stack(rows).numpy()


def test_each_row_has_the_logits_that_it_has_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    for name, make in ARCHITECTURES.items():
        files = make(tmp_path / name)
        assert ("model.safetensors" in files) == (name != "deberta")
        hub.repository("model", f"lab/{name}").commit(files)
    rows = {"train": split_rows(1, 24), "test": split_rows(2, 24)}
    hub.repository("dataset", "lab/words").commit(data_set(rows, WORDS))
    models = {name: model_entry(f"lab/{name}") for name in ARCHITECTURES}
    registry = write_registry(
        tmp_path / "registry.yaml", models, {"words": data_entry("lab/words")}
    )
    result = run(hub, registry, tmp_path, home=tmp_path / "home")
    assert "5 of 5 runs completed" in result.stdout, result.stdout + result.stderr
    for name in ARCHITECTURES:
        folder = tmp_path / "results" / "hub-limit-24" / name / "words" / "seed-0"
        stored = read_split(RunFolder(folder), "test")
        texts = [rows["test"]["text"][int(row) - 24] for row in stored.ids]  # after train's
        assert sorted(texts) == sorted(rows["test"]["text"])
        expected = alone(tmp_path / name, texts)
        assert np.ptp(expected) > 0.1  # random weights that tell texts apart
        np.testing.assert_allclose(stored.logits, expected, atol=1e-5, err_msg=name)
    weights = records(tmp_path)["deberta/words"].provenance["weights"]
    assert weights == "pickle, read as tensors only (pytorch_model.bin)"


WITHOUT_SENTENCEPIECE = """
import sys
sys.modules["sentencepiece"] = None  # as if it were not installed
from pathlib import Path
from benchmark import RunSpec
from benchmark.models import load_preprocessor
spec = RunSpec.model_validate_json(sys.argv[1])
try:
    load_preprocessor(spec, None, Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_missing_sentencepiece_is_named(make_spec: Callable[..., Any], tmp_path: Path) -> None:
    from benchmark.registry import ModelEntry

    deberta_v3(tmp_path / "deberta")
    entry = ModelEntry(
        name="deberta", path=tmp_path / "deberta", modality="text", mixer="attention",
        family="DeBERTa", evaluate=True,
    )  # fmt: skip
    spec = make_spec("bert", "bbc").model_copy(update={"model": entry})
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_SENTENCEPIECE, spec.model_dump_json(), str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "UnavailableError model deberta: " in result.stdout
    assert "pip install sentencepiece protobuf (the extra 'text') and run" in result.stdout
    assert "tiktoken" not in result.stdout
