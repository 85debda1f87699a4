"""What our own text classifiers share: features pooled over tokens, dropout, one linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledClassifier(PreTrainedModel):
    """A linear classifier on features that a subclass pools from the tokens.

    A subclass's `__init__` makes `dropout` and `classifier`, after the modules it pools with:
    the order decides which random numbers become which weights.
    """

    dropout: nn.Dropout
    classifier: nn.Linear

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one row of features for each text.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: [batch, length], 0 at padding.

        Returns:
            [batch, features]; padding never changes them.
        """
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Classify a batch of token ids.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: [batch, length], 0 at padding; all ones when absent.
            labels: int64 [batch]; with them the output has a loss.

        Returns:
            Logits [batch, num_labels]; padding never changes them.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        logits = self.classifier(self.dropout(self.pool(input_ids, attention_mask)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)
