"""What a GPU can do, and how much of it a training step uses."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.execution.progress import SilentProgress
from benchmark.execution.training import _Loop

_SIZE = 8192
_COPIED_BYTES = 2**32
_COUNTED_BATCHES = 8
_OPTIMIZER_BYTES = 28
"""Least traffic of one step per trained float32 weight: the weight is read and written, its
gradient written and read, both moments read and written, by AdamW in one kernel, and it is read
once more by the forward pass."""


class DeviceFacts(NamedTuple):
    """Measured ceilings: multiply-adds count as two operations, reads and writes both as bytes."""

    name: str
    bf16_flops_per_s: float
    bytes_per_s: float


def _median_seconds(work: Any, repeats: int = 20) -> float:
    for _ in range(3):
        work()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[repeats // 2]


def measure_device() -> DeviceFacts:
    """Time one large bf16 matrix product and one large copy."""
    a, b = (torch.randn(_SIZE, _SIZE, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    flops = 2 * _SIZE**3 / _median_seconds(lambda: a @ b)
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    rate = 2 * _COPIED_BYTES / _median_seconds(lambda: target.copy_(source))
    return DeviceFacts(torch.cuda.get_device_name(), flops, rate)


def gpu_line(facts: DeviceFacts, loop: _Loop, task: str, seconds: float) -> dict[str, str]:
    """Return what share of the device a step takes, as cells of a table.

    Args:
        facts: of the device.
        loop: our training of the model, as `measure_speed.loop_of` makes it.
        task: training or inference.
        seconds: a step takes.
    """
    flops = flops_of_a_step(loop, backward=task == "training")
    cells = {"of the bf16 matrix rate": f"{flops / seconds / facts.bf16_flops_per_s:.0%}"}
    if task != "training":
        return cells
    weights = sum(p.numel() for p in loop.module.parameters() if p.requires_grad)
    least = _OPTIMIZER_BYTES * weights / seconds / facts.bytes_per_s
    waits = host_waits(loop)
    ours = sum(count for place, count in waits.items() if "benchmark" in place)
    steps = loop.steps_per_epoch
    return cells | {
        "optimiser's bytes of the bandwidth": f"{least:.0%}",
        "host waits a step, ours": f"{ours / steps:.2f}",
        "by libraries": f"{(waits.total() - ours) / steps:.2f}",
        "idle": f"{idle_share(loop):.0%}",
    }


def flops_of_a_step(loop: _Loop, *, backward: bool) -> float:
    """Return the operations of one optimiser step, the mean over some batches."""
    steps = loop._steps(0)[:: max(1, loop.steps_per_epoch // _COUNTED_BATCHES)]
    flops = 0.0
    for step in steps:
        for inputs in loop._load(step.micro_batches):
            with FlopCounterMode(display=False) as counter:
                if backward:
                    loop._backward(inputs, step.batch_rows)
                else:
                    inputs.pop("labels")
                    with torch.no_grad():
                        loop.model(**inputs)
            flops += counter.get_total_flops()
    loop.optimizer.zero_grad()
    return flops / len(steps)


def host_waits(loop: _Loop) -> Counter[str]:
    """Return how often, and in which line, the host waits for the device in one epoch."""
    loop.run_epoch(0, SilentProgress())
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            loop.run_epoch(0, SilentProgress())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    return Counter(f"{w.filename}:{w.lineno}" for w in waits)


def idle_share(loop: _Loop) -> float:
    """Return the share of an epoch in which the device runs nothing, from its first kernel on."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loop.run_epoch(0, SilentProgress())
        torch.cuda.synchronize()
    profiler: Any = profile.profiler
    events = [e for e in profiler.kineto_results.events() if str(e.device_type()).endswith("CUDA")]
    spans = sorted((e.start_ns(), e.start_ns() + e.duration_ns()) for e in events)
    busy, end = 0, spans[0][0]
    for start, stop in spans:
        busy += max(0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])
