"""LFM2 with gated short convolutions in every layer, and a mean-pooling classifier.

The library's LFM2 is a causal language model with some attention layers. Here no layer mixes
tokens by attention; averaging over tokens replaces the usual head on the last token, which sees
only a few tokens through stacked convolutions of width 3.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, Lfm2Config, Lfm2Model
from transformers.models.lfm2.modeling_lfm2 import Lfm2PreTrainedModel

from benchmark.models.pooled_classifier import PooledClassifier


@strict
class Lfm2ConvolutionConfig(Lfm2Config):
    """An LFM2 configuration whose layers are all convolutions.

    Attributes:
        classifier_dropout: of the pooled features, in [0, 1).
    """

    model_type = "lfm2-convolution"

    classifier_dropout: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the layer types.

        Raises:
            ValueError: `layer_types` asks for something other than convolutions.
        """
        if self.layer_types is None:
            self.layer_types = ["conv"] * self.num_hidden_layers
        if set(self.layer_types) != {"conv"}:
            raise ValueError(
                f"lfm2-convolution has convolution layers only, got layer_types={self.layer_types};"
                " use model_type lfm2 for a hybrid"
            )
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]


class Lfm2ConvolutionForSequenceClassification(PooledClassifier, Lfm2PreTrainedModel):
    """A linear classifier on the mean of the last hidden states."""

    config_class = Lfm2ConvolutionConfig

    def __init__(self, config: Lfm2ConvolutionConfig) -> None:
        super().__init__(config)
        self.model = Lfm2Model(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()  # type: ignore[no-untyped-call]

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean of the last hidden states over the text, [batch, hidden_size]."""
        # A cache is for generation; without one the layers take their plain convolution path.
        states = self.model(input_ids, attention_mask=attention_mask, use_cache=False)[0]
        mask = attention_mask[..., None].to(states.dtype)  # [batch, length, 1]
        pooled: Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return pooled


def _is_other_advice(record: logging.LogRecord) -> bool:
    return "causal_conv1d" not in record.getMessage()


def register() -> None:
    """Make `lfm2-convolution` known to the Auto classes."""
    # The fused kernel the library recommends runs on CUDA only: elsewhere its advice is noise.
    if not torch.cuda.is_available():
        logging.getLogger("transformers.integrations.hub_kernels").addFilter(_is_other_advice)
    AutoConfig.register(Lfm2ConvolutionConfig.model_type, Lfm2ConvolutionConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        Lfm2ConvolutionConfig, Lfm2ConvolutionForSequenceClassification, exist_ok=True
    )
