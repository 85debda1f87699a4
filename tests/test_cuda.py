"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from benchmark.execution.batch_limits import batch_limit
from benchmark.execution.forward import predict_logits
from benchmark.execution.launch import make_accelerator, set_tf32
from benchmark.execution.progress import SilentProgress
from benchmark.execution.training import _Loop, train
from benchmark.models import BatchLimit, EncodedSplit, Padding, collate, load_batches
from benchmark.models.encoding import TokenFeatures
from benchmark.models.pixels import PixelFeatures, look_up
from benchmark.registry import Lora, Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

RECIPE = Recipe(epochs=1, batch_size=16, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Leave neither memory nor settings to the next test."""
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
    set_tf32(False)


def image_split(rows: int, size: int = 32) -> EncodedSplit:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (rows, 3, size, size), dtype=np.uint8)
    table = np.linspace(-2, 2, 256, dtype=np.float32)[None].repeat(3, axis=0)
    labels = (pixels.mean(axis=(1, 2, 3)) > np.median(pixels.mean(axis=(1, 2, 3)))).astype(np.int64)
    return EncodedSplit(np.arange(rows), labels, PixelFeatures(pixels, table))


def text_split(rows: int, longest: int = 40) -> EncodedSplit:
    random = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(random.integers(4, longest, rows))])
    tokens = random.integers(5, 500, offsets[-1])
    features = TokenFeatures(offsets, {"input_ids": tokens})
    return EncodedSplit(np.arange(rows), random.integers(0, 2, rows), features)


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small["intermediate_size"] = 64
    if kind == "vit":
        return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **small))
    if kind == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        return ResNetForImageClassification(config)
    return BertForSequenceClassification(BertConfig(vocab_size=500, **small))


def split_of(kind: str, rows: int) -> EncodedSplit:
    return text_split(rows) if kind == "bert" else image_split(rows)


def loop_of(kind: str, rows: int, **options: Any) -> _Loop:
    recipe = RECIPE.model_copy(update=options)
    accelerator = make_accelerator(recipe.mixed_precision)
    model = model_of(kind).to(accelerator.device)
    loop = _Loop(model, split_of(kind, rows), recipe, 0, accelerator, Padding())
    loop.micro_batch_size = loop.find_micro_batch_size()
    return loop


def waits_in(work: Callable[[], object]) -> list[str]:
    """Return where the host waited for the device."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        work()
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


@pytest.mark.parametrize("kind", ["vit", "resnet", "bert"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_host_waits_once_an_epoch_and_not_once_a_step(kind: str, precision: str) -> None:
    counts = []
    for rows in (10 * 16, 40 * 16):
        loop = loop_of(kind, rows, mixed_precision=precision)
        loop.run_epoch(0, SilentProgress())
        waits = waits_in(lambda loop=loop: loop.run_epoch(0, SilentProgress()))
        counts.append(len([place for place in waits if "transformers" not in place]))
    assert counts[1] <= 2, counts  # the first loop of all may wait for libraries to load


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_batches_on_the_device_are_those_of_the_host(kind: str) -> None:
    split = split_of(kind, 100)
    batches = [np.arange(i, min(i + 16, 100)) for i in range(0, 100, 16)]
    found = list(load_batches(split, batches, Padding(), "cuda"))
    assert len(found) == len(batches)
    for batch, inputs in zip(batches, found, strict=True):
        for name, wanted in collate(split, batch, Padding()).items():
            assert inputs[name].is_cuda
            assert torch.equal(inputs[name].cpu(), wanted), name


def test_an_epoch_given_up_leaves_no_thread() -> None:
    import threading

    before = threading.active_count()
    batches = load_batches(image_split(400), [np.arange(16)] * 25, Padding(), "cuda")
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_bytes_are_looked_up_alike_on_both() -> None:
    table = torch.randn(3, 256)
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(look_up(table.cuda(), pixels.cuda()).cpu(), look_up(table, pixels))


@pytest.mark.parametrize("kind", ["vit", "resnet", "bert"])
def test_logits_are_those_of_the_cpu(kind: str) -> None:
    model, split = model_of(kind), split_of(kind, 300)
    found = predict_logits(
        model.cuda(), split, accelerator=make_accelerator(), padding=Padding(),
        progress=SilentProgress(),
    )  # fmt: skip
    with torch.inference_mode():
        inputs = collate(split, np.arange(300), Padding())
        inputs.pop("labels")
        wanted = model.cpu()(**inputs).logits.numpy()
    np.testing.assert_allclose(found.logits, wanted, atol=1e-5)


def test_batches_grow_while_memory_lasts() -> None:
    model, split, accelerator = model_of("vit").cuda().eval(), image_split(2000), make_accelerator()
    assert batch_limit(model, split, accelerator, Padding()) == BatchLimit(1024, 131072)
    left = 24 * 2**20
    taken = torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda")
    assert batch_limit(model, split, accelerator, Padding()).rows < 1024
    del taken


def test_logits_are_computed_in_halves_where_memory_runs_out() -> None:
    model, split = model_of("vit").cuda(), image_split(600, 32)
    whole = predict_logits(
        model, split, accelerator=make_accelerator(), padding=Padding(), progress=SilentProgress()
    )
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 6 * 2**20) / total)
    tight = predict_logits(
        model, split, accelerator=make_accelerator(), padding=Padding(), progress=SilentProgress()
    )
    np.testing.assert_allclose(tight.logits, whole.logits, atol=1e-5)


def test_convolutions_and_products_are_rounded_alike() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(8, 64, 16, 16), torch.randn(64, 64, 3, 3)
    a = torch.randn(512, 512)
    exact_conv = torch.nn.functional.conv2d(x.double(), w.double())
    exact_product = a.double() @ a.double()

    def errors() -> list[float]:
        conv = torch.nn.functional.conv2d(x.cuda(), w.cuda()).cpu().double()
        product = (a.cuda() @ a.cuda()).cpu().double()
        pairs = ((conv, exact_conv), (product, exact_product))
        return [float((found - exact).norm() / exact.norm()) for found, exact in pairs]

    set_tf32(False)
    assert max(errors()) < 5e-6
    set_tf32(True)
    assert min(errors()) > 5e-5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vit", {"mixed_precision": "bf16"}),
        ("vit", {"mixed_precision": "fp16"}),
        ("vit", {"gradient_checkpointing": True}),
        ("vit", {"compile": True}),
        ("bert", {"lora": Lora(rank=4)}),
        ("bert", {"lora": Lora(rank=4), "gradient_checkpointing": True}),
        ("resnet", {"tf32": True}),
    ],
)
def test_every_recipe_trains(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 3, **options})
    accelerator = make_accelerator(recipe.mixed_precision)
    model = model_of(kind).to(accelerator.device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = train(
        model, split_of(kind, 64), recipe, seed=0, accelerator=accelerator, padding=Padding(),
        state_path=tmp_path / "state", key="k", progress=SilentProgress(),
    )  # fmt: skip
    assert trained.device.startswith("cuda")
    assert np.isfinite(trained.final_loss)
    after = model.state_dict()
    assert after.keys() == before.keys()  # adapters are merged
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_memory_bounds_the_micro_batch_and_not_the_batch() -> None:
    roomy = loop_of("vit", 64, batch_size=64)
    assert roomy.micro_batch_size == 64
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 8 * 2**20) / total)
    tight = loop_of("vit", 64, batch_size=64)
    assert 1 <= tight.micro_batch_size < 64
    assert len(tight._steps(0)) == 1
