"""A convolutional sentence classifier after Kim (2014), arXiv:1408.5882."""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

from benchmark.models.pooled_classifier import PooledClassifier


@strict
class TextCNNConfig(PreTrainedConfig):
    """Sizes of a `TextCNNForSequenceClassification`.

    Attributes:
        vocab_size: number of token ids.
        embedding_size: width of a token embedding.
        kernel_sizes: window widths in tokens, one bank of filters each.
        num_filters: filters in each bank.
        dropout: of the pooled features, in [0, 1).
        pad_token_id: the token id whose embedding stays zero.
        initializer_range: standard deviation of the initial weights.
    """

    model_type = "text-cnn"

    vocab_size: int = 4000
    embedding_size: int = 64
    kernel_sizes: tuple[int, ...] | list[int] = (3, 4, 5)
    num_filters: int = 100
    dropout: float = 0.5
    pad_token_id: int = 0
    initializer_range: float = 0.1


class TextCNNForSequenceClassification(PooledClassifier):
    """Embeddings, filters of several widths, maximum over time, dropout, one linear layer.

    Unlike the paper's, windows are centred on every token and zero-padded at the ends, so that
    texts shorter than the widest filter need no special case.
    """

    config_class = TextCNNConfig
    base_model_prefix = "text_cnn"

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.num_filters, width)
            for width in config.kernel_sizes
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(
            config.num_filters * len(config.kernel_sizes), config.num_labels or 0
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.embedding

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return each filter's maximum over the text, [batch, filters]."""
        embedded = self.embedding(input_ids)
        mask = attention_mask[:, None, :].to(embedded.dtype)  # [batch, 1, length]
        embedded = embedded.transpose(1, 2) * mask
        # After the ReLU a feature is at least 0, so 0 at padding never wins the maximum.
        pooled = [
            (torch.relu(convolution(_pad_ends(embedded, width))) * mask).amax(dim=-1)
            for width, convolution in zip(self.config.kernel_sizes, self.convolutions, strict=True)
        ]
        return torch.cat(pooled, dim=-1)


def _pad_ends(embedded: Tensor, width: int) -> Tensor:
    """Pad the last axis so that a window of `width` is centred on each of its positions.

    `padding="same"` of the layer does this too, but warns about every even width.
    """
    return functional.pad(embedded, ((width - 1) // 2, width // 2))


def register() -> None:
    """Make `text-cnn` known to the Auto classes."""
    AutoConfig.register(TextCNNConfig.model_type, TextCNNConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        TextCNNConfig, TextCNNForSequenceClassification, exist_ok=True
    )
