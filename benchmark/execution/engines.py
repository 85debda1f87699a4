"""What executes a command's runs: worker processes of this machine, Ray, or Slurm.

All yield the same events, and all execute a run by `run_apart` on the machine that has it, so that
claims, retries, hidden secrets and records are the same everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmark.execution.console import RunDisplay, TimingDisplay
from benchmark.execution.engine_options import Executor
from benchmark.execution.launch import LaunchError, gpu_count, launched_processes
from benchmark.execution.machine import alone
from benchmark.execution.own_code import run_apart
from benchmark.execution.progress import StageProgress
from benchmark.execution.timing_stage import TimingOrders, time_groups
from benchmark.execution.workers import Finished
from benchmark.plan import RunSpec
from benchmark.records import Failure, Timing, available_cores
from benchmark.shell import patiently

_MODULES = {"ray": "ray", "slurm": "submitit"}
"""What the engines need, which the extras of their names install."""


@dataclass(frozen=True)
class Orders:
    """How a command wants its runs executed.

    Attributes:
        results: the results tree.
        workers: runs side by side at most; None: as many as there is room for.
        force: redo what is cached.
        retries: how often a run whose process died is tried again.
        gpus_per_run: GPUs of a run in a cluster; None: the engine decides.
        timing_node: the kind of node that a cluster times on; None: it times nothing.
        slurm: settings for Slurm.
    """

    results: Path
    workers: int | None = None
    force: bool = False
    retries: int = 1
    gpus_per_run: float | None = None
    timing_node: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """Executes runs somewhere."""

    def run(self, pending: Sequence[RunSpec]) -> Generator[StageProgress | Finished]:
        """Execute runs, yielding what happens as it happens; each ends with one `Finished`.

        Raises:
            LaunchError: this cannot be done with these machines.
            Stopped: this process was asked to end; what it had started has come to an end before.
        """
        ...


@runtime_checkable
class Cluster(Engine, Protocol):
    """Executes runs, and times models, on other machines."""

    def time(
        self, specs: Sequence[RunSpec], orders: TimingOrders
    ) -> Generator[tuple[str, Timing | Failure]]:
        """Time completed runs' models on one whole node; yield each with its result.

        Raises:
            LaunchError: there is no such node, or it was lost.
        """
        ...


class LocalEngine:
    """Worker processes of this machine."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def run(self, pending: Sequence[RunSpec]) -> Generator[StageProgress | Finished]:
        """See `Engine.run`."""
        orders, gpus = self._orders, gpu_count()
        return run_apart(
            pending,
            orders.results,
            workers=orders.workers or gpus or available_cores(),
            force=orders.force,
            gpus=gpus,
            retries=orders.retries,
        )


def engine_of(options: argparse.Namespace) -> Engine:
    """Return the engine that a command line asks for.

    Args:
        options: those of `add_engine_options`, and results, workers, force and retries.

    Raises:
        LaunchError: its extra is not installed, or the launch has several processes.
    """
    orders = Orders(
        results=options.results,
        workers=options.workers,
        force=options.force,
        retries=options.retries,
        gpus_per_run=options.gpus_per_run,
        timing_node=options.timing_node,
        slurm=options.slurm,
    )
    name: Executor = options.executor
    if name == "local":
        return LocalEngine(orders)
    if launched_processes() > 1:
        raise LaunchError(
            f"--executor {name} starts the processes itself: run the command without a launcher of "
            "several processes"
        )
    if find_spec(_MODULES[name]) is None:
        raise LaunchError(f"--executor {name} needs the extra: pip install -e '.[{name}]'")
    if name == "ray":
        from benchmark.execution.ray_engine import RayEngine

        return RayEngine(orders)
    from benchmark.execution.slurm_engine import SlurmEngine

    return SlurmEngine(orders)


def execute_pending(engine: Engine, pending: Sequence[RunSpec]) -> None:
    """Execute runs and show how they go on."""
    with (
        patiently(),
        closing(engine.run(pending)) as events,
        RunDisplay(len(pending)) as display,
    ):
        for event in events:
            if isinstance(event, Finished):
                display.finished(event.record)
            else:
                display.progress(event)


def time_models(engine: Engine, specs: Sequence[RunSpec], options: argparse.Namespace) -> bool:
    """Measure latency and throughput, now that nothing else runs; say whether that was asked for.

    Args:
        engine: what executed the runs.
        specs: the runs.
        options: results, force, timing, timing_backend, timing_node.
    """
    if options.timing == "off":
        return False
    orders = TimingOrders(options.timing, options.force, options.timing_backend == "loadgen")
    if not isinstance(engine, Cluster):
        _time_here(specs, options.results, orders)
    elif options.timing_node is not None:
        _time_there(engine, specs, options.results, orders)
    else:
        print(
            "no model is timed: name the kind of node to time on with --timing-node, or run the "
            "command without --executor on the machine whose latencies you want"
        )
        return False
    return True


def _time_here(specs: Sequence[RunSpec], results: Path, orders: TimingOrders) -> None:
    if not orders.groups(specs, results):
        return
    with alone(lambda: print("waiting to time: other commands of ours are at work here")):
        groups = orders.groups(specs, results)  # another launch may have timed some
        if not groups:
            return
        print(f"timing {len(groups)} models, one after the other ({orders.level})")
        if orders.level == "quick":
            print("first the peak memory of each, side by side")
        timed = time_groups(groups, results, orders.level, cross_check=orders.cross_check)
        with TimingDisplay(_names(groups)) as display:
            for group, result in timed:
                display.finished(group[0].name, result)


def _time_there(
    engine: Cluster, specs: Sequence[RunSpec], results: Path, orders: TimingOrders
) -> None:
    groups = orders.groups(specs, results)
    if not groups:
        return
    print(f"timing {len(groups)} models, one after the other ({orders.level}), on one node")
    with (
        closing(engine.time(specs, orders)) as timings,
        TimingDisplay(_names(groups)) as display,
    ):
        for name, result in timings:
            display.finished(name, result)


def _names(groups: Sequence[Sequence[RunSpec]]) -> list[str]:
    return [group[0].name for group in groups]
