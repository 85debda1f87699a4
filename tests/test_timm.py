"""timm checkpoints: logits are those of timm's own code on its own transform.

`make test-timm` runs these; elsewhere they are skipped, for torchvision from a package index fits
one kind of torch only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub, read_folder
from PIL import Image
from safetensors.torch import save_file

from benchmark import RunSpec
from benchmark.data.assembly import Corpus
from benchmark.data.rows import Rows
from benchmark.failures import RunError
from benchmark.registry import ModelEntry

if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed: make test-timm", allow_module_level=True)

import timm
from test_hub import (
    data_entry,
    data_set,
    model_entry,
    pickled,
    records,
    run,
    write_registry,
)

from benchmark.models.checkpoint import build_model, load_trained_model
from benchmark.models.encoding import encode_rows
from benchmark.models.preprocessor import load_preprocessor
from benchmark.records import RunFolder
from benchmark.records.logits import read_split

SHAPES = ("bar", "square")
MODELS: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "deit3_small_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2},
    "mixer_s32_224": {"img_size": 32},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48},
    "efficientnet_lite0": {},
}


def make(folder: Path, architecture: str, names: tuple[str, ...] = SHAPES) -> torch.nn.Module:
    """Save a timm model in the form of timm's repositories on the hub; return it."""
    torch.manual_seed(4)
    settings = MODELS[architecture]
    model = timm.create_model(architecture, pretrained=False, num_classes=len(names), **settings)
    for name, parameter in model.named_parameters():
        if "head" in name or "fc" in name or "classifier" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    facts = model.default_cfg
    pretrained = {
        "input_size": [3, 32, 32], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25],
        "interpolation": "bicubic", "crop_pct": 0.875, "num_classes": len(names),
        "fixed_input_size": True, "pool_size": None,
        "classifier": facts["classifier"], "first_conv": facts["first_conv"],
    }  # fmt: skip
    config = {
        "architecture": architecture, "num_classes": len(names), "label_names": list(names),
        "model_args": settings, "pretrained_cfg": pretrained,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return model.eval()


def own_logits(model: torch.nn.Module, images: list[np.ndarray], folder: Path) -> np.ndarray:
    """Return what timm's own code makes of images, one at a time."""
    pretrained = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained))
    with torch.inference_mode():
        rows = [model(transform(Image.fromarray(image))[None])[0] for image in images]
    return torch.stack(rows).numpy()


def tuned_model(folder: Path) -> torch.nn.Module:
    """Return timm's model inside a fine-tuned checkpoint, as plain transformers loads it."""
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(folder).eval().timm_model


def pictures(rows: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    sizes = [(random.integers(20, 50), random.integers(20, 50)) for _ in range(rows)]
    return [random.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


def corpus_of(names: tuple[str, ...]) -> Corpus:
    rows = Rows(np.array([0]), np.array([0]), texts=["x"])
    return Corpus(rows, rows, rows, names)


def spec_of(spec: RunSpec, folder: Path, **options: Any) -> RunSpec:
    entry = ModelEntry(
        name="local", path=folder, modality="image", mixer="other", family="any",
        recipe="short", **options,
    )  # fmt: skip
    return spec.model_copy(update={"model": entry})


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_are_those_of_timm(
    make_spec: Callable[..., RunSpec], tmp_path: Path, architecture: str
) -> None:
    own = make(tmp_path / "timm", architecture)
    spec = spec_of(make_spec("vit"), tmp_path / "timm", evaluate=True)
    loaded = load_preprocessor(spec, corpus_of(SHAPES), tmp_path / "cache")
    model = build_model(spec, corpus_of(SHAPES), loaded.processor).eval()
    assert tuple(model.config.id2label.values()) == SHAPES
    images = pictures(6)
    rows = Rows(np.arange(6), np.zeros(6, dtype=np.int64), images=images)
    pixels = encode_rows(rows, loaded).features.take(np.arange(6))["pixel_values"]
    with torch.inference_mode():
        ours = model(torch.from_numpy(np.stack(pixels))).logits.numpy()
    expected = own_logits(own, images, tmp_path / "timm")
    assert np.ptp(expected) > 0.02
    print(f"{architecture}: largest difference {np.abs(ours - expected).max():.1e}")
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)

    model.save_pretrained(tmp_path / "saved")
    again = load_trained_model(tmp_path / "saved", spec.model)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("architecture", MODELS)
def test_another_head_is_new_and_a_lost_weight_is_told(
    make_spec: Callable[..., RunSpec], tmp_path: Path, architecture: str
) -> None:
    own = make(tmp_path, architecture)
    spec = spec_of(make_spec("vit"), tmp_path)
    tuned = build_model(spec, corpus_of(("x", "y", "z")), None)
    assert tuned(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)
    kept = [n for n in own.state_dict() if not n.startswith(("head", "fc", "classifier"))]
    for name in kept:
        assert torch.equal(tuned.state_dict()[f"timm_model.{name}"], own.state_dict()[name]), name
    lost = next(name for name in kept if name.endswith("weight"))
    weights = {name: value for name, value in own.state_dict().items() if name != lost}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=f"1 of the backbone's .*timm_model.{lost}"):
        build_model(spec, corpus_of(("x", "y", "z")), None)


