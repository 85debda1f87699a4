"""Time our training loop and forward pass beside a bare PyTorch loop and transformers' Trainer.

    python scripts/measure_speed.py --document docs/performance.md
    python scripts/measure_speed.py --device cuda --json speed.json

Weights and rows are random: what is timed does not depend on their values. All contenders of a line
take turns, so that a ratio is of one run; figures are medians over the rounds, CPU time on a CPU
and wall time on a GPU. A round is a few dozen steps, timed from the end of the first to that of
the last, the device waited for at both. The bare loop gets our batches, so that it shows what our
loop costs; the Trainer draws its own, as its users have them.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from document_tables import replace_table
from gpu_facts import DeviceFacts, gpu_line, measure_device
from tabulate import tabulate

from benchmark.execution.forward import predict_logits
from benchmark.execution.launch import make_accelerator, set_tf32
from benchmark.execution.progress import SilentProgress
from benchmark.execution.training import _Loop
from benchmark.models import EncodedSplit, Padding, collate
from benchmark.models.encoding import TokenFeatures
from benchmark.models.pixels import PixelFeatures
from benchmark.registry import Recipe

CLASSES = 4
Contender = Literal["ours", "bare loop", "Trainer"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model of random weights, with what it is given."""

    name: str
    config: Any
    model_class: Any
    batch_size: int
    steps: int
    image_size: int | None = None
    mean_tokens: int = 45

    def model(self, device: str) -> Any:
        """Return it, the same each time."""
        torch.manual_seed(0)
        with torch.device(device):
            return self.model_class(self.config)

    @functools.lru_cache(maxsize=1)  # noqa: B019 (a script: subjects live as long as it does)
    def split(self, rows: int) -> EncodedSplit:
        """Return random rows: bytes of images, or texts whose lengths spread as real ones do."""
        random = np.random.default_rng(0)
        ids, labels = np.arange(rows), random.integers(0, CLASSES, rows)
        if self.image_size is not None:
            shape = (rows, 3, self.image_size, self.image_size)
            table = np.linspace(-2, 2, 256, dtype=np.float32)[None].repeat(3, axis=0)
            pixels = random.integers(0, 256, shape, dtype=np.uint8)
            return EncodedSplit(ids, labels, PixelFeatures(pixels, table))
        lengths = random.lognormal(np.log(self.mean_tokens), 0.35, rows)
        lengths = np.clip(lengths, 8, self.config.max_position_embeddings).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = random.integers(1000, self.config.vocab_size - 10, offsets[-1])
        return EncodedSplit(ids, labels, TokenFeatures(offsets, {"input_ids": tokens}))


def subjects(device: str) -> list[Subject]:
    """Return what is timed on a device."""
    t, k = transformers, {"num_labels": CLASSES}
    bert, vit, resnet = (
        t.BertForSequenceClassification, t.ViTForImageClassification,
        t.ResNetForImageClassification,
    )  # fmt: skip
    if device == "cuda":
        modern = t.ModernBertConfig(pad_token_id=0, **k)
        return [
            Subject("ViT-B/16", t.ViTConfig(**k), vit, 64, 15, image_size=224),
            Subject("ResNet-50", t.ResNetConfig(**k), resnet, 64, 15, image_size=224),
            Subject("BERT-base", t.BertConfig(**k), bert, 32, 30, mean_tokens=110),
            Subject(
                "ModernBERT-base", modern, t.ModernBertForSequenceClassification, 32, 30,
                mean_tokens=110,
            ),
        ]  # fmt: skip
    tiny_resnet = t.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", **k
    )
    tiny_bert = t.BertConfig(
        vocab_size=8000, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=512, **k,
    )  # fmt: skip
    minilm = t.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, **k
    )
    small_vit = t.ViTConfig(
        image_size=56, patch_size=8, hidden_size=384, num_hidden_layers=12, num_attention_heads=6,
        intermediate_size=1536, **k,
    )  # fmt: skip
    return [
        Subject("resnet-tiny", tiny_resnet, resnet, 32, 60, image_size=28),
        Subject("bert-tiny", tiny_bert, bert, 32, 60),
        Subject("MiniLM (22M)", minilm, bert, 32, 8),
        Subject("ViT-S/8, 56 px (21M)", small_vit, vit, 32, 8, image_size=56),
    ]


