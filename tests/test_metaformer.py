"""Models that differ in the token mixer only: alike in all else, saved, loaded, padded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from benchmark.models.pretrained import register_models

register_models()
MIXERS = {
    "image": ("attention", "convolution", "pooling", "mlp"),
    "text": ("attention", "convolution", "pooling"),
}
AUTO = {"image": AutoModelForImageClassification, "text": AutoModelForSequenceClassification}
CASES = [(modality, mixer) for modality, mixers in MIXERS.items() for mixer in mixers]


def build(modality: str, mixer: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        f"metaformer-{modality}", token_mixer=mixer, num_labels=5, **sizes
    )
    return AUTO[modality].from_config(config).eval()


def batch(modality: str, rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if modality == "image":
        return {"pixel_values": torch.randn(rows, 3, 28, 28, generator=generator)}
    return {"input_ids": torch.randint(1, 4000, (rows, 12), generator=generator)}


@pytest.mark.parametrize("modality", MIXERS)
@pytest.mark.parametrize("width", [48, 64, 96])
def test_parameters_agree_within_two_percent(modality: str, width: int) -> None:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    counts = [build(modality, mixer, **sizes).num_parameters() for mixer in MIXERS[modality]]
    assert max(counts) <= 1.02 * min(counts)


@pytest.mark.parametrize(("modality", "mixer"), CASES)
def test_only_the_mixer_differs(modality: str, mixer: str) -> None:
    """All but what stands between the two projections has the names, shapes and first weights."""
    ours, theirs = (
        {
            name: value
            for name, value in build(modality, each).state_dict().items()
            if not any(part in name for part in ("depthwise", "narrow", "widen"))
        }
        for each in (mixer, "attention")
    )
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }
    for name, value in ours.items():
        if value.ndim > 1 and value.numel() > 1000:
            assert float(value.std()) == pytest.approx(float(theirs[name].std()), rel=0.1)


@pytest.mark.parametrize(("modality", "mixer"), CASES)
def test_tokens_are_mixed(modality: str, mixer: str) -> None:
    """A change of one token reaches the state of another: far away, or next to it only."""
    model = build(modality, mixer, num_hidden_layers=1)
    layer, seen = model.blocks.layers[0], []
    layer.register_forward_hook(lambda *call: seen.append(call[2]))
    inputs = batch(modality, 1)
    model(**inputs)
    (name, changed) = next(iter(inputs.items()))
    changed = changed.clone()
    if modality == "image":
        changed[..., :4, :4] += 1
    else:
        changed[:, 0] = 7
    model(**{name: changed})
    moved = (seen[0] - seen[1]).abs().amax(dim=(0, 2)) > 1e-6
    assert moved[0]
    assert moved[1]
    assert bool(moved[-1]) == (mixer in ("attention", "mlp"))


@pytest.mark.parametrize("mixer", MIXERS["text"])
def test_padding_changes_nothing(mixer: str) -> None:
    model = build("text", mixer)
    short = batch("text", 1)["input_ids"]
    padded = nn.functional.pad(short, (0, 9), value=0)
    mask = torch.arange(padded.shape[1])[None] < short.shape[1]
    alone = model(input_ids=short).logits
    torch.testing.assert_close(
        model(input_ids=padded, attention_mask=mask.long()).logits, alone, rtol=1e-5, atol=1e-6
    )


def test_pooling_is_the_mean_over_neighbours_that_are_there() -> None:
    model = build("image", "pooling", num_hidden_layers=1)
    mixer = model.blocks.layers[0].mixer
    first, second, third = torch.randn(3, 1, 49, 64).unbind()
    found = mixer.mix(first, second, third, None).reshape(7, 7, 64)
    grid, gate = (first * second).reshape(7, 7, 64), third.reshape(7, 7, 64)
    for row, column in ((0, 0), (0, 3), (4, 5), (6, 6)):
        near = grid[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        expected = gate[row, column] * near.reshape(-1, 64).mean(dim=0)
        torch.testing.assert_close(found[row, column], expected)


@pytest.mark.parametrize(("modality", "mixer"), CASES)
def test_loaded_in_another_process_it_gives_the_same_logits(
    modality: str, mixer: str, tmp_path: Path
) -> None:
    model = build(modality, mixer)
    model.save_pretrained(tmp_path)
    inputs = batch(modality)
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, torch\n"
        "from benchmark.models.pretrained import register_models\n"
        f"from transformers import {AUTO[modality].__name__} as Auto\n"
        "register_models()\n"
        "model = Auto.from_pretrained(sys.argv[1]).eval()\n"
        "inputs = torch.load(sys.argv[1] + '/inputs.pt', weights_only=True)\n"
        "torch.save(model(**inputs).logits, sys.argv[1] + '/logits.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(logits, model(**inputs).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("modality", "settings", "said"),
    [
        ("image", {"token_mixer": "wavelet"}, "not one of attention, convolution, pooling, mlp"),
        ("text", {"token_mixer": "mlp"}, "not one of attention, convolution, pooling"),
        ("image", {"patch_size": 5}, "no multiple of patch_size"),
        ("image", {"hidden_size": 50}, "no multiple of num_attention_heads"),
        ("text", {"kernel_size": 4}, "odd"),
    ],
)
def test_sizes_that_do_not_fit_are_named(
    modality: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        AutoConfig.for_model(f"metaformer-{modality}", **settings)
