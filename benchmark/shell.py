"""What every command does about its shell.

Folders as arguments, Ctrl-C, pipes, files that are none, and what a terminal would obey.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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

    130: Ctrl-C. 2: a file cannot be read or written. 0: whoever read the output has seen enough,
    as `| head` does. What it prints is guarded (see `guarded_output`).
    """

    @functools.wraps(main)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
        with guarded_output():
            return ended(*args, **kwargs)

    def ended(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
        try:
            code = main(*args, **kwargs)
            sys.stdout.flush()  # here, where a closed pipe can be told from an error
        except KeyboardInterrupt:
            print("\nInterrupted. Run the same command again to continue.", file=sys.stderr)
            return 130
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