@dataclass
class Marks(SilentProgress):
    """Notes the time at the end of the first and the last of some steps."""

    steps: int
    cuda: bool
    seen: int = 0
    times: list[float] = field(default_factory=list)

    def advance(self, steps: int = 1) -> None:
        """Count steps that ended."""
        self.seen += steps
        if self.seen in (1, self.steps):
            if self.cuda:
                torch.cuda.synchronize()
            self.times.append(time.perf_counter() if self.cuda else time.process_time())

    @property
    def seconds_per_step(self) -> float:
        """Return the mean of the steps between the two marks."""
        return (self.times[1] - self.times[0]) / (self.steps - 1)


def recipe_of(subject: Subject, device: str) -> Recipe:
    """Return how it is trained: bf16 on a GPU, as its users would."""
    precision = "bf16" if device == "cuda" else "no"
    return Recipe(
        epochs=1, batch_size=subject.batch_size, learning_rate=1e-4, mixed_precision=precision
    )


def loop_of(subject: Subject, device: str) -> _Loop:
    """Return our loop, its micro-batch found, on rows for one round."""
    recipe = recipe_of(subject, device)
    accelerator = make_accelerator(recipe.mixed_precision)
    set_tf32(False)
    model, split = subject.model(device), subject.split(subject.batch_size * subject.steps)
    loop = _Loop(model, split, recipe, 0, accelerator, Padding())
    loop.micro_batch_size = loop.find_micro_batch_size()
    return loop


def train_ours(subject: Subject, device: str) -> Callable[[], float]:
    """Return a round of our loop, in seconds a step."""
    loop = loop_of(subject, device)

    def one_round() -> float:
        marks = Marks(subject.steps, device == "cuda")
        loop.run_epoch(0, marks)
        return marks.seconds_per_step

    return one_round


def train_bare(subject: Subject, device: str) -> Callable[[], float]:
    """Return a round of the loop that a tutorial shows, on our batches."""
    loop = loop_of(subject, device)
    model = subject.model(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    batches = [part for step in loop._steps(0) for part in step.micro_batches]

    def one_round() -> float:
        marks = Marks(subject.steps, device == "cuda")
        for batch in batches:
            inputs = collate(loop.split, batch, Padding())
            inputs = {name: value.to(device) for name, value in inputs.items()}
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            marks.advance()
        return marks.seconds_per_step

    return one_round


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as the Trainer takes them: floats of images, lists of tokens."""

    def __init__(self, split: EncodedSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = np.array([index])
        if self.split.lengths is None:
            inputs = collate(self.split, position, Padding())
            return {"pixel_values": inputs["pixel_values"][0], "labels": inputs["labels"][0]}
        tokens = self.split.features.take(position)["input_ids"][0]
        return {"input_ids": tokens.tolist(), "labels": int(self.split.labels[index])}


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Put rows of the Trainer into one batch."""
    if "pixel_values" in rows[0]:
        return torch.utils.data.default_collate(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows]
    labels = [row["labels"] for row in rows]
    tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.tensor(value) for name, value in tensors.items()}


def trainer_of(subject: Subject, device: str, marks: list[Marks]) -> Any:
    """Return a Trainer whose last mark is told of each step."""

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks[-1].advance()

    cuda = device == "cuda"
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=subject.batch_size,
        per_device_eval_batch_size=subject.batch_size, num_train_epochs=1, bf16=cuda,
        use_cpu=not cuda, report_to=[], logging_strategy="no", save_strategy="no",
        disable_tqdm=True, dataloader_num_workers=4 if cuda else 0, remove_unused_columns=False,
    )  # fmt: skip
    return transformers.Trainer(
        model=subject.model(device), args=arguments, data_collator=padded, callbacks=[Watch()],
        train_dataset=Rows(subject.split(subject.batch_size * subject.steps)),
    )  # fmt: skip


