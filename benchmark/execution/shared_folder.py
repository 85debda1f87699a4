"""Whether another machine sees the same results folder, and what it does there for a command."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmark.execution.launch import LaunchError
from benchmark.execution.own_code import run_apart
from benchmark.execution.progress import StageProgress
from benchmark.execution.workers import Finished
from benchmark.plan import STAGE_VERSIONS, RunSpec
from benchmark.records import explained_errors, shared_cache

_PATIENCE_S = 10.0
"""A network file system may show a new file some seconds late."""


class SharedFolder:
    """A mark in a results folder by which another machine knows that it sees the same one.

    Args:
        results: the results tree.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, results: Path) -> None:
        # Not resolved: what a link leads to here may have another name there.
        self.results = Path(os.path.abspath(results))
        self.token = uuid.uuid4().hex
        self._mark = _mark(self.results, self.token)

    def __enter__(self) -> SharedFolder:
        with explained_errors(self._mark):
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.write_text(self.token, encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._mark.unlink(missing_ok=True)

    def answered(self, answer: str) -> bool:
        """Say whether what `answer_mark` wrote on another machine is seen here; remove it."""
        path = self._mark.with_name(answer)
        if not _appears(path, self.token):
            return False
        path.unlink(missing_ok=True)
        return True


def require_mark(results: Path, token: str) -> None:
    """Check on any machine that it sees the results folder of the command that made the mark.

    Raises:
        LaunchError: it does not.
    """
    if not _appears(_mark(results, token), token):
        raise LaunchError(
            f"{platform.node()} does not see the results folder {results} of this command: give "
            "--results a path that leads to the same folder on every node"
        )


def answer_mark(results: Path, token: str) -> str:
    """Check as `require_mark` does, and write beside the mark; return the name of what is written.

    Raises:
        LaunchError: the folder is another one, or cannot be written.
    """
    require_mark(results, token)
    answer = _mark(results, f"{token}-{uuid.uuid4().hex[:8]}")
    try:
        answer.write_text(token, encoding="utf-8")
    except OSError as error:
        raise LaunchError(
            f"{platform.node()} cannot write to the results folder: {answer.parent}: "
            f"{error.strerror}"
        ) from None
    return answer.name


def _mark(results: Path, token: str) -> Path:
    return shared_cache(results) / f"shared-{token}"


def _appears(path: Path, text: str) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return path.read_text(encoding="utf-8") == text
        except OSError:
            if time.monotonic() > deadline:
                return False
        time.sleep(0.2)


@dataclass(frozen=True)
class Errand:
    """What a command asks of another machine: to execute a run in the folder that both see.

    Attributes:
        results: the results tree, by its absolute path.
        token: of the mark in it.
        force: redo every stage.
        retries: how often the run is tried again when its process dies there.
    """

    results: Path
    token: str
    force: bool
    retries: int

    def run(self, spec: RunSpec) -> Generator[StageProgress | Finished]:
        """Execute a run in a worker process of this machine.

        Raises:
            LaunchError: the folder is another one.
        """
        require_mark(self.results, self.token)
        # Which GPUs this process has is up to who started it; the worker takes them over.
        yield from run_apart(
            [spec], self.results, workers=1, force=self.force, retries=self.retries
        )


def versions() -> dict[str, int]:
    """Return what must be the same on all machines, so that their results are those of one code."""
    return {str(stage): version for stage, version in STAGE_VERSIONS.items()}
