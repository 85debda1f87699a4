"""What every command does about its shell: folders as arguments, Ctrl-C, pipes, unusable files."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

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
    as `| head` does.
    """

    @functools.wraps(main)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
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