def train_with_trainer(subject: Subject, device: str) -> Callable[[], float]:
    """Return a round of transformers' Trainer with its defaults."""
    marks: list[Marks] = []
    trainer = trainer_of(subject, device, marks)

    def one_round() -> float:
        marks.append(Marks(subject.steps, device == "cuda"))
        trainer.train()
        return marks[-1].seconds_per_step

    return one_round


# --- inference ------------------------------------------------------------------------------------


def _seconds(device: str, work: Callable[[], object]) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def predict_ours(subject: Subject, device: str) -> Callable[[], float]:
    """Return a round of our forward pass, in seconds a batch of the subject's size."""
    accelerator = make_accelerator(recipe_of(subject, device).mixed_precision)
    set_tf32(False)
    split = subject.split(subject.batch_size * subject.steps)
    model = subject.model(device)

    def work() -> None:
        predict_logits(
            model, split, accelerator=accelerator, padding=Padding(), progress=SilentProgress()
        )

    return lambda: _seconds(device, work) / subject.steps


def predict_bare(subject: Subject, device: str) -> Callable[[], float]:
    """Return a round of padded batches in file order."""
    model = subject.model(device).eval()
    split = subject.split(subject.batch_size * subject.steps)

    @torch.inference_mode()
    def work() -> None:
        for batch in np.split(np.arange(len(split)), subject.steps):
            inputs = collate(split, batch, Padding())
            inputs = {name: value.to(device) for name, value in inputs.items()}
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                model(**inputs).logits.float().cpu()

    return lambda: _seconds(device, work) / subject.steps


def predict_with_trainer(subject: Subject, device: str) -> Callable[[], float]:
    """Return a round of `Trainer.predict` with its defaults."""
    trainer = trainer_of(subject, device, [])
    rows = trainer.train_dataset
    return lambda: _seconds(device, lambda: trainer.predict(rows)) / subject.steps


TASKS: dict[str, dict[Contender, Callable[[Subject, str], Callable[[], float]]]] = {
    "training": {"ours": train_ours, "bare loop": train_bare, "Trainer": train_with_trainer},
    "inference": {
        "ours": predict_ours, "bare loop": predict_bare, "Trainer": predict_with_trainer,
    },
}  # fmt: skip


def measure(task: str, subject: Subject, device: str, rounds: int) -> dict[Contender, float]:
    """Return the median seconds a step of each contender, which take turns."""
    contenders = {name: make(subject, device) for name, make in TASKS[task].items()}
    for one_round in contenders.values():
        one_round()  # warm-up
    times: dict[Contender, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, one_round in contenders.items():
            times[name].append(one_round())
    return {name: statistics.median(found) for name, found in times.items()}


def line(task: str, subject: Subject, times: dict[Contender, float]) -> dict[str, str]:
    """Return a line of the table."""
    ours = times["ours"]
    return {
        "task": task,
        "model": subject.name,
        "rows/s": f"{subject.batch_size / ours:,.0f}",
        "ours, ms a step": f"{ours * 1e3:.1f}",
        **{f"{name} / ours": f"{times[name] / ours:.2f}" for name in times if name != "ours"},
    }


def main() -> None:
    """Measure and print, and write into a document or a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--document", type=Path, help="whose table is replaced")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    chosen = [s for s in subjects(options.device) if options.only.lower() in s.name.lower()]
    facts: DeviceFacts | None = measure_device() if options.device == "cuda" else None
    lines = []
    for subject in chosen:
        for task in TASKS:
            found = line(task, subject, measure(task, subject, options.device, options.rounds))
            if facts is not None:
                seconds = float(found["ours, ms a step"]) / 1e3
                found |= gpu_line(facts, loop_of(subject, "cuda"), task, seconds)
            lines.append(found)
            print(json.dumps(found), flush=True)
    header = list(dict.fromkeys(name for found in lines for name in found))
    table = tabulate([[f.get(n, "") for n in header] for f in lines], header, tablefmt="pipe")
    print(table)
    if options.document is not None:
        replace_table(options.document, f"speed-{options.device}", table)
    if options.json is not None:
        options.json.write_text(json.dumps({"lines": lines, "facts": facts and facts._asdict()}))


if __name__ == "__main__":
    main()
