"""Classifiers that differ in their token mixer and in nothing else, for images and for texts.

After Yu et al. 2022, "MetaFormer is actually what you need for vision" (arXiv:2111.11418): blocks
of norm, token mixer, residual, norm, MLP, residual, between an embedding and a mean over tokens.
Here all mixers stand between the same two projections, so that widths, places of the residuals,
initial weights and, from 48 channels on, parameters (within 2%) are alike; only what happens
between tokens is not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_outputs import ImageClassifierOutput

from benchmark.models.pooled_classifier import PooledClassifier


@strict
class MetaFormerConfig(PreTrainedConfig):
    """Sizes that both modalities have.

    Attributes:
        token_mixer: attention, convolution, pooling, or (images only) mlp.
        hidden_size: width of a token.
        num_hidden_layers: blocks.
        num_attention_heads: of the attention mixer.
        intermediate_size: width inside the MLP that follows each mixer.
        kernel_size: tokens a side that convolution and pooling see; odd.
        dropout: of the mean over tokens, in [0, 1).
    """

    token_mixer: str = "attention"
    hidden_size: int = 64
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 256
    kernel_size: int = 3
    dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Check that the sizes fit together.

        Raises:
            ValueError: they do not.
        """
        if self.token_mixer not in self.mixers():
            known = ", ".join(self.mixers())
            raise ValueError(f"token_mixer is '{self.token_mixer}', not one of {known}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is no multiple of num_attention_heads")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size is odd, so that a token stands in its middle")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @classmethod
    def mixers(cls) -> tuple[str, ...]:
        """Return the token mixers there are."""
        return tuple(_MIXERS)


@strict
class MetaFormerImageConfig(MetaFormerConfig):
    """Sizes of a `MetaFormerForImageClassification`.

    Attributes:
        image_size: pixels a side.
        patch_size: pixels a side that become one token.
        num_channels: of the images.
    """

    model_type = "metaformer-image"

    image_size: int = 28
    patch_size: int = 4
    num_channels: int = 3

    def __post_init__(self, **kwargs: Any) -> None:
        """Check that patches fill the image."""
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        super().__post_init__(**kwargs)


@strict
class MetaFormerTextConfig(MetaFormerConfig):
    """Sizes of a `MetaFormerForSequenceClassification`.

    Attributes:
        vocab_size: number of token ids.
        max_position_embeddings: tokens of the longest text.
        pad_token_id: the token id of padding.
    """

    model_type = "metaformer-text"

    vocab_size: int = 4000
    max_position_embeddings: int = 128
    pad_token_id: int = 0

    @classmethod
    def mixers(cls) -> tuple[str, ...]:
        """Return the token mixers there are; an MLP over tokens needs texts of one length."""
        return tuple(name for name in _MIXERS if name != "mlp")


class _TokenMixer(nn.Module):
    """Three projections of every token, mixed with those of other tokens, and one projection."""

    def __init__(self, config: MetaFormerConfig, grid: tuple[int, ...] | None) -> None:
        """Make the projections.

        Args:
            config: sizes.
            grid: tokens a side of an image; None for texts, whose length varies.
        """
        super().__init__()
        self.project_in = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.project_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.grid = grid

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Mix tokens [batch, length, width]; `mask` [batch, length] is 0 at padding."""
        first, second, third = self.project_in(tokens).chunk(3, dim=-1)
        projected: Tensor = self.project_out(self.mix(first, second, third, mask))
        return projected

    def mix(self, first: Tensor, second: Tensor, third: Tensor, mask: Tensor | None) -> Tensor:
        """Return [batch, length, width] from three projections of the same shape."""
        raise NotImplementedError

    def to_grid(self, tokens: Tensor) -> Tensor:
        """Return tokens [batch, length, width] as [batch, width, *grid]."""
        channels = tokens.transpose(1, 2)
        return channels if self.grid is None else channels.unflatten(2, self.grid)

    @staticmethod
    def from_grid(channels: Tensor) -> Tensor:
        """Undo `to_grid`."""
        return channels.flatten(2).transpose(1, 2)


class _Attention(_TokenMixer):
    """Softmax attention (Vaswani et al. 2017): queries, keys and values are the projections."""

    def __init__(self, config: MetaFormerConfig, grid: tuple[int, ...] | None) -> None:
        super().__init__(config, grid)
        self.heads = config.num_attention_heads

    def mix(self, first: Tensor, second: Tensor, third: Tensor, mask: Tensor | None) -> Tensor:
        """Attend to all tokens but padding."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (first, second, third)
        )
        seen = None if mask is None else mask[:, None, None, :].bool()
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return mixed.transpose(1, 2).flatten(2)


class _Convolution(_TokenMixer):
    """A depthwise convolution between two gates, as in LFM2: gate * convolution(gate * value)."""

    def __init__(self, config: MetaFormerConfig, grid: tuple[int, ...] | None) -> None:
        super().__init__(config, grid)
        layer = nn.Conv1d if grid is None else nn.Conv2d
        self.depthwise = layer(
            config.hidden_size,
            config.hidden_size,
            config.kernel_size,
            padding=config.kernel_size // 2,
            groups=config.hidden_size,
            bias=False,
        )

    def mix(self, first: Tensor, second: Tensor, third: Tensor, mask: Tensor | None) -> Tensor:
        """Convolve with neighbours; padding counts as nothing, like what is beyond the ends."""
        gated = _without_padding(first * second, mask)
        return third * self.from_grid(self.depthwise(self.to_grid(gated)))


