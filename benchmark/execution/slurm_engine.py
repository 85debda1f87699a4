"""Runs as the tasks of a Slurm array job, submitted by submitit.

A task that is preempted, or comes to its time limit, ends its worker after the epoch under way and
is queued again; it goes on from there. What has ended is read from the records as they land. With
`--slurm cluster=local` the tasks are processes of this machine, without Slurm.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.execution.engine_options import slurm_minutes
from benchmark.execution.engines import Orders
from benchmark.execution.estimates import relative_costs
from benchmark.execution.launch import LaunchError
from benchmark.execution.progress import StageProgress
from benchmark.execution.resolution import usable_head, usable_record
from benchmark.execution.shards import longest_first
from benchmark.execution.shared_folder import Errand, SharedFolder, require_mark
from benchmark.execution.timing_stage import TimingOrders, time_alone
from benchmark.execution.workers import Death, Finished, needs_work
from benchmark.plan import RunSpec
from benchmark.records import Failure, RunFolder, Timing, available_cores, shared_cache
from benchmark.shell import asked_to_stop, heed_signals, patiently, stop

MOST_TASKS = 1000
"""Of an array job: Slurm's own limit (MaxArraySize) by default; what is more waits for its turn."""
MOST_TIMEOUTS = 1000
"""How often a task may come to its time limit: each time it is some epochs further."""
USUAL_MINUTES = 240
_LOOK_S = 1.0
_ENDING_S = 30.0


