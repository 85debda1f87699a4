from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForImageClassification

from benchmark import RunSpec
from benchmark.checkpoint import build_model, count_parameters, label_columns, load_preprocessor
from benchmark.corpus import Corpus, load_corpus
from benchmark.encoding import encode_rows
from benchmark.failures import RunError
from benchmark.rows import Rows

TOKENIZER_IN_A_PROCESS = """
import hashlib, sys
from pathlib import Path
from benchmark import RunSpec
from benchmark.checkpoint import load_preprocessor
from benchmark.corpus import load_corpus
spec = RunSpec.model_validate_json(sys.argv[1])
corpus = load_corpus(spec.dataset, limit=spec.limit)
folder = Path(sys.argv[2])
load_preprocessor(spec, corpus, folder)
(file,) = folder.rglob("tokenizer.json")
print(hashlib.sha256(file.read_bytes()).hexdigest())
"""


def test_tokenizer_is_the_same_in_every_process(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """Hash tables are seeded anew in each process; the tokenizer must not depend on them."""
    spec = make_spec("bert", "bbc", limit=600)
    hashes = set()
    for name in ("a", "b", "c"):
        arguments = [spec.model_dump_json(), str(tmp_path / name)]
        result = subprocess.run(
            [sys.executable, "-c", TOKENIZER_IN_A_PROCESS, *arguments],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        hashes.add(result.stdout.strip())
    assert len(hashes) == 1


def test_scratch_text_round_trip(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = make_spec("bert", "bbc", limit=200)
    corpus = load_corpus(spec.dataset, limit=200)
    loaded = load_preprocessor(spec, corpus, tmp_path)
    encoded = encode_rows(corpus.test, loaded.processor, max_length=16)
    assert encoded.lengths is not None
    assert encoded.lengths.max() == 16
    assert len(loaded.processor) == 500
    assert corpus.test.texts is not None
    first = encoded.features.take(np.array([0]))["input_ids"][0]
    text = loaded.processor.decode(first, skip_special_tokens=True).strip()
    assert corpus.test.texts[0].lower().startswith(text[:20])
    again = load_preprocessor(spec, corpus, tmp_path)
    assert again.key == loaded.key


def test_scratch_images_are_standardised(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = make_spec("vit", limit=None)
    corpus = load_corpus(spec.dataset)
    processor = load_preprocessor(spec, corpus, tmp_path).processor
    pixels = encode_rows(corpus.train, processor).features.take(np.arange(800))["pixel_values"]
    assert abs(np.mean(pixels)) < 0.01
    assert abs(np.std(pixels) - 1) < 0.01


def test_weights_follow_the_seed(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    models = []
    for seed in (0, 0, 1):
        spec = make_spec("vit", seed=seed)
        corpus = load_corpus(spec.dataset, limit=96)
        processor = load_preprocessor(spec, corpus, tmp_path).processor
        models.append(build_model(spec, corpus, processor))
    weights = [next(iter(model.parameters())) for model in models]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()
    assert count_parameters(models[0]) == sum(p.numel() for p in models[0].parameters())


def head(names: list[str]) -> AutoModelForImageClassification:
    config = AutoConfig.for_model(
        "resnet", embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic",
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    return AutoModelForImageClassification.from_config(config)


def corpus_of(names: tuple[str, ...]) -> Corpus:
    rows = Rows(np.array([0]), np.array([0]), texts=["x"])
    return Corpus(rows, rows, rows, names)


def test_published_heads_are_aligned_by_name() -> None:
    assert label_columns(head(["Dog", "cat", "Bird"]), corpus_of(("cat", "bird", "dog"))) == [
        1,
        2,
        0,
    ]
    assert label_columns(head(["LABEL_0", "LABEL_1"]), corpus_of(("no", "yes"))) == [0, 1]
    with pytest.raises(RunError, match=r"Checkpoint: dog, cat\. Dataset: cat, horse"):
        label_columns(head(["dog", "cat"]), corpus_of(("cat", "horse")))
