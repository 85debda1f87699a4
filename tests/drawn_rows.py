"""Rows whose labels are drawn from their logits at a temperature."""

from __future__ import annotations

import numpy as np


def sample(n, n_classes, seed=0, temperature=1.7):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes))
    labels = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels
