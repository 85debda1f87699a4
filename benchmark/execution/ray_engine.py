"""Runs as tasks of a Ray cluster, each with a core and its GPUs.

Ray does not try tasks again; this does: a run whose node is lost goes to another one, where it goes
on from its last epoch. Every task looks for the mark in the results folder first (`SharedFolder`),
so that a node that joins later cannot write elsewhere.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.execution.engines import Orders
from benchmark.execution.estimates import relative_costs
from benchmark.execution.launch import LaunchError
from benchmark.execution.progress import StageProgress
from benchmark.execution.shards import longest_first
from benchmark.execution.shared_folder import (
    Errand,
    SharedFolder,
    answer_mark,
    require_mark,
    versions,
)
from benchmark.execution.timing_stage import TimingOrders, time_alone
from benchmark.execution.workers import Death, Finished
from benchmark.plan import RunSpec
from benchmark.records import Failure, Timing
from benchmark.shell import asked_to_stop, stop

MOST_LOSSES = 5
"""How often a run may lose its node; one that is lost again and again may be what kills them."""
_LOOK_S = 0.5
_CHECK_S = 120.0
_ENDING_S = 20.0
_PASSED_ON = (
    "HF_",
    "BENCHMARK_",
    "TOKENIZERS_",
    "TRANSFORMERS_",
    "WANDB_",
    "MLFLOW_",
    "TRACKIO_",
    "ACCELERATE_USE_CPU",
)
_OF_ONE_MACHINE = {"BENCHMARK_MACHINE_LOCKS"}


class _Node(NamedTuple):
    """A living node of the cluster: its id, its name, and all that it has."""

    id: str
    name: str
    resources: dict[str, float]


class RayEngine:
    """Executes runs on the Ray cluster that RAY_ADDRESS names, or else on this machine's."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def run(self, pending: Sequence[RunSpec]) -> Generator[StageProgress | Finished]:
        """See `Engine.run`."""
        orders = self._orders
        with _connected(), SharedFolder(orders.results) as folder:
            nodes = _nodes()
            gpus = _gpus_per_run(nodes, orders.gpus_per_run)
            if orders.timing_node is not None:
                _node_of_kind(nodes, orders.timing_node)
            _check_nodes(nodes, folder)
            costs = relative_costs(pending, orders.results)
            by_key = {(spec.suite, spec.name): spec for spec in pending}
            ordered = [by_key[key] for key in longest_first(costs)]
            errand = Errand(folder.results, folder.token, orders.force, orders.retries)
            environment = _environment() | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})
            start = partial(_start, errand=errand, environment=environment, gpus=gpus)
            yield from _Sweep(ordered, orders, start).events()

    def time(
        self, specs: Sequence[RunSpec], orders: TimingOrders
    ) -> Generator[tuple[str, Timing | Failure]]:
        """See `Cluster.time`."""
        kind = str(self._orders.timing_node)
        with _connected(), SharedFolder(self._orders.results) as folder:
            node = _node_of_kind(_nodes(), kind)
            arguments = ([spec.model_dump_json() for spec in specs], folder, orders)
            import ray

            task = _task(
                _time_there,
                num_cpus=node.resources.get("CPU", 0.0),
                num_gpus=node.resources.get("GPU", 0.0),
                resources={kind: min(1.0, node.resources[kind])},
                scheduling_strategy=_on(node),
            ).remote(*arguments, _environment())
            try:
                for reference in task:
                    yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise LaunchError(f"timing on {node.name}: {_told(error)}") from None
            except ray.exceptions.RayError as error:
                raise LaunchError(
                    f"timing on {node.name} was lost ({_told(error)}); the same command goes on "
                    "with it"
                ) from None
            finally:
                ray.cancel(task)


class _Sweep:
    """The runs of one command: waiting, or with a task each."""

    def __init__(self, specs: Sequence[RunSpec], orders: Orders, start: Any) -> None:
        self._waiting = deque(specs)
        self._orders, self._start = orders, start
        self._tasks: dict[Any, RunSpec] = {}
        self._losses: Counter[str] = Counter()

    def events(self) -> Iterator[StageProgress | Finished]:
        try:
            while self._waiting or self._tasks:
                if asked_to_stop():
                    self._cancel()
                    stop()
                self._start_more()
                for task in self._ready():
                    event = self._next_event(task)
                    if event is not None:
                        yield event
        finally:
            self._cancel()

    def _start_more(self) -> None:
        most = self._orders.workers
        while self._waiting and (most is None or len(self._tasks) < most):
            spec = self._waiting.popleft()
            self._tasks[self._start(spec)] = spec

    def _ready(self) -> list[Any]:
        import ray

        tasks = list(self._tasks)
        ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(tasks, num_returns=1, timeout=_LOOK_S, fetch_local=False)
        return list(ready)

    def _next_event(self, task: Any) -> StageProgress | Finished | None:
        """Return what a task has to tell; None where its run is done again."""
        import ray

        spec = self._tasks[task]
        try:
            event = ray.get(next(task))
        except StopIteration:
            return self._lost(task, "it ended without a record")
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LaunchError):
                raise LaunchError(str(error.cause)) from None
            del self._tasks[task]
            return self._failed(spec, _told(error), "TaskFailed")
        except ray.exceptions.RayError as error:
            return self._lost(task, _told(error))
        assert isinstance(event, StageProgress | Finished)
        if isinstance(event, Finished):
            del self._tasks[task]
        return event

    def _lost(self, task: Any, why: str) -> Finished | None:
        spec = self._tasks.pop(task)
        self._losses[spec.name] += 1
        if self._losses[spec.name] <= MOST_LOSSES:
            self._waiting.appendleft(spec)
            return None
        return self._failed(spec, f"its node was lost {MOST_LOSSES + 1} times; now: {why}")

    def _failed(self, spec: RunSpec, why: str, kind: str = "NodeLost") -> Finished:
        return Finished(Death(spec, f"Ray: {why}", kind).record(self._orders.results))

    def _cancel(self) -> None:
        """End all tasks; those under way end their worker after its epoch or stage."""
        import ray

        for task in self._tasks:
            ray.cancel(task)
        ends = [task.completed() for task in self._tasks]
        if ends:
            ray.wait(ends, num_returns=len(ends), timeout=_ENDING_S, fetch_local=False)
        self._tasks.clear()


