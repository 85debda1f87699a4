"""How long each part of a measurement lasts, at each level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmark.timing.loops import WarmUpLimits

Level = Literal["quick", "full"]


@dataclass(frozen=True)
class Durations:
    """How long each part of a measurement lasts, in seconds.

    Attributes:
        single_stream_s: single-stream, forward.
        end_to_end_s: single-stream, end to end.
        probe_s: offline, each batch size of the sweep.
        offline_s: offline, forward, at the best batch size.
        offline_end_to_end_s: offline, end to end, at the same batch size.
        overhead_pairs: pairs of calls for the overhead of temperature scaling.
        warm_up: limits of each warm-up.
        batch_sizes: of the offline sweep; those above the sample's size are left out.
        gpu_batch_sizes: likewise on a GPU, which takes more at once; beyond the sample's size its
            rows are repeated.
        all_threads: whether to measure with all cores as well as with 1 thread.
    """

    single_stream_s: float
    end_to_end_s: float
    probe_s: float
    offline_s: float
    offline_end_to_end_s: float
    overhead_pairs: int
    warm_up: WarmUpLimits
    batch_sizes: tuple[int, ...]
    gpu_batch_sizes: tuple[int, ...]
    all_threads: bool


# Quick: about 6 s a model. The offline scenario's 2 s are three probes and the final run.
QUICK = Durations(
    single_stream_s=2.0,
    end_to_end_s=0.5,
    probe_s=0.2,
    offline_s=1.4,
    offline_end_to_end_s=0.3,
    overhead_pairs=1000,
    warm_up=WarmUpLimits(min_s=0.1, max_s=0.3, window=3, round_shapes=8),
    batch_sizes=(8, 32, 128),
    gpu_batch_sizes=(32, 128, 512),
    all_threads=False,
)
FULL = Durations(
    single_stream_s=10.0,
    end_to_end_s=10.0,
    probe_s=1.0,
    offline_s=10.0,
    offline_end_to_end_s=10.0,
    overhead_pairs=5000,
    warm_up=WarmUpLimits(min_s=2.0, max_s=30.0),
    batch_sizes=(1, 4, 16, 64, 256),
    gpu_batch_sizes=(1, 16, 64, 256, 1024),
    all_threads=True,
)

DURATIONS: dict[Level, Durations] = {"quick": QUICK, "full": FULL}