def test_image_size_sets_the_transform(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    make(tmp_path / "timm", "resnet10t")
    spec = spec_of(make_spec("vit"), tmp_path / "timm")
    sized = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"image_size": 48})})
    loaded = load_preprocessor(sized, corpus_of(SHAPES), tmp_path / "cache")
    rows = Rows(np.arange(3), np.zeros(3, dtype=np.int64), images=pictures(3))
    pixels = encode_rows(rows, loaded).features.take(np.arange(3))["pixel_values"]
    assert {row.shape for row in pixels} == {(3, 48, 48)}


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub().serving() as server:
        yield server


def test_a_timm_repository_of_the_hub(hub: LoopbackHub, tmp_path: Path) -> None:
    """Scored as published and fine-tuned; the stored logits are timm's own."""
    own = make(tmp_path / "timm", "resnet10t")
    files = read_folder(tmp_path / "timm")
    hub.repository("model", "timm/resnet10t.lab").commit(files | pickled(files))
    images = {
        split: {"image": [Image.fromarray(i) for i in pictures(24)], "label": [0, 1] * 12}
        for split in ("train", "test")
    }
    hub.repository("dataset", "lab/shapes").commit(data_set(images, SHAPES, "image"))
    models = {
        "timm": model_entry("timm/resnet10t.lab", modality="image"),
        "tuned": model_entry(
            "timm/resnet10t.lab", modality="image", evaluate="false", recipe="one"
        ),
    }
    sources = {"shapes": data_entry("lab/shapes", modality="image", columns="{image: image}")}
    registry = write_registry(tmp_path / "registry.yaml", models, sources)
    result = run(hub, registry, tmp_path, home=tmp_path / "home")
    assert "2 of 2 runs completed" in result.stdout, result.stdout + result.stderr
    results = tmp_path / "results" / "hub-limit-24"
    for name in ("timm", "tuned"):
        run_folder = RunFolder(results / name / "shapes" / "seed-0")
        stored = read_split(run_folder, "test")
        model = own if name == "timm" else tuned_model(run_folder.model)
        rows = [pictures(24)[int(row) - 24] for row in stored.ids]
        expected = own_logits(model, rows, tmp_path / "timm")
        print(f"{name}: largest difference {np.abs(stored.logits - expected).max():.1e}")
        np.testing.assert_allclose(stored.logits, expected, rtol=0, atol=1e-5, err_msg=name)
        assert records(tmp_path)[f"{name}/shapes"].provenance["weights"] == "safetensors"
    assert np.abs(expected - own_logits(own, rows, tmp_path / "timm")).max() > 1e-3  # it learned


def test_a_torchvision_for_another_torch_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "torchvision"
    broken.mkdir()
    error = "operator torchvision::nms does not exist"
    (broken / "__init__.py").write_text(f"raise RuntimeError({error!r})\n")
    result = subprocess.run(
        [sys.executable, "-c", "import benchmark.models"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        check=False, timeout=120,
    )  # fmt: skip
    assert f"does not fit torch {torch.__version__}" in result.stderr
    assert f"({error}): install both from one index" in result.stderr
