"""Who works on a run: a claim in its folder, held by one process at a time.

A claim is a file that only one process can create. It needs no file locks, which some network file
systems do not have. It names its owner and is touched every `HEARTBEAT_S` seconds. It is taken over
when the owner is dead: a process of this machine that is gone, or one elsewhere whose claim has not
been touched for `SILENCE_S` seconds by the file system's own clock, so that machines' clocks may
differ. Whoever takes over has also seen it untouched for `WATCH_S` seconds by its own clock: after
an outage of the file system, or a step of its clock, claims look old that are not.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.records.files import explained_errors
from benchmark.records.folder import RunFolder

HEARTBEAT_S = 10.0
SILENCE_S = 60.0
WATCH_S = 15.0
_RETRY_S = 0.2
_LARGEST_PID = 2**31 - 1
_DAY_S = 86400.0
_LEFTOVERS = (".*.tmp", ".model-*", ".claim.*")


@dataclass
class Claim:
    """A run's folder, held by this process until `release`."""

    folder: RunFolder
    token: str
    _released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._keep_alive, daemon=True).start()

    def is_held(self) -> bool:
        """Say whether the claim is still this process's; one that was suspended may lose it."""
        return _read(self.folder.claim).get("token") == self.token

    def release(self) -> None:
        """Let others have the folder."""
        self._released.set()
        if self.is_held():
            self.folder.claim.unlink(missing_ok=True)

    def _keep_alive(self) -> None:
        while not self._released.wait(HEARTBEAT_S) and not self._is_lost():
            with contextlib.suppress(OSError):
                os.utime(self.folder.claim)  # the file system's time, not this machine's

    def _is_lost(self) -> bool:
        """Say whether the claim is gone or another's; a file system out of reach says neither."""
        try:
            text = self.folder.claim.read_text(encoding="utf-8")
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return self.token not in text


def try_claim(folder: RunFolder) -> Claim | None:
    """Claim a run's folder, which is made if need be; None: a living process has it.

    What an owner that died had half written is removed.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as results:
        ...     folder = RunFolder.of(Path(results), "mine", "vit", "digits", seed=0)
        ...     claim = try_claim(folder)
        ...     taken = try_claim(folder)
        ...     claim.release()
        ...     again = try_claim(folder)
        ...     (claim is None, taken is None, again is None)
        (False, True, False)
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    text = json.dumps({**_this_process(), "token": token})
    if not _create(folder.claim, text) and not _take_over(folder, text):
        return None
    _remove_leftovers(folder)
    return Claim(folder, token)


@contextmanager
def claimed(folder: RunFolder, timeout_s: float | None = None) -> Iterator[Claim]:
    """Hold a run's folder; wait for whoever has it.

    Raises:
        TimeoutError: it was not to be had within `timeout_s` seconds (None: wait for ever).
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (claim := try_claim(folder)) is None:
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"{folder.path}: another command works on this run")
        time.sleep(_RETRY_S)
    try:
        yield claim
    finally:
        claim.release()


@contextmanager
def sole_maker(path: Path) -> Iterator[None]:
    """Be the only process that makes `path`, a file or folder of the shared cache.

    Waits for another one that does, and looks no further: see afterwards whether `path` is there.

    Raises:
        OSError: the folder of `path` cannot be written; it names `path`.
    """
    with contextlib.ExitStack() as hold:
        with explained_errors(path):
            owner = RunFolder(path.with_name(f"{path.name}.owner"))
            hold.enter_context(claimed(owner))
        yield


def remove_dead_claim(folder: RunFolder) -> None:
    """Remove what an owner left that died, also in a folder in which nothing is to do any more."""
    with contextlib.suppress(OSError):  # a tree that cannot be written can be read
        if folder.claim.exists() and (claim := try_claim(folder)) is not None:
            claim.release()


def _create(path: Path, text: str) -> bool:
    """Create a file; False where there is one already. Only one of several can succeed."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return True


def _take_over(folder: RunFolder, text: str) -> bool:
    """Replace the claim of a dead owner. One does so at a time, and looks again before it does."""
    if not _is_dead(folder):
        return False
    key = folder.path / ".claim.takeover"
    if not _create(key, text):
        if _seconds_since_touched(key) > SILENCE_S:
            key.unlink(missing_ok=True)  # whoever was taking over died, too
        return False
    try:
        if not _is_dead(folder):
            return False
        descriptor, own = tempfile.mkstemp(dir=folder.path, prefix=".claim.", suffix=".new")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(own, folder.claim)
        return True
    finally:
        key.unlink(missing_ok=True)


def _is_dead(folder: RunFolder) -> bool:
    owner = _read(folder.claim)
    if owner.get("host") == _host():
        return not _is_running(owner)
    return _is_silent(folder.claim)


_SEEN_SILENT: dict[Path, tuple[int, float]] = {}
"""When this process first saw a claim that was touched at a time, by its own clock."""


def _is_silent(path: Path) -> bool:
    """Say whether a claim of elsewhere is old, and was not touched while this process watched."""
    if _seconds_since_touched(path) <= SILENCE_S:
        _SEEN_SILENT.pop(path, None)
        return False
    try:
        touched = path.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    now = time.monotonic()
    seen, since = _SEEN_SILENT.setdefault(path, (touched, now))
    if seen != touched:
        _SEEN_SILENT[path] = (touched, now)
        return False
    return now - since >= WATCH_S


def _read(path: Path) -> dict[str, Any]:
    """Return what a claim says; nothing while it is being written, or where there is none."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _seconds_since_touched(path: Path) -> float:
    """Return a file's age by the clock of its file system; 0 where it is gone."""
    try:
        with (
            tempfile.NamedTemporaryFile(dir=path.parent, prefix=".claim.", suffix=".now") as now,
            path.open("rb") as file,  # opening asks the server; a stat may be NFS's cache's
        ):
            return os.stat(now.name).st_mtime - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _is_running(owner: dict[str, Any]) -> bool:
    """Say whether a process of this machine lives; its start tells it from a later namesake."""
    try:
        return abs(_started(int(owner["pid"])) - float(owner["started"])) < 1.0
    except (KeyError, TypeError, ValueError, ProcessLookupError):
        return False


def _started(pid: int) -> float:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise ProcessLookupError(pid)
        return process.create_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


@functools.cache
def _host() -> str:
    """Return what tells this machine, its boot and its process numbers from others."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return f"{parts[0]}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def owner_mark() -> str:
    """Return what to put into the name of a temporary file so that `is_left_over` knows it."""
    return f"{_host()[-12:]}-{os.getpid()}"


def is_left_over(path: Path) -> bool:
    """Say whether the process that was writing `path`, named by its mark, is dead.

    Example:
        >>> is_left_over(Path(f".report.new.{owner_mark()}.x")), is_left_over(Path(".report"))
        (False, False)
        >>> is_left_over(Path(f".report.new.{owner_mark()}9999999.x"))
        True
    """
    import psutil

    found = re.search(r"\.([0-9a-f]{12})-([0-9]+)\.", path.name)
    if found is None:
        return False
    if found[1] == _host()[-12:]:
        return int(found[2]) > _LARGEST_PID or not psutil.pid_exists(int(found[2]))
    return path.exists() and _seconds_since_touched(path) > _DAY_S


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove what earlier owners were writing when they died; only the owner writes here."""
    for pattern in _LEFTOVERS:
        for path in folder.path.glob(pattern):
            if path.name == ".claim.takeover" or path.suffix == ".now":
                continue  # others ask for the claim meanwhile
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
