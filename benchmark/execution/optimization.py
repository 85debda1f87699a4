"""The optimiser of a training, and what a recipe may do about memory."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import AdamW
from transformers import PreTrainedModel

from benchmark.failures import RunError
from benchmark.registry import Recipe


def adamw(model: PreTrainedModel, recipe: Recipe, device: torch.device) -> AdamW:
    """Return AdamW over what is trained of a model; weights decay, biases and scales do not.

    On a GPU one kernel updates all weights; elsewhere torch chooses.
    """
    groups = _decay_groups(model, recipe.weight_decay)
    fused = True if device.type == "cuda" else None
    return AdamW(groups, lr=recipe.learning_rate, fused=fused)


def _decay_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimiser groups: weights decay; biases and normalisation scales (1-d) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def save_memory(model: PreTrainedModel) -> None:
    """Let a model forget activations and compute them again in the backward pass.

    Raises:
        RunError: its architecture cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise RunError(
            f"{type(model).__name__} has no gradient checkpointing: leave gradient_checkpointing "
            "out of the recipe"
        )
    # The older name, which transformers deprecates since 5.20.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
