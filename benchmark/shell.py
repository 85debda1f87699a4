"""What every command does about its shell.

Folders as arguments, signals, pipes, files that are none, and what a terminal would obey.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TextIO

from benchmark.markup import visible_lines

Parameters = ParamSpec("Parameters")

_OUTPUT = 1  # the file descriptor of the standard output
_FULL = (errno.ENOSPC, errno.EDQUOT)


def as_folder(text: str) -> Path:
    """Return an argument that names a folder, which need not exist; for `argparse`.

    Raises:
        ArgumentTypeError: a file is in its place, or in that of a folder above it.
    """
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(f"'{place}' is a file; name a folder")
    return path


def command(main: Callable[Parameters, int]) -> Callable[Parameters, int]:
    """Turn what a person or a full disk can do to a command into a line and an exit code.

    130: Ctrl-C; 129 and 143: SIGHUP and SIGTERM, where a command heeds them (`heed_signals`). 2: a
    file cannot be read or written. 0: whoever read the output has seen enough, as `| head` does.
    What it prints is guarded (see `guarded_output`).
    """

    @functools.wraps(main)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
        with guarded_output():
            return ended(*args, **kwargs)

    def ended(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
        try:
            code = main(*args, **kwargs)
            sys.stdout.flush()  # here, where a closed pipe can be told from an error
        except (KeyboardInterrupt, Stopped) as stop:
            print("\nInterrupted. Run the same command again to continue.", file=sys.stderr)
            return stop.exit_code if isinstance(stop, Stopped) else 130
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_has_left():
                _discard_output()
                return 0
            if error.filename is None and error.errno not in _FULL:
                raise
            name = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {name}{error.strerror}", file=sys.stderr)
            return 2
        return code

    return run


def _reader_has_left() -> bool:
    """Say whether nobody reads the standard output any more; other pipes may break, too."""
    poll = select.poll()
    poll.register(_OUTPUT, 0)
    return bool(poll.poll(0))


def _discard_output() -> None:
    """Let the interpreter flush what is left to nowhere, when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _OUTPUT)
    os.close(nowhere)


# --- being asked to end -----------------------------------------------------------------------

GRACE_S = 25.0
"""How long what is under way may take to come to its end. torchrun, Slurm and Kubernetes kill
after 30 seconds by default."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """This process was asked to end, and has come to a point where it can."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class _Endings:
    """What this process has been asked, and how patient it is."""

    asked: int | None = None
    patient = False


def heed_signals(grace_s: float = GRACE_S, *, silent: bool = False) -> None:
    """End on SIGTERM, SIGHUP and Ctrl-C at the next point where nothing is lost.

    Outside `patiently` that is at once, by raising `Stopped`; within, where `stop_if_asked` is
    called, but no later than `grace_s` seconds on, when the process is ended. A second Ctrl-C ends
    it at once. What was ignored when the process started (nohup) stays so.
    """

    def heed(number: int, frame: FrameType | None) -> None:
        if _Endings.asked is not None:
            return  # what a second Ctrl-C does is up to the watch
        _Endings.asked = number
        if not _Endings.patient:
            raise Stopped(number)
        if not silent:
            say = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
            text = f"\nEnding after the epoch or stage under way, in {grace_s:g} s at most{say}.\n"
            os.write(2, text.encode())

    _start_watch(grace_s)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, heed)


def _start_watch(grace_s: float) -> None:
    """End the process in time from a thread.

    The system tells the thread of a signal at once; a handler waits until the main thread comes
    back from whatever library it is in, such as a collective call.
    """
    news, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        first: int | None = None
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([news], [], [], left)[0]:
                _end_now(first or signal.SIGTERM)
            number = os.read(news, 1)[0]
            if first is not None and number == signal.SIGINT:
                _end_now(number)
            if first is None and number in _SIGNALS:
                first, deadline = number, time.monotonic() + grace_s

    threading.Thread(target=watch, daemon=True).start()


def asked_to_stop() -> bool:
    """Say whether this process has been asked to end."""
    return _Endings.asked is not None


def stop() -> None:
    """End here, where nothing is lost.

    Raises:
        Stopped: always.
    """
    raise Stopped(_Endings.asked or signal.SIGTERM)


def stop_if_asked() -> None:
    """End here if this process has been asked to (see `stop`)."""
    if asked_to_stop():
        stop()


@contextmanager
def patiently() -> Iterator[None]:
    """Work that ends only where it says so (`stop_if_asked`)."""
    stop_if_asked()
    _Endings.patient = True
    try:
        yield
    finally:
        _Endings.patient = False


def _end_now(number: int) -> None:
    """End without clean-up; child processes of ours notice and end, too."""
    show_cursor = b"\x1b[?25h" if sys.stderr.isatty() else b""
    os.write(2, show_cursor + b"Interrupted. Run the same command again to continue.\n")
    os._exit(128 + number)


# --- processes that belong together -----------------------------------------------------------


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Let this process get a signal as soon as its parent is gone.

    Args:
        parent: the parent's process id, which may be gone already.
        number: the signal.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def end_with_launcher() -> None:
    """Come to an end (as on SIGTERM) when the launcher that started this process is gone.

    Without a launcher nothing happens: a command that a shell started goes on without it, as
    nohup asks.
    """
    parent = os.getppid()
    if "RANK" in os.environ or _is_launcher(parent):
        end_with_parent(parent, signal.SIGTERM)


def _is_launcher(process: int) -> bool:
    import psutil

    try:
        words = psutil.Process(process).cmdline()
    except psutil.Error:
        return False
    marks = ("accelerate", "torchrun", "torch.distributed")
    return any(Path(word).name.startswith(marks) for word in words[:4])


# --- what a terminal would obey -------------------------------------------------------------------


class _Guarded:
    """A text stream that shows control characters instead of passing them on.

    Attributes:
        unguarded: the stream that is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        self.unguarded.write(visible_lines(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Let nothing printed here move a terminal's cursor, turn its text around, or tell a password.

    Names, messages and rows come from files that anyone may have written. Their escapes, NUL and
    direction marks are spelled out, and credentials in addresses left out, whoever prints them:
    the command, a library's warning, a log.
    """
    streams = sys.stdout, sys.stderr
    guards = [s if isinstance(s, _Guarded) else _Guarded(s) for s in streams]
    sys.stdout, sys.stderr = guards
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def unguarded_output() -> TextIO:
    """Return the standard output for who draws on a terminal and makes its texts visible itself."""
    stream: TextIO = getattr(sys.stdout, "unguarded", sys.stdout)
    return stream


@contextmanager
def progress_apart(wanted: bool) -> Iterator[None]:
    """Send what is printed meanwhile to standard error, also by libraries and child processes.

    Args:
        wanted: False: leave it as it is. True where standard output is to hold one document.
    """
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


# --- files that are none --------------------------------------------------------------------------

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def special_kind(path: Path) -> str | None:
    """Return what a path is that is neither file nor folder, such as "a named pipe"; else None.

    Reading one may wait for ever or never end. Links are followed; None too where nothing is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a path that holds NUL
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)
