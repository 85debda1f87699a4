"""Runs side by side in worker processes of one thread each.

A worker that dies (killed for memory, a crash in native code) costs its own run only: a fresh
worker takes the next, and the run is tried again, alone, when all others have ended; only then is
it recorded as failed. A run that another launch works on is put off, not waited for. Workers end
with their parent, also when that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle  # nosec B403 - only the name of its error: the pipe is our own
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmark.execution.progress import StageProgress
from benchmark.execution.resolution import resolve, stale_stages, usable_record
from benchmark.execution.run_record import run_record
from benchmark.execution.stages import RETRY_S, try_execute
from benchmark.failures import RunError, outcome
from benchmark.plan import RunSpec
from benchmark.records import Failure, Record, ResultsError, claimed, remove_dead_claim
from benchmark.shell import (
    Stopped,
    asked_to_stop,
    guarded_output,
    heed_signals,
    patiently,
    stop,
)

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Finished:
    """A run has ended with this record."""

    record: Record


@dataclass(frozen=True)
class _PutOff:
    """A run cannot be had now: another launch works on it, or something is being timed."""


def run_in_workers(
    specs: Sequence[RunSpec],
    results: Path,
    *,
    workers: int,
    force: bool,
    gpus: int = 0,
    retries: int = 1,
) -> Generator[StageProgress | Finished]:
    """Execute runs in `workers` processes, yielding what happens as it happens.

    Args:
        specs: the runs, started in this order.
        results: the results tree.
        workers: processes at work at once.
        force: redo every stage.
        gpus: CUDA devices to deal out, one a worker in turn (0: none).
        retries: how often a run whose worker died is tried again, with no other beside it.

    Raises:
        Stopped: this process was asked to end; the workers have come to an end before.
    """
    queue = _Queue(specs, retries)
    pool = [_Worker(index, results, force, gpus) for index in range(min(workers, len(specs)))]
    try:
        while not queue.is_done:
            if asked_to_stop():
                _end_all(pool)
                stop()
            for worker in pool:
                if worker.spec is None and (spec := queue.take()) is not None:
                    worker.give(spec)
                    yield StageProgress(spec.name, "starting", 0, 1)
            for worker in _ready(pool):
                event = _settled(worker, queue, results)
                if event is not None:
                    yield event
    finally:
        for worker in pool:
            worker.stop()


def _settled(worker: _Worker, queue: _Queue, results: Path) -> StageProgress | Finished | None:
    """Return what a worker has to tell; None where its run will be tried later."""
    event = worker.next_event()
    if isinstance(event, StageProgress):
        return event
    spec = worker.idle()
    if isinstance(event, _PutOff):
        queue.put_off(spec)
        return None
    if isinstance(event, _Death):
        return None if queue.tries_again(spec) else Finished(event.record(results))
    queue.finish()
    return event


class _Queue:
    """Which run is next: those put off come back after a while, those whose worker died alone."""

    def __init__(self, specs: Sequence[RunSpec], retries: int) -> None:
        self._waiting = deque((0.0, spec) for spec in specs)
        self._again: deque[RunSpec] = deque()
        self._under_way = 0
        self._tries_left = {spec.name: retries for spec in specs}

    @property
    def is_done(self) -> bool:
        return not (self._waiting or self._again or self._under_way)

    def take(self) -> RunSpec | None:
        """Return a run to start now, if there is one."""
        now = time.monotonic()
        for position, (start, spec) in enumerate(self._waiting):
            if start <= now:
                del self._waiting[position]
                self._under_way += 1
                return spec
        if self._again and not self._waiting and not self._under_way:
            self._under_way += 1
            return self._again.popleft()
        return None

    def put_off(self, spec: RunSpec) -> None:
        self._under_way -= 1
        self._waiting.append((time.monotonic() + RETRY_S, spec))

    def tries_again(self, spec: RunSpec) -> bool:
        """Count a run whose worker died; say whether it is tried once more."""
        self._under_way -= 1
        if not self._tries_left[spec.name]:
            return False
        self._tries_left[spec.name] -= 1
        self._again.append(spec)
        return True

    def finish(self) -> None:
        self._under_way -= 1


def _ready(pool: Sequence[_Worker]) -> list[_Worker]:
    """Return the workers that have news; wait a moment for some."""
    busy = [worker for worker in pool if worker.spec is not None]
    if not busy:
        time.sleep(RETRY_S / 2)  # all that is left is put off
        return []
    ready = wait([handle for worker in busy for handle in worker.handles], timeout=RETRY_S / 2)
    return [worker for worker in busy if any(handle in ready for handle in worker.handles)]


def _end_all(pool: Sequence[_Worker]) -> None:
    """Let each worker come to the end of its epoch or stage; a watch bounds how long that takes."""
    for worker in pool:
        worker.ask_to_end()
    while busy := [worker for worker in pool if worker.spec is not None]:
        for worker in _ready(busy):
            if isinstance(worker.next_event(), Finished | _Death | _PutOff):
                worker.idle()


@dataclass(frozen=True)
class _Death:
    """A worker process is gone; what it says of itself."""

    spec: RunSpec
    message: str

    def record(self, results: Path) -> Record:
        """Write the run down as failed, unless it was done when the worker died."""
        folder = self.spec.folder(results)
        failure = Failure(stage="worker", kind="WorkerDied", message=self.message)
        record = run_record(self.spec, "failed", failure=failure)
        try:
            with claimed(folder):
                previous = usable_record(folder)
                if (
                    previous is not None
                    and previous.status == "completed"
                    and not needs_work(self.spec, results)
                ):
                    return previous
                folder.write_record(record)
        except OSError as error:
            return run_record(self.spec, "failed", failure=outcome(error, "record")[1])
        return record


def needs_work(spec: RunSpec, results: Path) -> bool:
    """Say whether something of a run is still to do; where nothing is, what the dead left goes."""
    try:
        stale = stale_stages(resolve(spec, results), results)
    except (RunError, ResultsError):
        return True  # executing it records, or says, why it cannot be had
    if not stale:
        remove_dead_claim(spec.folder(results))
    return bool(stale)


class _Worker:
    """The parent's side of one worker process, started when it is first given a run."""

    def __init__(self, index: int, results: Path, force: bool, gpus: int) -> None:
        self.spec: RunSpec | None = None
        self._results, self._force = results, force
        self._device = _visible_devices(gpus)[index % gpus] if gpus else None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._killed_before: int | None = None

    @property
    def handles(self) -> list[Connection | int]:
        """What becomes ready when the worker has news or has died."""
        assert self._connection is not None
        assert self._process is not None
        return [self._connection, self._process.sentinel]

    def give(self, spec: RunSpec) -> None:
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        self.spec = spec
        self._connection.send(spec.model_dump_json())

    def next_event(self) -> StageProgress | Finished | _PutOff | _Death:
        assert self._connection is not None
        assert self.spec is not None
        try:
            event = self._connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # also half a message
            return self._death(self.spec)
        assert isinstance(event, StageProgress | Finished | _PutOff)
        return event

    def idle(self) -> RunSpec:
        """Note that the run under way has ended, and return it."""
        assert self.spec is not None
        spec, self.spec = self.spec, None
        return spec

    def ask_to_end(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def stop(self) -> None:
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        if self.spec is None:  # idle: it ends by itself, and tidies up after its libraries
            self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(timeout=10)

    def _start(self) -> None:
        self._connection, theirs = SPAWN.Pipe()
        arguments = (theirs, self._results, self._force)
        self._killed_before = _killed_for_memory()
        self._process = SPAWN.Process(target=_serve, args=arguments, daemon=True)
        with worker_environment(self._device):
            self._process.start()
        theirs.close()  # so that the worker's end closes when the worker dies

    def _death(self, spec: RunSpec) -> _Death:
        assert self._process is not None
        self._process.join(timeout=10)
        killed = _killed_for_memory()
        short = None not in (killed, self._killed_before) and killed != self._killed_before
        return _Death(spec, describe_exit(self._process.exitcode, short_of_memory=short))


def _killed_for_memory(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """Return how many processes the kernel has killed for lack of memory, where it tells."""
    try:
        lines = vmstat.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, ValueError, StopIteration):
        return None


def _visible_devices(gpus: int) -> list[str]:
    """Return the names of this process's CUDA devices, as CUDA_VISIBLE_DEVICES takes them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",") if listed else [str(index) for index in range(gpus)]


def describe_exit(code: int | None, *, short_of_memory: bool) -> str:
    """Say how a process ended that should not have."""
    if code is None or code >= 0:
        return f"the worker process ended unexpectedly with exit code {code}"
    name = signal.Signals(-code).name
    if name != "SIGKILL":
        return f"the worker process was ended by {name}"
    if short_of_memory:
        return (
            "the worker process was ended by SIGKILL; the kernel killed a process for lack of "
            "memory meanwhile: take a smaller batch_size, or a machine with more memory"
        )
    return (
        "the worker process was ended by SIGKILL (often: out of memory, of which the kernel has "
        "said nothing here)"
    )


@contextmanager
def worker_environment(device: str | None) -> Iterator[None]:
    """Set what a child takes over at its start: one thread, its device, no ear for Ctrl-C."""
    wanted = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if device is not None:
        wanted["CUDA_VISIBLE_DEVICES"] = device
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    # The parent decides what Ctrl-C means, also while the worker's libraries load.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- in the worker process --------------------------------------------------------------------


class _PipeProgress:
    """Sends a run's progress to the parent, at most a hundred times a stage."""

    def __init__(self, connection: Connection, run: str) -> None:
        self._connection, self._run = connection, run
        self._stage, self._total, self._done, self._sent = "", 1, 0, 0

    def stage(self, name: str, total: int) -> None:
        self._stage, self._total, self._done, self._sent = name, max(1, total), 0, 0
        self._send()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if (self._done - self._sent) * 100 >= self._total:
            self._send()

    def _send(self) -> None:
        self._sent = self._done
        event = StageProgress(self._run, self._stage, self._done, self._total)
        self._connection.send(event)


def _serve(connection: Connection, results: Path, force: bool) -> None:
    """Execute the runs that arrive on `connection` until it closes."""
    end_with_main()
    heed_signals(silent=True)
    try:
        with guarded_output(), patiently():
            while True:
                spec = RunSpec.model_validate_json(connection.recv())
                progress = _PipeProgress(connection, spec.name)
                record = try_execute(spec, results, force=force, progress=progress)
                connection.send(_PutOff() if record is None else Finished(record))
    except EOFError:
        return
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def end_with_main() -> None:
    """Let this process, which `multiprocessing` started, end as soon as its parent is gone."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
