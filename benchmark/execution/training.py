"""Fine-tuning with Accelerate: one seed, one result, whatever the number of processes.

Each optimiser step sums the gradient over a global batch that is cut into processes and then
into micro-batches. The cut changes neither the batch nor its order, so a smaller device or
another launch trains on the same steps (up to rounding). Statistics of a batch would change with
the cut, so a model that normalises by them is trained on whole batches, by the first process; the
others follow with the same gradients. The state is saved at epoch ends; a resumed training
repeats the interrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from benchmark.arrays import IntArray
from benchmark.execution.agreement import exchange, largest_fitting, stop_point, together, vote
from benchmark.execution.gradients import GradientSum
from benchmark.execution.launch import overridden_settings
from benchmark.execution.optimization import adamw, save_memory
from benchmark.execution.progress import Progress
from benchmark.execution.schedule import learning_rate_factor
from benchmark.execution.training_state import (
    Progressed,
    load_tensors,
    named_tensors,
    read_state,
    saved_progress,
    write_state,
)
from benchmark.failures import RunError
from benchmark.models import (
    EncodedSplit,
    Padding,
    add_adapters,
    image_moves,
    load_batches,
    share_of_process,
    training_batches,
)
from benchmark.records import Training
from benchmark.registry import Recipe

OnEpoch = Callable[[int, Sequence[float], Sequence[float]], None]


def train(
    model: PreTrainedModel,
    split: EncodedSplit,
    recipe: Recipe,
    *,
    seed: int,
    accelerator: Accelerator,
    padding: Padding,
    state_path: Path,
    key: str,
    progress: Progress,
    on_epoch: OnEpoch = lambda *_: None,
) -> Training:
    """Fine-tune `model` in place on `split`.

    Args:
        model: the checkpoint with its head; moved to the accelerator's device.
        split: encoded training rows.
        recipe: optimiser settings.
        seed: decides the order of rows and every dropout mask.
        accelerator: this launch; its mixed precision must be the recipe's.
        padding: of text inputs.
        state_path: where the state is saved at epoch ends, for resuming.
        key: the training key; a saved state with another key is ignored.
        progress: told of each optimiser step.
        on_epoch: told of an epoch that is saved: steps before it; losses and rates of its own.

    Raises:
        RunError: the loss is not finite, or not even one row fits in memory.
    """
    started = time.perf_counter()
    loop = _Loop(model, split, recipe, seed, accelerator, padding)
    resumed = loop.resume(state_path, key)
    first_epoch, loss = resumed.epochs, resumed.loss
    started -= resumed.seconds
    loop.micro_batch_size = loop.find_micro_batch_size()
    progress.stage("training", recipe.epochs * loop.steps_per_epoch)
    progress.advance(first_epoch * loop.steps_per_epoch)
    for epoch in range(first_epoch, recipe.epochs):
        loss = loop.run_epoch(epoch, progress)
        done = Progressed(epoch + 1, loss, time.perf_counter() - started)
        together(f"state of epoch {epoch}", partial(loop.save, state_path, key, done))
        on_epoch(epoch * loop.steps_per_epoch, loop.losses, loop.rates)
        stop_point(f"after epoch {epoch}")
    return loop.finish(first_epoch, time.perf_counter() - started, loss)


@dataclass(frozen=True)
class _Step:
    """This process's part of one optimiser step, cut into micro-batches of row positions."""

    micro_batches: list[IntArray]
    batch_rows: int


