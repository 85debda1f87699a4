"""Runs side by side in worker processes of one thread each.

A worker that dies (killed for memory, a crash in native code) costs its own run only: the run
is recorded as failed and a fresh worker takes the next. Workers end with their parent, also
when that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmark.execution.progress import StageProgress
from benchmark.execution.run_record import run_record
from benchmark.execution.stages import execute
from benchmark.plan import RunSpec
from benchmark.records import Failure, Record
from benchmark.shell import guarded_output

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Finished:
    """A run has ended with this record."""

    record: Record


def run_in_workers(
    specs: Sequence[RunSpec], results: Path, *, workers: int, force: bool, gpus: int = 0
) -> Iterator[StageProgress | Finished]:
    """Execute runs in `workers` processes, yielding what happens as it happens.

    Args:
        specs: the runs, started in this order.
        results: the results tree.
        workers: processes at work at once.
        force: redo every stage.
        gpus: CUDA devices to deal out, one a worker in turn (0: none).
    """
    waiting = deque(specs)
    pool = [_Worker(index, results, force, gpus) for index in range(min(workers, len(specs)))]
    try:
        for worker in pool:
            worker.give(waiting.popleft())
        while busy := [worker for worker in pool if worker.spec is not None]:
            ready = wait([handle for worker in busy for handle in worker.handles])
            for worker in busy:
                if not any(handle in ready for handle in worker.handles):
                    continue
                event = worker.next_event()
                yield event
                if isinstance(event, Finished) and waiting:
                    worker.give(waiting.popleft())
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """The parent's side of one worker process, started when it is first given a run."""

    def __init__(self, index: int, results: Path, force: bool, gpus: int) -> None:
        self.spec: RunSpec | None = None
        self._results, self._force = results, force
        self._device = _visible_devices(gpus)[index % gpus] if gpus else None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

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

    def next_event(self) -> StageProgress | Finished:
        assert self._connection is not None
        assert self.spec is not None
        try:
            event = self._connection.recv()
        except (EOFError, ConnectionError):
            event = Finished(self._record_death(self.spec))
        if isinstance(event, Finished):
            self.spec = None
        assert isinstance(event, StageProgress | Finished)
        return event

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
        self._connection, theirs = _SPAWN.Pipe()
        arguments = (theirs, self._results, self._force)
        self._process = _SPAWN.Process(target=_serve, args=arguments, daemon=True)
        with _worker_environment(self._device):
            self._process.start()
        theirs.close()  # so that the worker's end closes when the worker dies

    def _record_death(self, spec: RunSpec) -> Record:
        assert self._process is not None
        self._process.join(timeout=10)
        message = _describe_exit(self._process.exitcode)
        failure = Failure(stage="worker", kind="WorkerDied", message=message)
        record = run_record(spec, "failed", failure=failure)
        spec.folder(self._results).write_record(record)
        return record


def _visible_devices(gpus: int) -> list[str]:
    """Return the names of this process's CUDA devices, as CUDA_VISIBLE_DEVICES takes them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",") if listed else [str(index) for index in range(gpus)]


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often: out of memory; try --workers 1)" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended unexpectedly with exit code {code}"


@contextmanager
def _worker_environment(device: str | None) -> Iterator[None]:
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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with guarded_output():
        _work(connection, results, force)


def _work(connection: Connection, results: Path, force: bool) -> None:
    while True:
        try:
            spec = RunSpec.model_validate_json(connection.recv())
        except EOFError:
            return
        progress = _PipeProgress(connection, spec.name)
        record = execute(spec, results, force=force, progress=progress)
        connection.send(Finished(record))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
