"""Low-rank adapters: a large checkpoint fine-tuned by few new weights, merged in at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from benchmark.failures import RunError
from benchmark.registry import Lora, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model."""

    _tuner: Any

    def merge(self) -> None:
        """Add what they learned to the weights, so that the model is one without adapters."""
        self._tuner.merge_and_unload()


def add_adapters(model: PreTrainedModel, lora: Lora, seed: int) -> Adapters:
    """Freeze a model but for its head, and give its layers adapters.

    Args:
        model: changed in place.
        lora: which layers, and how large.
        seed: decides the adapters' first weights.

    Raises:
        RunError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError:
        raise RunError(
            "the recipe's 'lora' needs the package peft: pip install 'calibration-benchmark[peft]'"
        ) from None
    head = _head(model)
    layers = lora.modules if lora.modules == "all-linear" else list(lora.modules)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=layers,
        exclude_modules=[name for name, _ in model.named_modules() if _within(name, head)],
    )
    _require_layers(model, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuner = LoraModel(model, config, "default")
    for name, parameter in model.named_parameters():
        if _within(name, head):
            parameter.requires_grad_(True)
    return Adapters(tuner)


def _require_layers(model: PreTrainedModel, layers: str | list[str]) -> None:
    """Refuse names of layers that the model does not have."""
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for layer in [] if layers == "all-linear" else layers:
        if layer not in known:
            raise RunError(
                f"the recipe's 'lora': {type(model).__name__} has no layer whose name ends in "
                f"'{layer}'{did_you_mean(layer, known)}"
            )


def _head(model: PreTrainedModel) -> set[str]:
    """Return the names of a model's own modules beside its backbone.

    Raises:
        RunError: the model keeps its head inside of its backbone.
    """
    backbone = model.base_model_prefix
    names = {name for name, _ in model.named_children()}
    if backbone not in names or not names - {backbone}:
        raise RunError(
            f"{type(model).__name__} does not keep its head apart from its backbone, so that "
            "'lora' cannot train it: leave 'lora' out of the recipe"
        )
    return names - {backbone}


def _within(name: str, modules: set[str]) -> bool:
    return name.partition(".")[0] in modules