class _Loop:
    """The state of one training: model, optimiser and schedule on the device."""

    def __init__(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        recipe: Recipe,
        seed: int,
        accelerator: Accelerator,
        padding: Padding,
    ) -> None:
        if split.lengths is not None and (recipe.random_flip or recipe.random_shift):
            raise RunError("the recipe mirrors or moves images, but these are texts")
        self.split, self.recipe, self.seed = split, recipe, seed
        self.accelerator, self.padding = accelerator, padding
        self.module = model
        self.adapters = None if recipe.lora is None else add_adapters(model, recipe.lora, seed)
        if recipe.gradient_checkpointing:
            save_memory(model)
        # No DDP wrapper: it would leave the others waiting for a process in trouble.
        self.model = accelerator.prepare_model(model, evaluation_mode=True)
        if recipe.compile:
            self.model = torch.compile(self.model)
        optimizer = adamw(model, recipe, accelerator.device)
        self.optimizer: Optimizer = accelerator.prepare_optimizer(optimizer)
        self.schedule = LambdaLR(optimizer, learning_rate_factor(recipe, self.total_steps))
        self.loss = torch.nn.CrossEntropyLoss(
            reduction="sum", label_smoothing=recipe.label_smoothing
        )
        self.whole_batches = _has_batch_statistics(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.gradients = GradientSum(trained if self._processes > 1 else [])
        self.micro_batch_size = self._largest_share
        self.losses: list[float] = []
        self.rates: list[float] = []

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.split) // self.recipe.batch_size)

    @property
    def total_steps(self) -> int:
        return max(1, self.recipe.epochs * self.steps_per_epoch)

    @property
    def _largest_share(self) -> int:
        batch = min(self.recipe.batch_size, len(self.split))
        return batch if self.whole_batches else -(-batch // self._processes)

    @property
    def _processes(self) -> int:
        return int(self.accelerator.num_processes)

    def find_micro_batch_size(self) -> int:
        """Return how many rows fit on the device at once, agreed by all processes.

        Tried with the longest rows before training starts. On a CPU there is nothing to
        try: running out of memory there ends the process.
        """
        if self.accelerator.device.type == "cpu":
            return self._largest_share
        lengths = self.split.lengths
        equal = np.arange(len(self.split))
        longest = equal if lengths is None else (-lengths).argsort(kind="stable")
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}

        def attempt(rows: int) -> None:
            try:
                positions = longest[: min(rows, len(longest))]
                self.gradients.begin()
                self._backward(next(self._load([positions])), rows)
                reserve = [torch.zeros_like(p) for p in self.module.parameters() for _ in "mv"]
                del reserve  # room for the optimiser's two moments
            finally:
                self.optimizer.zero_grad()

        self.model.train()
        fitting = largest_fitting(attempt, self._largest_share)
        if self.whole_batches and fitting < self._largest_share:
            raise RunError(
                f"the model normalises by statistics of the batch, which has {self._largest_share} "
                f"rows, but only {fitting} fit on the device: give the recipe a batch_size that "
                "fits, or take a device with more memory"
            )
        for name, value in self.module.named_buffers():
            value.copy_(buffers[name])  # batch statistics as if nothing had been tried
        return fitting

    def run_epoch(self, epoch: int, progress: Progress) -> float:
        """Run one epoch and return its mean loss per row."""
        self.model.train()
        # Reseeding here makes a training that resumes at this epoch the same as one that
        # never stopped; each process draws its own dropout masks.
        torch.manual_seed(_epoch_seed(self.seed, epoch, self.accelerator.process_index))
        # A loader of earlier versions drew one number here; so a seed's masks are what they were.
        torch.empty((), dtype=torch.int64).random_()
        steps, inputs = together(f"batches of epoch {epoch}", lambda: self._batches(epoch))
        each, self.rates = [], []
        for number, step in enumerate(steps):
            work = partial(self._step, step, inputs, progress)
            each.append(together(f"epoch {epoch}, step {number}", work))
        self._share_buffers()
        loss_sum = torch.zeros((), dtype=torch.float32, device=self.accelerator.device)
        for one in each:
            loss_sum += one
        # All losses leave the device in one piece, so that no step waits for it.
        sums = self._sum_over_processes(torch.stack([loss_sum, *each])).tolist()
        sizes = [step.batch_rows for step in steps]
        self.losses = [total / rows for total, rows in zip(sums[1:], sizes, strict=True)]
        mean_loss = float(sums[0]) / sum(sizes)
        if not math.isfinite(mean_loss):
            raise RunError(
                f"the training loss became {mean_loss} in epoch {epoch + 1}: lower the "
                "learning rate, or use bf16 or no mixed precision instead of fp16"
            )
        return mean_loss

    def _batches(self, epoch: int) -> tuple[list[_Step], Iterator[dict[str, Tensor]]]:
        steps = self._steps(epoch)
        micro_batches = [part for step in steps for part in step.micro_batches]
        moves = image_moves(self.recipe, len(self.split), seed=self.seed, epoch=epoch)
        return steps, self._load(micro_batches, moves)

    def _load(
        self, micro_batches: list[IntArray], moves: IntArray | None = None
    ) -> Iterator[dict[str, Tensor]]:
        device = self.accelerator.device
        return load_batches(self.split, micro_batches, self.padding, device, moves)

    def _steps(self, epoch: int) -> list[_Step]:
        batches = training_batches(
            self.split.lengths,
            len(self.split),
            self.recipe.batch_size,
            seed=self.seed,
            epoch=epoch,
        )
        return [_Step(self._micro_batches(batch), len(batch)) for batch in batches]

    def _micro_batches(self, batch: IntArray) -> list[IntArray]:
        size, process = self.micro_batch_size, int(self.accelerator.process_index)
        if self.whole_batches:
            share = batch if process == 0 else batch[:0]
        else:
            share = share_of_process(batch, process, self._processes)
        return [share[start : start + size] for start in range(0, len(share), size)]

    def _step(self, step: _Step, inputs: Iterator[dict[str, Tensor]], progress: Progress) -> Tensor:
        """Do one optimiser step; return the summed loss of this process's rows.

        One vote follows, which is also the one before the exchanges of the next step. An error
        anywhere in a step, on any process, is known to all by then; what the others have made of
        the weights goes with the run.
        """
        with self.gradients.of_step():
            loss_sum = torch.zeros((), device=self.accelerator.device)
            for left in reversed(range(len(step.micro_batches))):
                if left == 0:
                    self.gradients.last_pass()
                loss_sum.add_(self._backward(next(inputs), step.batch_rows))
        self._update()
        progress.advance()
        return loss_sum

    def _update(self) -> None:
        self.rates.append(float(self.schedule.get_last_lr()[0]))
        if self.recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def _backward(self, inputs: dict[str, Tensor], batch_rows: int) -> Tensor:
        labels = inputs.pop("labels")
        try:
            logits = self.model(**inputs).logits
        except ValueError as error:
            raise _explained(error, len(labels)) from error
        loss: Tensor = self.loss(logits.float(), labels)
        self.accelerator.backward(loss / batch_rows)
        return loss.detach()

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        """Add up `values` of all processes, in place."""
        if self._processes > 1:
            exchange("sum", lambda: torch.distributed.all_reduce(values))
        return values

    def _share_buffers(self) -> None:
        """Give every process the first one's batch statistics, which sees whole batches."""
        if self._processes > 1:
            for buffer in self.module.buffers():
                exchange("buffer", partial(torch.distributed.broadcast, buffer, 0))

    def finish(self, first_epoch: int, seconds: float, final_loss: float | None) -> Training:
        """Leave a model like any other; return what the record tells of the training."""
        self.gradients.close()
        if self.adapters is not None:
            self.adapters.merge()
        return Training(
            epochs=self.recipe.epochs,
            steps=self.recipe.epochs * self.steps_per_epoch,
            seconds=seconds,
            final_loss=final_loss,
            batch_size=self.recipe.batch_size,
            micro_batch_size=self.micro_batch_size,
            world_size=self.accelerator.num_processes,
            resumed_at_epoch=first_epoch,
            device=str(self.accelerator.device),
            mixed_precision=self.accelerator.mixed_precision,
            overridden=overridden_settings(),
        )

    def save(self, path: Path, key: str, progressed: Progressed) -> None:
        """Save everything that the next epoch needs (never pickled)."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        rest = {
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        write_state(path, key, progressed, named_tensors(self.module, self.optimizer), rest)

    def resume(self, path: Path, key: str) -> Progressed:
        """Load a saved state with this key; return how far it had come.

        All processes resume at the same epoch: where they do not all see the same state (a file
        system that one of them does not share), all start at the beginning.
        """
        is_main = bool(self.accelerator.is_main_process)
        found = together(
            "look for a saved state", lambda: saved_progress(path, key, may_rename=is_main)
        )
        if len(set(vote("saved state", found.epochs))) > 1:
            return Progressed()
        if found.epochs:
            together("restore the state", lambda: self.restore(path))
        return found

    def restore(self, path: Path) -> None:
        """Load what `save` saved."""
        saved, rest = read_state(path)
        load_tensors(self.module, self.optimizer, saved)
        self.schedule.load_state_dict(rest["schedule"])
        for group, rate in zip(
            self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True
        ):
            group["lr"] = rate
        if rest["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(rest["scaler"])


def _has_batch_statistics(model: torch.nn.Module) -> bool:
    """Say whether a model in training normalises a row by the other rows of its batch."""
    return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _explained(error: ValueError, rows: int) -> Exception:
    """Return torch's refusal to take statistics of one value as what a person can change."""
    if "more than 1 value per channel" not in str(error):
        return error
    return RunError(
        f"the model normalises by statistics of the batch, and {rows} row at once has none: give "
        "the recipe a batch_size of at least 2, or take larger images"
    )


def _epoch_seed(seed: int, epoch: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, process]).generate_state(1)[0])
