"""What `--dry-run` says a run of a published checkpoint costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import LoopbackHub
from synthetic import MODELS, make_record
from test_hub import data_entry, model_entry, run, write_registry
from test_registry_content import BACKBONES, IMAGE_MODELS, shipped
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from benchmark import RunSpec, plan
from benchmark.execution import cost_table
from benchmark.execution.estimates import (
    ACTIVATION_BYTES,
    OPERATIONS_PER_SECOND,
    estimate_cost,
    split_rows,
    training_time,
)
from benchmark.records import DataFacts, Record, Training


def planned(model: str, dataset: str, **options: Any) -> RunSpec:
    (spec,) = plan(shipped(), models=[model], datasets=[dataset], seeds=1, **options)
    return spec


@pytest.mark.parametrize(
    ("model", "dataset", "rows"),
    [
        # A tenth of the rest is held out for calibration; quora's test rows are taken first.
        ("vit-base", "cifar10", {"train": 45_000, "calibration": 5_000, "test": 10_000}),
        ("bert-base", "quora", {"train": 327_475, "calibration": 36_386, "test": 40_429}),
        ("bert-base", "emotion", {"train": 16_000, "calibration": 2_000, "test": 2_000}),
        ("vit-base", "imagenet-1k", {"train": 0, "calibration": 10_000, "test": 40_000}),
    ],
)
def test_rows_of_splits(model: str, dataset: str, rows: dict[str, int]) -> None:
    assert split_rows(planned(model, dataset)) == rows


def test_a_limit_is_of_each_split() -> None:
    assert split_rows(planned("vit-base", "cifar10", limit=100)) == {
        "train": 100, "calibration": 100, "test": 100,
    }  # fmt: skip


def test_hours_and_memory_by_hand() -> None:
    cost = estimate_cost(planned("vit-base", "cifar10"))
    assert cost is not None
    parameters, shifted = 86_567_656, 3 * 3 * 2_000
    passes = 3 * 5 * 45_000 + 5_000 + 10_000 + shifted
    assert cost.hours == pytest.approx(2 * parameters * 200 * passes / 10e12 / 3600)
    activations = 64 * 20_000 * math.sqrt(parameters)
    assert cost.memory_gb == pytest.approx((16 * parameters + activations) / 1e9)


def test_a_published_head_costs_one_pass_at_its_resolution() -> None:
    cost = estimate_cost(planned("bit-50", "imagenet-1k"))
    assert cost is not None
    operations = 2 * 25_549_352 * 200 * (448 / 224) ** 2 * 50_000
    assert cost.hours == pytest.approx(operations / OPERATIONS_PER_SECOND / 3600)
    assert cost.memory_gb == pytest.approx(4 * 25_549_352 / 1e9)


def test_hours_take_usual_texts_and_memory_the_longest() -> None:
    cost = estimate_cost(planned("bert-base", "quora"))
    assert cost is not None
    parameters, passes = 109_482_240, 3 * 3 * 327_475 + 36_386 + 40_429
    assert cost.hours == pytest.approx(2 * parameters * 48 * passes / 10e12 / 3600)
    activations = 32 * 20_000 * math.sqrt(parameters) * 512 / 200
    assert cost.memory_gb == pytest.approx((16 * parameters + activations) / 1e9)


def test_what_is_not_known_is_not_reckoned() -> None:
    spec = planned("vit-base", "cifar10")
    unknown = spec.dataset.model_copy(update={"rows": None})
    assert estimate_cost(spec.model_copy(update={"dataset": unknown})) is None
    no_size = spec.model.model_copy(update={"parameters": None})
    assert estimate_cost(spec.model_copy(update={"model": no_size})) is None
    table = cost_table([spec.model_copy(update={"model": no_size})])
    assert "vit-base  1       ?            ?" in table


def test_small_models_of_ours_cost_nothing_worth_saying() -> None:
    assert cost_table(plan(shipped(), suite="embedded")) == ""


def measured(name: str) -> tuple[float, float]:
    """Return the operations of a forward pass and the bytes kept for the backward pass, counted."""
    kept: dict[int, tuple[int, torch.Tensor]] = {}
    with torch.device("meta"):
        if name in IMAGE_MODELS:
            model_type, settings = IMAGE_MODELS[name]
            config = AutoConfig.for_model(model_type, **{"num_labels": 1000, **settings})
            model = AutoModelForImageClassification.from_config(config)
            inputs = {"pixel_values": torch.empty(1, 3, 224, 224)}
        else:
            model_type, settings = BACKBONES[name]
            model = AutoModel.from_config(AutoConfig.for_model(model_type, **settings))
            inputs = {"input_ids": torch.zeros(1, 128, dtype=torch.long)}
        weights = {id(parameter) for parameter in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in weights and id(tensor._base) not in weights:
                storage = tensor.untyped_storage()
                kept[id(storage)] = (storage.nbytes(), tensor)
            return tensor

        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.train()(**inputs)
    return counter.get_total_flops(), sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    "name",
    ["vit-base", "deit-tiny-224", "swin-tiny-224", "resnet-50", "convnext-tiny-224", "bert-base",
     "regnet-y-016", "efficientnet-b0", "mobilenet-v2", "roberta-large", "minilm-l12"],
)  # fmt: skip
def test_the_rules_hold_within_a_factor_of_three(name: str) -> None:
    parameters = shipped().models[name].parameters
    assert parameters is not None
    tokens = 200 if name in IMAGE_MODELS else 128
    operations, kept = measured(name)
    assert 1 / 3 < 2 * parameters * tokens / operations < 3
    assert 1 / 3 < ACTIVATION_BYTES * math.sqrt(parameters) * tokens / 200 / kept < 3


def test_sizes_are_those_that_the_hub_tells(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": bytes(3_000_000)}
    data = {"README.md": b"", "data/train-0.parquet": bytes(500_000)}
    data |= {"data/test-0.parquet": bytes(200_000), "other/train.parquet": bytes(90_000)}
    with LoopbackHub().serving() as hub:
        hub.repository("model", "lab/both").commit({**files, "pytorch_model.bin": bytes(9_000_000)})
        hub.repository("model", "lab/pickle").commit({"pytorch_model.bin": bytes(1_500_000)})
        hub.repository("dataset", "lab/words").commit(data)
        models = {
            "both": model_entry("lab/both", parameters="750000"),
            "pickle": model_entry("lab/pickle", parameters="375000", allow_pickle="true"),
            "missing": model_entry("lab/missing"),
        }
        sources = {
            "all": data_entry("lab/words", rows="{train: 60, test: 40}"),
            "some": data_entry("lab/words", files="{train: data/train-*}"),
            "other": data_entry("lab/words", config="other"),
        }
        registry = write_registry(tmp_path / "registry.yaml", models, sources)
        result = run(hub, registry, tmp_path, "--dry-run", home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    # Two of the three data sets do not say how many rows they have.
    assert {"both 3 ? ? 3.0 MB", "pickle 3 ? ? 1.5 MB", "missing 3 ? ? ?"} <= set(lines)
    assert {"all 0.8 MB", "other 0.1 MB", "some 0.5 MB"} <= set(lines)
    assert "5.9 MB to download (1 of 6 repositories not told)" in result.stdout
    assert not (tmp_path / "results").exists()


def test_the_time_of_training_is_told_from_earlier_runs(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """Two models that took 600 and 60 s before, three seeds each, on two workers: 16.5 minutes."""
    specs = [make_spec(model, seed=seed) for seed in range(3) for model in ("vit", "resnet")]
    unknown = training_time(specs, specs, tmp_path, 2)
    assert unknown == (
        "How long the training takes is not known: none of these runs was finished here."
    )
    for spec, seconds in ((specs[0], 600.0), (specs[1], 60.0)):
        spec.folder(tmp_path).write_record(trained_record(spec, seconds))
    assert training_time(specs, specs, tmp_path, 2) == (
        "The training takes about 16 minutes with 2 at once: 6 of 6 runs as the same model "
        "and data took before."
    )
    assert "about 33 minutes with 1 at once" in training_time(specs, specs, tmp_path, 1)
    assert training_time([], specs, tmp_path, 2) == ""
    others = [make_spec("bert", "bbc"), make_spec("vit", limit=50)]
    by_size = training_time(others, [*specs, *others], tmp_path, 2)
    assert by_size.endswith("at once: by parameters and rows beside runs that are finished.")


def trained_record(spec: RunSpec, seconds: float) -> Record:
    training = Training(
        epochs=1, steps=1, seconds=seconds, final_loss=1.0, batch_size=1, micro_batch_size=1,
        world_size=1, resumed_at_epoch=0, device="cpu",
    )  # fmt: skip
    record = make_record(MODELS[0], spec.dataset.name, spec.seed, {}, suite=spec.suite)
    data = DataFacts(label_names=("a", "b"), rows={"test": 1}, limit=spec.limit)
    named = {"model": spec.model.name, "training": training, "data": data}
    return record.model_copy(update=named)
