"""Real pretrained checkpoints and real images through the ordinary entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SHARED

from benchmark import Registry, execute, plan
from benchmark.records.logits import read_split

CHECKPOINT = SHARED / "checkpoints" / "mobilenet_v2"
IMAGES = SHARED / "data" / "cifar10_jpeg"

REGISTRY = f"""
version: 1
recipes:
  short: {{epochs: 1, batch_size: 16, learning_rate: 1.0e-3, schedule: linear}}
models:
  mobilenet:
    path: {CHECKPOINT}
    modality: image
    mixer: convolution
    family: MobileNetV2
    recipe: short
    pretraining: {{corpus: ImageNet-1k, examples: 1281167, objective: supervised}}
datasets:
  cifar10:
    path: {IMAGES}
    modality: image
    columns: {{image: image, label: label}}
    splits: {{calibration: 0.1}}
suites:
  pretrained: {{models: [mobilenet], datasets: [cifar10]}}
"""


@pytest.mark.skipif(
    not (CHECKPOINT.exists() and IMAGES.exists()),
    reason="the checkpoints and data are not at ../shared",
)
def test_local_checkpoint_is_fine_tuned_on_local_images(tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text(REGISTRY)
    spec = plan(Registry.load(tmp_path / "registry.yaml"), limit=32)[0]
    record = execute(spec, tmp_path / "results")
    assert record.status == "completed", record.failure
    assert record.facts.parameters is not None
    assert 2e6 < record.facts.parameters < 3e6  # without the ImageNet head, with one of 10 classes
    assert record.facts.pretraining_examples == 1281167
    assert record.facts.mixup is None  # not known, so not guessed
    split = read_split(spec.folder(tmp_path / "results"), "test")
    assert split.logits.shape == (32, 10)
    assert record.provenance["model_revision"] is not None
