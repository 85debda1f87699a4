"""How the learning rate rises and falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from benchmark.registry import Recipe

_ONECYCLE_START, _ONECYCLE_END = 1 / 25, 1 / 25e4
"""Where the one-cycle schedule starts and ends, as fractions of the peak (torch's defaults)."""


def learning_rate_factor(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """Return step -> fraction of the peak learning rate, for steps 0 ... total_steps-1.

    `linear`, `cosine` and `constant` rise linearly from 0 over `recipe.warmup` of the steps and
    then fall to 0, or stay. `onecycle` rises from 1/25 and falls to 4e-6 along a cosine (Smith
    2018), as torch's OneCycleLR does.
    """
    if recipe.schedule == "onecycle":
        return partial(_onecycle, peak=recipe.warmup * total_steps - 1, last=total_steps - 1)
    warmup_steps = round(recipe.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        fraction = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if recipe.schedule == "linear":
            return 1 - fraction
        return _cosine(1, 0, fraction) if recipe.schedule == "cosine" else 1.0

    return factor


def _onecycle(step: int, *, peak: float, last: int) -> float:
    if step <= peak:
        return _cosine(_ONECYCLE_START, 1, step / peak if peak > 0 else 1.0)
    return _cosine(1, _ONECYCLE_END, min(1.0, (step - peak) / (last - peak)))


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
