"""What else a machine does while something is timed, and when that spoils the figures."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.arrays import Float64Array
from benchmark.records import Contention, WarmUp

# Limits beyond which a measurement is called unstable. An otherwise idle 2-core machine shows
# other_cores ~ .02, waiting_share ~ .001 and drift ~ 1%, so each leaves room for ordinary life.
STRAY_CORES = 0.05
OTHER_CORES = 0.25
OTHER_SHARE = 0.10
WAITING_SHARE = 0.02
STOLEN_CORES = 0.02
DRIFT = 0.05
SPREAD = 0.15

_NANOSECONDS = 1e9


@dataclass(frozen=True)
class Usage:
    """Counters read at one moment, in seconds; None where the system has no such counter."""

    wall: float
    process: float
    thread: float
    waiting: float | None
    machine: float | None
    stolen: float | None

    @classmethod
    def now(cls, proc: Path = Path("/proc")) -> Usage:
        """Read the counters of this process, this thread and the machine."""
        busy, stolen = _machine_seconds(proc / "stat")
        return cls(
            wall=time.perf_counter(),
            process=time.process_time(),
            thread=time.thread_time(),
            waiting=_waiting_seconds(proc / "thread-self" / "schedstat"),
            machine=busy,
            stolen=stolen,
        )


def contention_between(start: Usage, end: Usage) -> Contention:
    """Turn two readings on the same thread into shares of the time between them."""
    wall = max(end.wall - start.wall, 1e-9)
    own = (end.process - start.process) / wall
    busy = _rate(start.machine, end.machine, wall)
    return Contention(
        own_cores=own,
        stray_cores=max(own - (end.thread - start.thread) / wall, 0.0),
        # Machine counters tick every 10 ms, ours every nanosecond: the difference can dip below 0.
        other_cores=None if busy is None else max(busy - own, 0.0),
        waiting_share=_rate(start.waiting, end.waiting, wall),
        stolen_cores=_rate(start.stolen, end.stolen, wall),
    )


def disturbances(seen: Contention, threads: int, cores: int | None = None) -> tuple[str, ...]:
    """Say what disturbed a measurement from outside.

    Args:
        seen: what the machine did meanwhile.
        threads: torch threads of the measurement; with one, no other thread should have run.
        cores: cores of the machine (default: ask it). On large machines a tenth of them may be
            busy with other work before that counts.
    """
    cores = cores or os.cpu_count() or 1
    reasons = []
    if threads == 1 and seen.stray_cores > STRAY_CORES:
        reasons.append(f"other threads of this process used {seen.stray_cores:.2f} cores")
    if seen.other_cores is not None and seen.other_cores > max(OTHER_CORES, OTHER_SHARE * cores):
        reasons.append(f"other processes kept {seen.other_cores:.2f} of {cores} cores busy")
    if seen.waiting_share is not None and seen.waiting_share > WAITING_SHARE:
        reasons.append(f"waited for a core {seen.waiting_share:.1%} of the time")
    if seen.stolen_cores is not None and seen.stolen_cores > STOLEN_CORES:
        reasons.append(f"the hypervisor took {seen.stolen_cores:.2f} cores away")
    return tuple(reasons)


def irregularities(passes_ms: Float64Array, warm_up: WarmUp) -> tuple[str, ...]:
    """Say what is irregular in the latencies themselves.

    Args:
        passes_ms: float64 [passes, calls]; every column is the same work, so rows of unequal
            length do not count as spread. No passes: nothing is said about spread.
        warm_up: the calls before.
    """
    reasons = []
    if not warm_up.settled:
        reasons.append(f"warm-up did not settle within {warm_up.seconds:.1f} s")
    passes = len(passes_ms)
    if passes == 1:
        reasons.append("only one pass over the sample: spread unknown")
    if passes < 4:
        return tuple(reasons)
    relative = passes_ms / np.median(passes_ms, axis=0)
    low, high = np.percentile(relative, (25, 75))
    if high - low > SPREAD:
        reasons.append(f"the same work varied by {high - low:.0%} (interquartile range)")
    early, late = (float(np.median(half)) for half in np.array_split(relative, 2))
    if abs(late / early - 1) > DRIFT:
        reasons.append(f"latency drifted by {late / early - 1:+.0%} from first to second half")
    return tuple(reasons)


def unstable_reasons(
    seen: Contention, threads: int, passes_ms: Float64Array, warm_up: WarmUp
) -> tuple[str, ...]:
    """Say all that makes a measurement unstable (see `disturbances` and `irregularities`)."""
    return (*disturbances(seen, threads), *irregularities(passes_ms, warm_up))


def _rate(start: float | None, end: float | None, wall: float) -> float | None:
    return None if start is None or end is None else max((end - start) / wall, 0.0)


def _waiting_seconds(path: Path) -> float | None:
    """Time the thread was runnable without a core: second field of Linux' schedstat, in ns."""
    try:
        return int(path.read_text().split()[1]) / _NANOSECONDS
    except (OSError, IndexError, ValueError):
        return None


def _machine_seconds(path: Path) -> tuple[float | None, float | None]:
    """Busy and stolen seconds, all cores together: first line of Linux' /proc/stat, in ticks."""
    try:
        fields = path.read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, interrupt, soft_interrupt, stolen = map(int, fields[:8])
    except (OSError, ValueError):
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupt + soft_interrupt) / ticks, stolen / ticks