@contextmanager
def _connected() -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    heeded = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS", "none is set: a cluster of this machine")
        raise LaunchError(
            f"--executor ray: no cluster (RAY_ADDRESS: {address}): {_told(error)}"
        ) from None
    for number, handler in heeded.items():  # Ray puts its own in their place
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _nodes() -> list[_Node]:
    import ray

    return [
        _Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def _gpus_per_run(nodes: Sequence[_Node], asked: float | None) -> float:
    most = max((node.resources.get("GPU", 0.0) for node in nodes), default=0.0)
    if asked is None:
        from accelerate.utils import parse_flag_from_env

        return 0.0 if parse_flag_from_env("ACCELERATE_USE_CPU") else min(1.0, most)
    if asked > most:
        raise LaunchError(
            f"--gpus-per-run {asked:g}: no node of the Ray cluster has as many (the most: {most:g})"
        )
    return asked


def _node_of_kind(nodes: Sequence[_Node], kind: str) -> _Node:
    """Return the first node that has a resource of this name."""
    for node in sorted(nodes, key=lambda node: (node.name, node.id)):
        if node.resources.get(kind, 0.0) > 0:
            return node
    builtin = {"CPU", "GPU", "memory", "object_store_memory"}
    names = {name for node in nodes for name in node.resources} - builtin
    known = sorted(name for name in names if not name.startswith("node:"))
    raise LaunchError(
        f"--timing-node {kind}: no node of the Ray cluster has that resource (there "
        f"{'are: ' + ', '.join(known) if known else 'is none'}); start one with: ray start "
        f"--address ... --resources '{{\"{kind}\": 1}}'"
    )


def _check_nodes(nodes: Sequence[_Node], folder: SharedFolder) -> None:
    """Let each node prove that it sees the results folder, and runs this version of the code.

    Raises:
        LaunchError: one does not.
    """
    import ray

    look = partial(_task, _look_there, num_returns=1, num_cpus=0)
    asked = [
        (node, look(scheduling_strategy=_on(node)).remote(folder.results, folder.token))
        for node in nodes
    ]
    for node, reference in asked:
        try:
            answer, theirs = ray.get(reference, timeout=_CHECK_S)
        except ray.exceptions.RayTaskError as error:
            raise LaunchError(f"--executor ray: {_told(error)}") from None
        except ray.exceptions.RayError as error:
            raise LaunchError(
                f"--executor ray: node {node.name} does not execute tasks: {_told(error)}"
            ) from None
        if not folder.answered(answer):
            raise LaunchError(
                f"what {node.name} writes to {folder.results} is not seen on {platform.node()}: "
                "give --results a path that leads to the same folder on every node"
            )
        if theirs != versions():
            raise LaunchError(
                f"{node.name} has another version of this program ({theirs}; here {versions()}): "
                "install the same one on every node"
            )


def _on(node: _Node) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)


def _task(function: Any, **options: Any) -> Any:
    """Return a function as a task that only this engine tries again; it yields, unless told."""
    import ray

    return ray.remote(function).options(**{"num_returns": "streaming", "max_retries": 0, **options})


def _start(spec: RunSpec, *, errand: Errand, environment: dict[str, str], gpus: float) -> Any:
    # SPREAD: a small sweep would otherwise fill one node first, and wait for its disk.
    task = _task(_run_there, num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")
    return task.remote(spec.model_dump_json(), errand, environment)


def _environment() -> dict[str, str]:
    """Return the variables of this command that decide what a run does, for its worker there."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and name not in _OF_ONE_MACHINE
    }


def _told(error: BaseException) -> str:
    """Return an error of Ray in one line, without the trace that it carries."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(cause).__name__}: {text}" if not isinstance(cause, LaunchError) else text


# --- on a node ------------------------------------------------------------------------------------


def _look_there(results: Path, token: str) -> tuple[str, dict[str, int]]:
    return answer_mark(results, token), versions()


def _run_there(
    spec: str, errand: Errand, environment: dict[str, str]
) -> Iterator[StageProgress | Finished]:
    os.environ.update(environment)
    yield from errand.run(RunSpec.model_validate_json(spec))


def _time_there(
    specs: list[str], folder: SharedFolder, orders: TimingOrders, environment: dict[str, str]
) -> Iterator[tuple[str, Timing | Failure]]:
    os.environ.update(environment)
    require_mark(folder.results, folder.token)
    runs = [RunSpec.model_validate_json(spec) for spec in specs]
    yield from time_alone(runs, folder.results, orders)
