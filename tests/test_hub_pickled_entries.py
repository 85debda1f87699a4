"""Entries of the registry without safetensors, from repositories that hold the files theirs do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub, read_folder
from PIL import Image
from test_hub import data_entry, data_set, head, pickled, records, run, write_registry
from test_weights import CONFIGS

from benchmark import Registry

SHAPES = ("bar", "square")
PROCESSORS = {
    "vit": "ViTImageProcessor", "deit": "DeiTImageProcessor", "swin": "ViTImageProcessor",
    "swinv2": "ViTImageProcessor", "resnet": "ConvNextImageProcessor",
    "regnet": "ConvNextImageProcessor", "bit": "BitImageProcessor",
    "convnext": "ConvNextImageProcessor", "efficientnet": "EfficientNetImageProcessor",
    "mobilevit": "MobileViTImageProcessor", "poolformer": "PoolFormerImageProcessor",
    "levit": "LevitImageProcessor", "cvt": "ConvNextImageProcessor",
}  # fmt: skip
ENTRIES = {
    "vit-large": "vit", "deit-tiny-224": "vit", "deit-small": "vit", "deit-base": "vit",
    "deit-base-distilled": "deit", "swin-small": "swin", "swinv2-tiny-256": "swinv2",
    "swinv2-base": "swinv2", "resnet-101": "resnet", "regnet-y-016": "regnet",
    "regnet-y-040": "regnet", "bit-50": "bit", "convnext-base": "convnext",
    "efficientnet-b0": "efficientnet", "mobilevit-small": "mobilevit",
    "poolformer-s24": "poolformer", "levit-256": "levit", "cvt-21": "cvt",
    "efficientnet-b3": "efficientnet", "resnet-18": "resnet",
}  # fmt: skip
"""Entries whose repositories hold no safetensors on main, or are not known to: model type."""


def repository(folder: Path, entry: str, model_type: str) -> dict[str, bytes]:
    """Return config.json, preprocessor_config.json and pytorch_model.bin; weights are random."""
    from transformers import AutoConfig, AutoModelForImageClassification

    torch.manual_seed(0)
    settings: dict[str, Any] = {**CONFIGS[model_type][1], **head(SHAPES)}
    if "image_size" in settings:
        settings["image_size"] = 64
    if entry in ("deit-base-distilled", "levit-256"):
        kind = "DeiT" if model_type == "deit" else "Levit"
        settings["architectures"] = [f"{kind}ForImageClassificationWithTeacher"]
    config = AutoConfig.for_model(model_type, **settings)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    processor = {
        "image_processor_type": PROCESSORS[model_type], "do_resize": True, "do_normalize": True,
        "size": {"shortest_edge": 64} if PROCESSORS[model_type][:4] in ("Conv", "Levi", "Pool",
                 "BitI", "Mobi") else {"height": 64, "width": 64},
        "crop_size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    files = pickled(read_folder(folder))
    assert sorted(files) == ["config.json", "preprocessor_config.json", "pytorch_model.bin"]
    return files


@pytest.mark.slow
def test_entries_without_safetensors_load(tmp_path: Path) -> None:
    """Each is fine-tuned for an epoch, as its entry would be: read as tensors only."""
    entries = Registry.load(Path(__file__).parents[1] / "registry.yaml").models
    random = np.random.default_rng(0)
    rows = {
        split: {
            "image": [
                Image.fromarray(random.integers(0, 255, (70, 80, 3), dtype=np.uint8))
                for _ in range(24)
            ],
            "label": [0, 1] * 12,
        }
        for split in ("train", "test")
    }
    with LoopbackHub().serving() as hub:
        models = {}
        for name, model_type in ENTRIES.items():
            source = str(entries[name].hub)
            files = repository(tmp_path / name, name, model_type)
            hub.repository("model", source).commit(files)
            models[name] = (
                f"{{hub: {source}, modality: image, mixer: {entries[name].mixer}, "
                f"family: {entries[name].family}, recipe: one}}"
            )
        hub.repository("dataset", "lab/shapes").commit(data_set(rows, SHAPES, "image"))
        sources = {
            "shapes": data_entry(
                "lab/shapes", modality="image", columns="{image: image}", image_size="64"
            )
        }
        registry = write_registry(tmp_path / "registry.yaml", models, sources)
        run(hub, registry, tmp_path, home=tmp_path / "home")
    failures = {
        name: str(record.failure and record.failure.message)
        for name, record in records(tmp_path).items()
        if record.status != "completed"
    }
    assert failures == {}
    assert len(records(tmp_path)) == len(ENTRIES)
    for record in records(tmp_path).values():
        text = "pickle, read as tensors only (pytorch_model.bin)"
        assert record.provenance["weights"] == text
