from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification

from benchmark import RunSpec
from benchmark.data.assembly import Corpus
from benchmark.data.corpus import load_corpus
from benchmark.data.rows import Rows
from benchmark.failures import RunError, UnavailableError
from benchmark.models.checkpoint import build_model, count_parameters
from benchmark.models.encoding import encode_rows
from benchmark.models.label_names import label_columns
from benchmark.models.preprocessor import load_preprocessor
from benchmark.registry import ModelEntry

TIMM_CONFIG = """{"architecture": "mixer_b16_224", "num_classes": 2, "pretrained_cfg":
{"input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"""

TOKENIZER_IN_A_PROCESS = """
import hashlib, sys
from pathlib import Path
from benchmark import RunSpec
from benchmark.models.preprocessor import load_preprocessor
from benchmark.data.corpus import load_corpus
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
    encoded = encode_rows(corpus.test, replace(loaded, max_length=16))
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
    processor = load_preprocessor(spec, corpus, tmp_path)
    taken = encode_rows(corpus.train, processor).features.take(np.arange(800))["pixel_values"]
    pixels = np.asarray(taken)
    assert abs(np.mean(pixels)) < 0.01
    assert abs(np.std(pixels) - 1) < 0.01


def test_weights_follow_the_seed(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    models = []
    for seed in (0, 0, 1):
        spec = make_spec("vit", seed=seed)
        corpus = load_corpus(spec.dataset, limit=96)
        processor = load_preprocessor(spec, corpus, tmp_path)
        models.append(build_model(spec, corpus, processor.processor))
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
    animals = head(["Dog", "tabby_cat", "Bird"])
    assert label_columns(animals, corpus_of(("tabby cat", "bird", "dog"))) == [1, 2, 0]
    with pytest.raises(RunError, match=r"Checkpoint \(2\): dog, cat\. Dataset \(2\): cat, horse"):
        label_columns(head(["dog", "cat"]), corpus_of(("cat", "horse")))


def test_classes_of_one_name_are_told_apart_by_their_order() -> None:
    birds = head(["crane", "stork", "crane"])
    assert label_columns(birds, corpus_of(("stork", "Crane", "crane"))) == [1, 0, 2]


def test_placeholder_labels_need_names() -> None:
    placeholders = head(["LABEL_0", "LABEL_1"])
    with pytest.raises(RunError, match=r"'labels: \[\.\.\.\]'.*LABEL_0, LABEL_1.*no, yes"):
        label_columns(placeholders, corpus_of(("no", "yes")))
    assert label_columns(placeholders, corpus_of(("no", "yes")), ("yes", "no")) == [1, 0]
    assert label_columns(placeholders, corpus_of(("no", "yes")), "dataset-order") == [0, 1]


def test_dataset_order_is_checked_where_both_have_names() -> None:
    data = corpus_of(("tench", "crane2", "maillot"))
    assert label_columns(head(["tench", "crane", "maillot"]), data, "dataset-order") == [0, 1, 2]
    with pytest.raises(RunError, match="not in the dataset's order"):
        label_columns(head(["crane", "maillot", "tench"]), data, "dataset-order")


def test_long_lists_of_classes_are_shortened_to_what_differs() -> None:
    names = tuple(f"class {i}" for i in range(100))
    with pytest.raises(RunError, match=r"Only in the checkpoint: other\. .*dataset: class 77\."):
        label_columns(head([n if n != "class 77" else "other" for n in names]), corpus_of(names))


def local_spec(spec: RunSpec, folder: Path, **options: Any) -> RunSpec:
    entry = ModelEntry(
        name="local", path=folder, modality="image", mixer="convolution", family="ResNet",
        recipe="short", **options,
    )  # fmt: skip
    return spec.model_copy(update={"model": entry})


def test_a_head_without_weights_is_not_scored(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    head(["a", "b"]).resnet.save_pretrained(tmp_path)
    spec = local_spec(make_spec("vit"), tmp_path)
    corpus = corpus_of(("a", "b"))
    assert build_model(spec, corpus, None).config.num_labels == 2
    with pytest.raises(RunError, match=r"no fitting weights for classifier.*fine-tune it"):
        build_model(local_spec(spec, tmp_path, evaluate=True), corpus, None)


def test_weights_of_another_architecture_are_refused(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    model = head(["a", "b"])
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {f"other.{name}": value for name, value in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"15 of the backbone's 15 weights are not in"):
        build_model(local_spec(make_spec("vit"), tmp_path), corpus_of(("a", "b")), None)


def test_files_that_git_lfs_has_not_fetched_are_named(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    head(["a", "b"]).save_pretrained(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(
        UnavailableError, match=r"not fetched model\.safetensors: run 'git lfs pull'"
    ):
        load_preprocessor(local_spec(make_spec("vit"), tmp_path), corpus_of(("a", "b")), tmp_path)


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessorPil(),
        transformers.ViTImageProcessorPil(size={"shortest_edge": 64}),
        transformers.DeiTImageProcessorPil(),
        transformers.BitImageProcessorPil(),
        transformers.BitImageProcessorPil(size={"shortest_edge": 256}),
        transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        transformers.LevitImageProcessorPil(),
        transformers.MobileNetV2ImageProcessorPil(),
        transformers.MobileViTImageProcessorPil(),
        transformers.PoolFormerImageProcessorPil(),
        transformers.EfficientNetImageProcessorPil(),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_image_size_sets_every_processor(
    make_spec: Callable[..., RunSpec], tmp_path: Path, processor: Any
) -> None:
    processor.save_pretrained(tmp_path)
    spec = local_spec(make_spec("vit"), tmp_path)
    sized = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"image_size": 48})})
    loaded = load_preprocessor(sized, corpus_of(("a", "b")), tmp_path)
    assert loaded.key != load_preprocessor(spec, corpus_of(("a", "b")), tmp_path).key
    images = [np.zeros((40, 60, 3), dtype=np.uint8), np.zeros((70, 50, 3), dtype=np.uint8)]
    rows = Rows(np.arange(2), np.zeros(2, dtype=np.int64), images=images)
    assert encode_rows(rows, loaded).features.take(np.arange(2))["pixel_values"][1].shape == (
        3,
        48,
        48,
    )


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_published_head_without_a_softmax_is_refused(kind: str) -> None:
    sigmoids = head(["cat", "dog"])
    sigmoids.config.problem_type = kind
    with pytest.raises(RunError, match=f"problem_type: {kind}.*leave 'evaluate' out"):
        label_columns(sigmoids, corpus_of(("cat", "dog")))


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_missing_library_is_named(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TIMM_CONFIG)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    spec, corpus = local_spec(make_spec("vit"), tmp_path), corpus_of(("a", "b"))
    message = "requires the timm library .*: pip install timm, and torchvision .* and run"
    with pytest.raises(UnavailableError, match=message):
        load_preprocessor(spec, corpus, tmp_path)
    with pytest.raises(UnavailableError, match=message):
        build_model(spec, corpus, None)
