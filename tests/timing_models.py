"""Models and loaders for the timing tests; importable by the fresh processes these start."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.data.rows import Rows
from benchmark.timing.durations import QUICK
from benchmark.timing.job import TimingSample, TimingSubject
from benchmark.timing.loops import WarmUpLimits

SIDE = 8

SHORT = dataclasses.replace(
    QUICK,
    single_stream_s=0.1,
    end_to_end_s=0.1,
    probe_s=0.02,
    offline_s=0.1,
    offline_end_to_end_s=0.1,
    overhead_pairs=100,
    warm_up=WarmUpLimits(min_s=0.0, max_s=0.05, window=2, round_shapes=4),
    batch_sizes=(4, 8),
    gpu_batch_sizes=(4, 8),
)


class Stack(nn.Module):
    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE * SIDE, width)
        self.rest = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


class Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x[:, :2] * self.weight


class TokenSleeper(Sleeper):
    """Takes `seconds` per token of its longest row, padding included."""

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        time.sleep(self.seconds * input_ids.shape[1])
        return (input_ids[:, :2] * self.weight,)


class NoOperation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


class OutOfMemoryAbove(Stack):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def image_sample(count: int) -> TimingSample:
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    rows = Rows(np.arange(count), np.zeros(count, dtype=np.int64), images=images)
    return TimingSample(rows, encode_images)


def encode_images(rows: Rows) -> dict[str, Tensor]:
    assert rows.images is not None
    grey = np.stack([rows.images[i][..., 0] for i in range(len(rows))])
    return {"x": torch.from_numpy(grey).flatten(1).float() / 255}


def text_sample(lengths: list[int]) -> TimingSample:
    texts = ["w " * length for length in lengths]
    rows = Rows(np.arange(len(texts)), np.zeros(len(texts), dtype=np.int64), texts=texts)
    return TimingSample(rows, encode_texts, lengths)


def encode_texts(rows: Rows) -> dict[str, Tensor]:
    assert rows.texts is not None
    lengths = [len(text.split()) for text in rows.texts]
    ids = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    return {"input_ids": ids}


def load_stack(width: int = 64, count: int = 32) -> TimingSubject:
    return TimingSubject(Stack(width).eval(), image_sample(count), 1.5)


def load_nothing() -> None:
    return None


def exit_at_once() -> TimingSubject:
    raise SystemExit(3)
