"""Trainings whose result must not depend on how many processes do them.

As a script, `torchrun ... tests/gradient_cases.py FOLDER` does all of them and leaves what each
process has.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmark.execution import gradients
from benchmark.execution.launch import make_accelerator
from benchmark.execution.progress import SilentProgress
from benchmark.execution.training import _Loop
from benchmark.models import EncodedSplit, Padding, collate
from benchmark.models.encoding import TokenFeatures
from benchmark.models.pixels import PixelFeatures
from benchmark.registry import Lora, Recipe

Arrays = dict[str, np.ndarray]

SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
EPOCHS = 2


class Expert(nn.Module):
    """Asks a part of itself only for bright images, as a mixture of experts does."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.expert = nn.Linear(3 * 16 * 16, 2), nn.Linear(3 * 16 * 16, 2)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Return logits of images [n, 3, 16, 16]."""
        flat = pixel_values.flatten(1)
        logits, bright = self.head(flat), flat.mean(dim=1) > 0.065
        if bright.any():
            logits = logits + bright[:, None] * self.expert(flat)
        return SimpleNamespace(logits=logits)


@dataclass(frozen=True)
class Case:
    """A training: of what, on how many rows, in which batches."""

    model: str
    rows: int
    batch_size: int
    micro_batch_size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "odd shares": Case("vit", 97, 33),
    "fewer rows than processes": Case("vit", 1, 32),
    "one batch that is not full": Case("bert", 11, 32),
    "unlike numbers of micro-batches": Case("vit", 21, 7, 3),
    "batch statistics": Case("resnet", 48, 16),
    "tied weights": Case("albert", 30, 10),
    "a weight that is never used": Case("spare", 30, 10, options={"weight_decay": 0.5}),
    "a weight that some batches use": Case("expert", 96, 6, options={"weight_decay": 0.5}),
    "frozen weights": Case("vit", 30, 10, options={"lora": Lora(rank=2, dropout=0.0)}),
    "activations computed again": Case(
        "bert", 30, 10, 2, options={"gradient_checkpointing": True}
    ),
    "clipped gradients": Case("vit", 30, 10, options={"clip_norm": 0.01}),
    "no clipping": Case("vit", 30, 10, options={"clip_norm": None}),
}  # fmt: skip
if importlib.util.find_spec("peft") is None:
    del CASES["frozen weights"]


def model_of(kind: str) -> Any:
    """Return a small model, the same each time."""
    torch.manual_seed(0)
    t = transformers
    if kind == "resnet":
        config = t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        return t.ResNetForImageClassification(config)
    if kind == "bert":
        return t.BertForSequenceClassification(t.BertConfig(vocab_size=100, **SMALL))
    if kind == "albert":
        config = t.AlbertConfig(
            vocab_size=100, embedding_size=8, classifier_dropout_prob=0.0, **SMALL
        )
        return t.AlbertForSequenceClassification(config)
    if kind == "expert":
        return Expert()
    model = t.ViTForImageClassification(t.ViTConfig(image_size=16, patch_size=8, **SMALL))
    if kind == "spare":
        model.spare = nn.Parameter(torch.ones(3, 5))
    return model


def split_of(kind: str, rows: int) -> EncodedSplit:
    """Return random rows of two classes."""
    random = np.random.default_rng(0)
    ids, labels = np.arange(rows), random.integers(0, 2, rows)
    if kind in ("bert", "albert"):
        offsets = np.concatenate([[0], np.cumsum(random.integers(4, 12, rows))])
        tokens = random.integers(5, 100, offsets[-1])
        return EncodedSplit(ids, labels, TokenFeatures(offsets, {"input_ids": tokens}))
    table = np.linspace(-2, 2, 256, dtype=np.float32)[None].repeat(3, axis=0)
    pixels = random.integers(0, 256, (rows, 3, 16, 16), dtype=np.uint8)
    return EncodedSplit(ids, labels, PixelFeatures(pixels, table))


def train(case: Case) -> Arrays:
    """Return the steps' losses, logits of the trained model, and its weights that may be spare."""
    recipe = Recipe(
        epochs=EPOCHS, batch_size=case.batch_size, learning_rate=3e-3, schedule="constant",
        **case.options,
    )  # fmt: skip
    model, split = model_of(case.model), split_of(case.model, case.rows)
    loop = _Loop(model, split, recipe, 0, make_accelerator(), Padding())
    loop.micro_batch_size = case.micro_batch_size or loop.find_micro_batch_size()
    losses = []
    for epoch in range(EPOCHS):
        loop.run_epoch(epoch, SilentProgress())
        losses += loop.losses
    loop.finish(0, 0.0, None)
    inputs = collate(split, np.arange(min(16, case.rows)), Padding())
    del inputs["labels"]
    with torch.no_grad():
        logits = model.eval()(**inputs).logits.numpy()
    spare = {"expert": lambda: model.expert.weight, "spare": lambda: model.spare}
    extra = spare[case.model]().detach().numpy() if case.model in spare else np.empty(0)
    return {"losses": np.array(losses), "logits": logits, "spare": extra}


def memory_of_gradients() -> Arrays:
    """Return the bytes that gradients take as they are, and those that hold them in a training."""
    model = model_of("vit")
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-2)
    loop = _Loop(model, split_of("vit", 8), recipe, 0, make_accelerator(), Padding())
    started: list[int] = []
    held: dict[int, int] = {}
    update, finish = loop._update, loop.gradients._finish

    def note_update() -> None:
        for parameter in model.parameters():
            storage = parameter.grad.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        update()

    def note_finish() -> None:
        started.append(loop.gradients._started)
        finish()

    loop._update, loop.gradients._finish = note_update, note_finish
    loop.run_epoch(0, SilentProgress())
    own = sum(parameter.nbytes for parameter in model.parameters())
    counts = {
        "own": own,
        "held": sum(held.values()),
        "pieces": len(held),
        "early": started[0],
        "buckets": len(loop.gradients._buckets),
    }
    return {what: np.array(count) for what, count in counts.items()}


def main() -> None:
    """Do all trainings in this process of a launch."""
    gradients.BUCKET_BYTES = 4000  # many buckets
    found = {f"{name}/{what}": value for name, case in CASES.items()
             for what, value in train(case).items()}  # fmt: skip
    found |= {f"memory/{what}": value for what, value in memory_of_gradients().items()}
    np.savez(Path(sys.argv[1]) / f"rank-{os.environ['RANK']}.npz", **found)


if __name__ == "__main__":
    main()
