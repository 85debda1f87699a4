"""A process that times one model after the other, so that a crash costs one model's timing."""

from __future__ import annotations

import os
import pickle  # nosec B403 - only the name of its error: the pipe is our own
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmark.execution.workers import SPAWN, describe_exit, end_with_main, worker_environment
from benchmark.plan import RunSpec
from benchmark.records import Failure, Timing
from benchmark.shell import guarded_output


class Measurer:
    """The parent's side of the process, which is started when it is first needed."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def measure(self, spec: RunSpec) -> Timing | Failure:
        """Return a resolved run's timing, or why there is none."""
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        assert self._process is not None
        try:
            self._connection.send(spec.model_dump_json())
            answer = self._connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process.join(timeout=10)
            how = describe_exit(self._process.exitcode, short_of_memory=False)
            message = how.replace("the worker process", "the process that timed it")
            return Failure(stage="timing", kind="ProcessDied", message=message)
        assert isinstance(answer, Timing | Failure)
        return answer

    def close(self) -> None:
        """End the process, at once if something is being measured."""
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.kill()

    def _start(self) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(theirs, self._results), daemon=True)
        with worker_environment(None):
            self._process.start()
        theirs.close()


def _serve(connection: Connection, results: Path) -> None:
    """Measure what arrives on `connection` until it closes."""
    from benchmark.execution.timing_stage import measure_subject

    end_with_main()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        with guarded_output():
            while True:
                spec = RunSpec.model_validate_json(connection.recv())
                connection.send(measure_subject(spec, results))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # libraries' threads must not keep a measured process alive
