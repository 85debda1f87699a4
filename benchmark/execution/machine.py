"""Nothing of ours runs while anything of ours is timed, whoever started it and wherever it writes.

Two lock files for the whole machine, in the temporary folder. Whoever trains, predicts or scores
shares the room; whoever times has it alone. To get in one goes through the gate, which a command
that is about to time keeps shut, so that it is not kept waiting by ever new runs; runs under way
give way between two steps. The kernel opens locks whose owner has died.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.execution.progress import Progress

if os.name == "posix":
    import fcntl

_POLL_S = 0.2
_LOOK_S = 0.2


class Share:
    """This process's place in the room, next to others that train."""

    def __init__(self) -> None:
        self._gate, self._room = _open("gate"), _open("room")
        self._looked = time.monotonic()

    def enter(self) -> bool:
        """Enter if nobody times or is about to."""
        if not _lock(self._gate, shared=True):
            return False
        entered = _lock(self._room, shared=True)
        _unlock(self._gate)
        return entered

    def give_way(self) -> None:
        """Leave the room to whoever wants to time something, and come back afterwards."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        if not _lock(self._gate, shared=True):
            _unlock(self._room)
            while not self.enter():
                time.sleep(_POLL_S)
        else:
            _unlock(self._gate)
        self._looked = time.monotonic()

    def leave(self) -> None:
        """Leave for good."""
        for descriptor in (self._gate, self._room):
            if descriptor is not None:
                os.close(descriptor)
        self._gate = self._room = None


@contextmanager
def shared() -> Iterator[None]:
    """Work next to others, once nothing is timed."""
    share = Share()
    try:
        while not share.enter():
            time.sleep(_POLL_S)
        yield
    finally:
        share.leave()


@contextmanager
def alone(waiting: Callable[[], None]) -> Iterator[None]:
    """Have the machine for timing, once everything else of ours has stopped.

    Args:
        waiting: called once if that takes a while.
    """
    gate, room = _open("gate"), _open("room")
    try:
        started, told = time.monotonic(), False
        for descriptor in (gate, room):
            while not _lock(descriptor, shared=False):
                if not told and time.monotonic() - started > 2:
                    waiting()
                    told = True
                time.sleep(_POLL_S)
        yield
    finally:
        for descriptor in (gate, room):
            if descriptor is not None:
                os.close(descriptor)


class GivingWay:
    """Progress of a run that gives way between two steps to whoever times."""

    def __init__(self, progress: Progress, share: Share) -> None:
        self._progress, self._share = progress, share

    def stage(self, name: str, total: int) -> None:
        """See `Progress.stage`."""
        self._share.give_way()
        self._progress.stage(name, total)

    def advance(self, steps: int = 1) -> None:
        """See `Progress.advance`."""
        self._share.give_way()
        self._progress.advance(steps)


def _folder() -> Path:
    """Return where the locks lie: one place for all users, so not the user's own TMPDIR."""
    chosen = os.environ.get("BENCHMARK_MACHINE_LOCKS")
    if chosen:
        return Path(chosen)
    return Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())  # nosec B108


def _open(name: str) -> int | None:
    """Open a lock file, which every user may lock; None where that cannot be had."""
    if os.name != "posix":
        return None
    path = _folder() / f"calibration-benchmark-{name}.lock"
    with contextlib.suppress(FileNotFoundError, PermissionError):
        # Without O_CREAT: Linux refuses that for another user's file in a shared folder.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o666)  # nosec B103 - whatever the umask says
        return descriptor
    return None


def _lock(descriptor: int | None, *, shared: bool) -> bool:
    """Lock without waiting; where there are no locks, everyone may go on."""
    if descriptor is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # this file system has no locks
    return True


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
