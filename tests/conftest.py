"""Fixtures shared by the tests: small registries, real shared data, quiet libraries."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# BLAS and OpenMP read this once, when they are loaded: before any import that brings in numpy.
# Two ranks or workers with several threads each would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest
from hypothesis import settings

from benchmark import Registry, RunSpec, plan

# CI must not fail on the day's luck: there the examples are the same each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

SHARED = Path(__file__).parents[1].parent / "shared"

REGISTRY = """
version: 1
recipes:
  quick: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3, schedule: onecycle, warmup: 0.3}
  broken: {epochs: 1, batch_size: 32, learning_rate: 1.0e+30, clip_norm: null}
models:
  vit:
    scratch: {model_type: vit, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
      intermediate_size: 16, patch_size: 7, initializer_range: 0.1}
    modality: image
    mixer: attention
    family: ViT
    recipe: quick
  resnet:
    scratch: {model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
      layer_type: basic}
    modality: image
    mixer: convolution
    family: ResNet
    recipe: quick
  diverging:
    scratch: {model_type: vit, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
      intermediate_size: 16, patch_size: 7}
    modality: image
    mixer: attention
    family: ViT
    recipe: broken
  bert:
    scratch: {model_type: bert, vocab_size: 500, hidden_size: 16, num_hidden_layers: 1,
      num_attention_heads: 2, intermediate_size: 16, initializer_range: 0.1}
    modality: text
    mixer: attention
    family: BERT
    recipe: quick
datasets:
  digits:
    embedded: digits
    modality: image
    shifts: [noise]
    shift_rows: 40
  bbc:
    embedded: bbc-sentences
    modality: text
    max_length: 16
suites:
  small: {models: [vit, resnet], datasets: [digits], seeds: 1}
  failing: {models: [diverging, vit], datasets: [digits]}
"""


@pytest.fixture
def registry_file(tmp_path: Path) -> Path:
    """A registry of models that train in a second."""
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY, encoding="utf-8")
    return path


@pytest.fixture
def make_spec(registry_file: Path) -> Callable[..., RunSpec]:
    """Return a function: (model, dataset, limit, seed) -> the run's specification."""
    registry = Registry.load(registry_file)

    def make(
        model: str = "vit", dataset: str = "digits", limit: int | None = 96, seed: int = 0
    ) -> RunSpec:
        specs = plan(registry, models=[model], datasets=[dataset], limit=limit, seeds=seed + 1)
        return specs[seed]

    return make


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout."""
    folder = SHARED / "data"
    if not folder.exists():
        pytest.skip("real data is not at ../shared/data")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_machine_locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests beside one another, or beside real work, must not wait for each other's timings."""
    os.environ["BENCHMARK_MACHINE_LOCKS"] = str(tmp_path_factory.mktemp("locks"))