class _Pooling(_TokenMixer):
    """The mean over neighbours in the place of the convolution (PoolFormer's mixer, gated)."""

    def __init__(self, config: MetaFormerConfig, grid: tuple[int, ...] | None) -> None:
        super().__init__(config, grid)
        self.kernel_size = config.kernel_size

    def mix(self, first: Tensor, second: Tensor, third: Tensor, mask: Tensor | None) -> Tensor:
        """Average over the neighbours there are."""
        gated = _without_padding(first * second, mask)
        there = torch.ones_like(gated[..., :1]) if mask is None else mask[..., None].to(gated.dtype)
        total, count = (self._mean(self.to_grid(part)) for part in (gated, there))
        return third * self.from_grid(total / count.clamp(min=1e-6))

    def _mean(self, channels: Tensor) -> Tensor:
        mean = functional.avg_pool1d if self.grid is None else functional.avg_pool2d
        return mean(channels, self.kernel_size, stride=1, padding=self.kernel_size // 2)


class _SpatialMLP(_TokenMixer):
    """An MLP over tokens (Tolstikhin et al. 2021), gated, with the convolution's parameters.

    Its inner width is what gives it about as many weights as the depthwise convolution has.
    """

    def __init__(self, config: MetaFormerConfig, grid: tuple[int, ...] | None) -> None:
        super().__init__(config, grid)
        if grid is None:
            raise ValueError("an MLP over tokens needs a fixed number of them")
        length = math.prod(grid)
        inner = max(1, round(config.hidden_size * config.kernel_size**2 / (2 * length)))
        self.narrow = nn.Linear(length, inner, bias=False)
        self.widen = nn.Linear(inner, length, bias=False)

    def mix(self, first: Tensor, second: Tensor, third: Tensor, mask: Tensor | None) -> Tensor:
        """Mix all tokens by learned weights of their places."""
        channels = (first * second).transpose(1, 2)
        mixed: Tensor = self.widen(functional.gelu(self.narrow(channels)))
        return third * mixed.transpose(1, 2)


def _without_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return tokens if mask is None else tokens * mask[..., None].to(tokens.dtype)


_MIXERS: dict[str, type[_TokenMixer]] = {
    "attention": _Attention,
    "convolution": _Convolution,
    "pooling": _Pooling,
    "mlp": _SpatialMLP,
}


class _Block(nn.Module):
    def __init__(self, config: MetaFormerConfig, grid: tuple[int, ...] | None) -> None:
        super().__init__()
        self.norm_mixer = nn.LayerNorm(config.hidden_size)
        self.mixer = _MIXERS[config.token_mixer](config, grid)
        self.norm_mlp = nn.LayerNorm(config.hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, config.hidden_size),
        )

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        tokens = tokens + self.mixer(self.norm_mixer(tokens), mask)
        mixed: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return mixed


class _Blocks(nn.Module):
    """Positions, blocks, and the mean over tokens."""

    def __init__(
        self, config: MetaFormerConfig, length: int, grid: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        # All mixers are told the places of tokens, though only attention could not tell them.
        self.positions = nn.Embedding(length, config.hidden_size)
        self.layers = nn.ModuleList(_Block(config, grid) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = tokens + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens, mask)
        tokens = self.norm(tokens)
        if mask is None:
            return tokens.mean(dim=1)
        there = mask[..., None].to(tokens.dtype)
        return (tokens * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


class _InitialWeights(PreTrainedModel):
    """One scheme for all mixers: each layer keeps the variance of what goes in."""

    def _init_weights(self, module: nn.Module) -> None:
        """LeCun et al. 1998: normal with variance 1 / fan-in; embeddings with deviation .02."""
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            initialization.normal_(module.weight, mean=0.0, std=fan_in**-0.5)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]


class MetaFormerForImageClassification(_InitialWeights):
    """Patches, blocks, the mean over tokens, dropout, one linear layer."""

    config_class = MetaFormerImageConfig
    base_model_prefix = "metaformer"
    main_input_name = "pixel_values"

    def __init__(self, config: MetaFormerImageConfig) -> None:
        super().__init__(config)
        side = config.image_size // config.patch_size
        self.patches = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
        )
        self.blocks = _Blocks(config, side**2, (side, side))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any
    ) -> ImageClassifierOutput:
        """Classify a batch of images.

        Args:
            pixel_values: [batch, channels, image_size, image_size].
            labels: int64 [batch]; with them the output has a loss.

        Returns:
            Logits [batch, num_labels].
        """
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        logits = self.classifier(self.dropout(self.blocks(tokens)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)


class MetaFormerForSequenceClassification(PooledClassifier, _InitialWeights):
    """Token embeddings, blocks, the mean over tokens, dropout, one linear layer."""

    config_class = MetaFormerTextConfig
    base_model_prefix = "metaformer"

    def __init__(self, config: MetaFormerTextConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = _Blocks(config, config.max_position_embeddings)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.embedding

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean over the text's tokens, [batch, hidden_size]."""
        pooled: Tensor = self.blocks(self.embedding(input_ids), attention_mask)
        return pooled


def register() -> None:
    """Make `metaformer-image` and `metaformer-text` known to the Auto classes."""
    for config in (MetaFormerImageConfig, MetaFormerTextConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForImageClassification.register(
        MetaFormerImageConfig, MetaFormerForImageClassification, exist_ok=True
    )
    AutoModelForSequenceClassification.register(
        MetaFormerTextConfig, MetaFormerForSequenceClassification, exist_ok=True
    )
