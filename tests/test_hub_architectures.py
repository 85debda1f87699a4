"""Architectures of the hub: stored logits are those of each row alone in plain transformers.

What each repository holds are the files that the real one of its kind holds, with small random
weights: a SentencePiece model beside DeBERTa-v3's pickle, no token of padding in GPT-2's, nothing
but a pickle, a pickle that the hub's own pull request converts. `pytest -s` prints differences.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub, read_folder
from PIL import Image
from test_hub import (
    SHAPES,
    WORDS,
    data_entry,
    data_set,
    head,
    image_model,
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


def bert(folder: Path) -> dict[str, bytes]:
    """As most repositories of before 2023: the weights are a pickle, and nothing else."""
    save_model(
        folder, "bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, pad_token_id=1,
    )  # fmt: skip
    word_tokenizer(folder, {"unk_token": "[UNK]", "pad_token": "[PAD]"})
    return pickled(read_folder(folder))


def resnet(folder: Path) -> dict[str, bytes]:
    return pickled(image_model(folder))


TEXTS: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "deberta": deberta_v3, "gpt2": gpt2, "llama": llama, "xlnet": xlnet, "fnet": fnet,
    "pickle": bert, "converted": bert,
}  # fmt: skip
IMAGES = {"pickle": resnet, "converted": resnet}


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as server:
        yield server


def publish(
    hub: LoopbackHub, place: Path, makers: dict[str, Callable[[Path], dict[str, bytes]]]
) -> dict[str, str]:
    """Serve the repositories, keep what each holds in a folder; return where weights come from.

    The commit of `converted` holds only the pickle; the hub's pull request has its safetensors.
    """
    sources = {}
    for name, make in makers.items():
        files = make(place / f"{name}-made")
        repository = hub.repository("model", f"lab/{name}")
        repository.commit(files)
        sources[name] = "safetensors"
        if "pytorch_model.bin" in files:
            assert not [path for path in files if "safetensors" in path]
            sources[name] = "pickle, read as tensors only (pytorch_model.bin)"
        if name == "converted":
            made = (place / f"{name}-made" / "model.safetensors").read_bytes()
            commit = repository.open_pull_request({**files, "model.safetensors": made})
            whose = f"pull request 1 (commit {commit})"
            sources[name] = f"safetensors of the hub's conversion, {whose}"
        for path, content in files.items():
            (place / name).mkdir(exist_ok=True)
            (place / name / path).write_bytes(content)
    return sources


def texts_alone(folder: Path, texts: list[str], **options: Any) -> np.ndarray:
    """Return logits of texts one at a time, by the library's own classes and nothing of ours.

    Args:
        folder: a checkpoint with its tokenizer.
        texts: one or more.
        options: of the tokenizer.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = [tokenizer(text, return_tensors="pt", **options) for text in texts]
    with torch.inference_mode():
        rows = [model(**inputs).logits[0] for inputs in encoded]
    return torch.stack(rows).numpy()


def images_alone(folder: Path, images: list[Image.Image]) -> np.ndarray:
    """Return logits of images one at a time, by the library's own classes."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [model(**processor(image, return_tensors="pt")).logits[0] for image in images]
    return torch.stack(rows).numpy()


def as_published_and_tuned(names: Iterable[str], **fields: str) -> dict[str, str]:
    """Return entries: each checkpoint scored with the head that it has, and fine-tuned first."""
    entries = {name: model_entry(f"lab/{name}", **fields) for name in names}
    tuning = {"evaluate": "false", "recipe": "one", **fields}
    return entries | {f"{name}-tuned": model_entry(f"lab/{name}", **tuning) for name in names}


def assert_stored(
    place: Path, run_name: str, source: str, alone: Callable[[Path, list[int]], np.ndarray]
) -> None:
    """Compare a run's logits with `alone(checkpoint, rows of the test split)`."""
    model, dataset = run_name.split("/")
    record = records(place)[run_name]
    assert record.provenance["weights"] == source
    folder = RunFolder(place / "results" / "hub-limit-24" / model / dataset / "seed-0")
    stored = read_split(folder, "test")
    rows = [int(row) - 24 for row in stored.ids]  # after train's
    assert sorted(rows) == list(range(24))
    published = alone(place / model.removesuffix("-tuned"), rows)
    assert np.ptp(published) > 0.1  # random weights that tell rows apart
    expected = published
    if model.endswith("-tuned"):
        expected = alone(folder.model, rows)
        assert np.abs(expected - published).max() > 1e-3  # something was learned
    print(f"{run_name}: largest difference {np.abs(stored.logits - expected).max():.1e}")
    np.testing.assert_allclose(stored.logits, expected, rtol=0, atol=1e-5, err_msg=run_name)


def test_each_text_has_the_logits_that_it_has_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    sources = publish(hub, tmp_path, TEXTS)
    rows = {"train": split_rows(1, 24), "test": split_rows(2, 24)}
    hub.repository("dataset", "lab/words").commit(data_set(rows, WORDS))
    models = as_published_and_tuned(TEXTS)
    registry = write_registry(
        tmp_path / "registry.yaml", models, {"words": data_entry("lab/words")}
    )
    result = run(hub, registry, tmp_path, home=tmp_path / "home")
    assert "14 of 14 runs completed" in result.stdout, result.stdout + result.stderr
    # FNet has no mask, so padding is part of what it reads: its authors fill every text up to one
    # length, and so does who calls it.
    filled: dict[str, dict[str, Any]] = {"fnet": {"padding": "max_length", "max_length": 32}}
    for model in models:
        name = model.removesuffix("-tuned")

        def alone(folder: Path, positions: list[int], name: str = name) -> np.ndarray:
            texts = [rows["test"]["text"][row] for row in positions]
            return texts_alone(folder, texts, **filled.get(name, {}))

        assert_stored(tmp_path, f"{model}/words", sources[name], alone)


def test_each_image_has_the_logits_that_it_has_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    sources = publish(hub, tmp_path, IMAGES)
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 255, (*noise.integers(12, 40, 2), 3), dtype=np.uint8))
        for _ in range(48)
    ]
    rows = {
        "train": {"image": images[:24], "label": [0, 1] * 12},
        "test": {"image": images[24:], "label": [0, 1] * 12},
    }
    hub.repository("dataset", "lab/shapes").commit(data_set(rows, SHAPES, "image"))
    models = as_published_and_tuned(IMAGES, modality="image")
    data = {"shapes": data_entry("lab/shapes", modality="image", columns="{image: image}")}
    registry = write_registry(tmp_path / "registry.yaml", models, data)
    result = run(hub, registry, tmp_path, home=tmp_path / "home")
    assert "4 of 4 runs completed" in result.stdout, result.stdout + result.stderr
    for model in models:
        name = model.removesuffix("-tuned")

        def alone(folder: Path, positions: list[int]) -> np.ndarray:
            return images_alone(folder, [images[24 + row] for row in positions])

        assert_stored(tmp_path, f"{model}/shapes", sources[name], alone)


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
