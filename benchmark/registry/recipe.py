"""How a checkpoint is fine-tuned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from benchmark.registry.entries import Entry, MixedPrecision, Schedule


class Lora(Entry):
    """Low-rank adapters (Hu et al. 2022, arXiv:2106.09685), merged into the weights at the end.

    Beside them only the new head is trained.
    """

    rank: int = Field(16, ge=1, description="of what is added to each weight matrix")
    alpha: int = Field(32, ge=1, description="it is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="of the adapters' inputs")
    modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names that the adapted layers end in; all-linear: every one but the head",
    )


class Recipe(Entry):
    """How a checkpoint is fine-tuned. One optimiser (AdamW) so that recipes stay comparable."""

    epochs: int = Field(ge=0)
    batch_size: int = Field(ge=1, description="rows per optimiser step, over all processes")
    learning_rate: float = Field(gt=0)
    schedule: Schedule = "linear"
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps")
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float | None = Field(1.0, gt=0, description="gradient norm; null: no clipping")
    mixed_precision: MixedPrecision = "no"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    random_flip: bool = Field(
        False, description="in training, mirror images left to right, at random"
    )
    random_shift: int = Field(
        0,
        ge=0,
        description="in training, move images by up to so many pixels down or up and aside, at "
        "random; what comes in repeats the edge",
    )
    tf32: bool = Field(
        False,
        description="on a GPU, round the factors of float32 products to TensorFloat-32, in matrix "
        "products and convolutions alike; false: in neither",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: slower, less memory"
    )
    compile: bool = Field(False, description="train what torch.compile makes of the model")
    lora: Lora | None = Field(None, description="train low-rank adapters; null: all weights")
