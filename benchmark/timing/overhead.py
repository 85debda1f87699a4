"""What temperature scaling adds to a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.records import Measurement, TemperatureOverhead
from benchmark.timing import loops, percentiles
from benchmark.timing.device import stopwatch
from benchmark.timing.session import Session

if TYPE_CHECKING:
    from torch import Tensor


def temperature_overhead(
    session: Session, measurements: Sequence[Measurement]
) -> tuple[TemperatureOverhead, ...]:
    """Time softmax with and without the division by the temperature, pair by pair.

    Args:
        session: the model and its sample.
        measurements: both scenarios; for the batch size, and the latency to compare with.

    Returns:
        One entry for a single row, and one for the offline batch where that has more rows.
    """
    latency = next(
        m for m in measurements if (m.scenario, m.region) == ("single-stream", "end_to_end")
    )
    offline = next(m for m in measurements if m.scenario == "offline")
    logits = session.logits(session.sample.chunks(offline.batch_size)[0])
    found = []
    for size in sorted({1, len(logits)}):
        added = _paired_differences_us(session, logits[:size].float())
        middle = float(np.median(added))
        p50 = latency.percentile(50) if size == 1 else None
        found.append(
            TemperatureOverhead(
                batch_size=size,
                pairs=len(added),
                added_us=middle,
                interval_us=percentiles.median_interval(added),
                share_of_latency=None if p50 is None else middle / 1000 / p50.value_ms,
            )
        )
    return tuple(found)


def _paired_differences_us(session: Session, logits: Tensor) -> Float64Array:
    import torch

    scale = session.temperature

    def divided(values: Tensor) -> Tensor:
        return torch.softmax(values / scale, dim=-1)

    def plain(values: Tensor) -> Tensor:
        return torch.softmax(values, dim=-1)

    watches = (stopwatch(plain, session.device), stopwatch(divided, session.device))
    rng = np.random.default_rng(session.seed)
    pairs = session.durations.overhead_pairs
    differences = np.empty(pairs)
    with loops.garbage_collector_off():
        for position, flip in enumerate(rng.integers(2, size=pairs)):
            times = [0, 0]
            for which in (flip, 1 - flip):
                (times[which],) = watches[which].time_each([logits])
            differences[position] = (times[1] - times[0]) / 1000
    return differences[pairs // 10 :]  # the first tenth warms up