class SlurmEngine:
    """Executes runs as tasks of array jobs."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._cluster = orders.slurm.get("cluster", "slurm")

    def run(self, pending: Sequence[RunSpec]) -> Generator[StageProgress | Finished]:
        """See `Engine.run`."""
        orders = self._orders
        with SharedFolder(orders.results) as folder:
            executor = self._executor(self._settings())
            costs = relative_costs(pending, orders.results)
            by_key = {(spec.suite, spec.name): spec for spec in pending}
            ordered = [by_key[key] for key in longest_first(costs)]
            errand = Errand(folder.results, folder.token, orders.force, orders.retries)
            submit = partial(_submit, executor, errand)
            # Without Slurm nothing but us keeps tasks from starting all at once.
            usual = MOST_TASKS if self._cluster == "slurm" else available_cores()
            yield from _Sweep(ordered, orders, submit, orders.workers or usual).events()

    def time(
        self, specs: Sequence[RunSpec], orders: TimingOrders
    ) -> Generator[tuple[str, Timing | Failure]]:
        """See `Cluster.time`."""
        results, kind = self._orders.results, str(self._orders.timing_node)
        groups = orders.groups(specs, results)
        before = {group[0].name: _state(group[0].folder(results)) for group in groups}
        with SharedFolder(results) as folder:
            executor = self._executor(self._settings(kind))
            texts = [spec.model_dump_json() for spec in specs]
            job = executor.submit(_TimingTask(folder.results, folder.token, texts, orders))
            try:
                while not job.done():
                    if asked_to_stop():
                        stop()
                    time.sleep(_LOOK_S)
            finally:
                job.cancel(check=False)
        for group in groups:
            record = usable_head(group[0].folder(results))
            landed = before[group[0].name] != _state(group[0].folder(results))
            result = None if record is None else record.timing_failure or record.timing
            if landed and result is not None:
                yield group[0].name, result
            else:
                message = f"the job that timed on {kind} {_how_it_ended(job)}"
                yield group[0].name, Failure(stage="timing", kind="JobLost", message=message)

    def _settings(self, timing_node: str | None = None) -> dict[str, Any]:
        """Return what is asked of submitit: for a run, or for a whole node of a kind."""
        given = dict(self._orders.slurm)
        given.pop("cluster", None)
        minutes = slurm_minutes(given.pop("time", "")) or USUAL_MINUTES
        gpus = int(self._orders.gpus_per_run or 0)
        settings: dict[str, Any] = {
            "name": given.pop("job_name", "calibration"),
            "timeout_min": minutes,
            "gpus_per_node": gpus or None,
        }
        if timing_node is None:
            settings |= {
                "cpus_per_task": 1,
                "slurm_array_parallelism": self._orders.workers or MOST_TASKS,
            }
        else:
            settings |= {"slurm_exclusive": True, "slurm_constraint": timing_node}
            given.pop("cpus_per_task", None)
        return settings | _passed_on(given)

    def _executor(self, settings: dict[str, Any]) -> Any:
        import submitit

        folder = shared_cache(SharedFolder(self._orders.results).results) / "slurm"
        # What submitit keeps there is unpickled by its tasks: nobody else may write it.
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        try:
            executor = submitit.AutoExecutor(
                folder / "%j", cluster=self._cluster, slurm_max_num_timeout=MOST_TIMEOUTS
            )
            executor.update_parameters(**settings)
        except (AssertionError, NameError, RuntimeError, ValueError) as error:
            raise LaunchError(f"--executor slurm: {_one_line(error)}") from None
        return executor


def _passed_on(given: dict[str, str]) -> dict[str, Any]:
    """Return settings of the command line as submitit takes them: what it knows, and what not."""
    from submitit.slurm.slurm import SlurmExecutor

    settings: dict[str, Any] = {}
    others: dict[str, str] = {}
    for key, value in given.items():
        typed: Any = int(value) if value.isdecimal() else value
        if key in ("cpus_per_task", "nodes", "tasks_per_node"):
            settings[key] = typed
        elif key in SlurmExecutor._valid_parameters():
            settings[f"slurm_{key}"] = value if key in ("mem", "mem_per_cpu") else typed
        else:
            others[key] = value
    return settings | ({"slurm_additional_parameters": others} if others else {})


@dataclass
class _Task:
    """A run that was submitted.

    Attributes:
        spec: the run.
        job: submitit's.
        before: the state of its record when it was submitted.
        told: whether its end has been told; the job then only has to end, too.
    """

    spec: RunSpec
    job: Any
    before: object
    told: bool = False


class _Sweep:
    """The runs of one command: waiting, or submitted."""

    def __init__(self, specs: Sequence[RunSpec], orders: Orders, submit: Any, most: int) -> None:
        self._waiting = deque(specs)
        self._orders, self._submit, self._most = orders, submit, most
        self._tasks: list[_Task] = []
        self._losses: Counter[str] = Counter()

    def events(self) -> Iterator[StageProgress | Finished]:
        try:
            while self._waiting or self._tasks:
                if asked_to_stop():
                    self._cancel()
                    stop()
                self._submit_more()
                for task in list(self._tasks):
                    event = self._news(task)
                    if event is not None:
                        yield event
                time.sleep(_LOOK_S)
        finally:
            self._cancel()

    def _submit_more(self) -> None:
        room = min(self._most, MOST_TASKS) - len(self._tasks)
        specs = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        if not specs:
            return
        before = [_state(spec.folder(self._orders.results)) for spec in specs]
        jobs = self._submit(specs)
        self._tasks += [_Task(*parts) for parts in zip(specs, jobs, before, strict=True)]

    def _news(self, task: _Task) -> Finished | None:
        """Return the record of a run that has ended; None while it has not, or is done again."""
        results, ended = self._orders.results, task.job.done()
        folder = task.spec.folder(results)
        if not task.told and _state(folder) != task.before:
            record = usable_record(folder)
            if record is not None:
                task.told = True
                self._drop(task, ended)
                return Finished(record)
        self._drop(task, ended)
        return None if task.told or not ended else self._without_record(task)

    def _drop(self, task: _Task, ended: bool) -> None:
        if ended:
            self._tasks.remove(task)

    def _without_record(self, task: _Task) -> Finished | None:
        """Return what is known of a run whose job ended and wrote nothing."""
        spec, results = task.spec, self._orders.results
        record = usable_record(spec.folder(results))
        if record is not None and record.status == "completed" and not needs_work(spec, results):
            return Finished(record)  # another command had done it
        self._losses[spec.name] += 1
        if self._losses[spec.name] <= self._orders.retries:
            self._waiting.append(spec)
            return None
        # Under the run's claim it looks again: a network file system may show records late.
        death = Death(spec, f"its Slurm job {_how_it_ended(task.job)}", "JobLost")
        return Finished(death.record(results))

    def _cancel(self) -> None:
        """End all jobs; those under way end their worker after its epoch or stage."""
        for task in self._tasks:
            task.job.cancel(check=False)
        deadline = time.monotonic() + _ENDING_S
        while self._tasks and time.monotonic() < deadline:
            self._tasks = [task for task in self._tasks if not task.job.done()]
            time.sleep(_LOOK_S / 5)
        self._tasks.clear()


def _submit(executor: Any, errand: Errand, specs: Sequence[RunSpec]) -> list[Any]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    task = _RunTask(errand)
    try:
        return list(executor.map_array(task, [spec.model_dump_json() for spec in specs]))
    except (FailedJobError, FailedSubmissionError) as error:  # what sbatch says
        raise LaunchError(f"--executor slurm: {_one_line(error)}") from None


def _state(folder: RunFolder) -> object:
    """Return what changes when a run's record is written."""
    with suppress(OSError):
        status = folder.record.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
    return None


def _how_it_ended(job: Any) -> str:
    """Say how a job ended that left nothing: its state, its log's last line, and where that is."""
    log = Path(job.paths.stderr)
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    except OSError:
        lines = []
    last = next((line for line in reversed(lines) if line), "it left no log")
    return f"{job.job_id} ended as {job.state}: {last[:300]} ({log})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# --- in a job -------------------------------------------------------------------------------------


class _Resumable(ABC):
    """What submitit queues again, as it is, when its job is preempted or comes to its limit."""

    @abstractmethod
    def __call__(self, *arguments: Any) -> None: ...

    def checkpoint(self, *arguments: Any) -> Any:
        """Return what to submit: the same, for the records and states say what is left to do."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


@dataclass
class _RunTask(_Resumable):
    errand: Errand

    def __call__(self, *arguments: str) -> None:
        (spec,) = arguments
        heed_signals(silent=True)  # scancel: the worker ends after its epoch or stage
        with patiently():
            for _ in self.errand.run(RunSpec.model_validate_json(spec)):
                pass


@dataclass
class _TimingTask(_Resumable):
    results: Path
    token: str
    specs: list[str]
    orders: TimingOrders

    def __call__(self, *arguments: Any) -> None:
        require_mark(self.results, self.token)
        runs = [RunSpec.model_validate_json(spec) for spec in self.specs]
        for _ in time_alone(runs, self.results, self.orders):
            pass
