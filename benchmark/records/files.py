"""Files written so that a reader sees the old one or the whole new one, whatever happens."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ResultsError(ValueError):
    """A file under results/ cannot be used; the message names it and says what to do."""


class DamagedError(ResultsError):
    """A file is not as it was written. The command that makes it sets it aside and makes it anew.

    Attributes:
        path: the damaged file, or the folder that it is a part of.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"{self.path}: damaged ({self.reason}); run the command that made it again, which sets "
            "it aside and makes it anew"
        )


class OtherVersionError(ResultsError):
    """A whole file was written by another version of this program; it is left as it is."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path}: {what}; it is left as it is: use the version of this program that wrote it, "
            "or move the run's folder away"
        )


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and move it into place.

    A reader sees the old file or the whole new one, also after a power cut. On an error
    nothing changes and the temporary file is removed.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "notes" / "today.txt"  # folders are made
    ...     with atomic_path(path) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     path.read_text()
    'whole'
    """
    with explained_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            fsync_path(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
            fsync_path(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    if path.is_dir():
        if os.name != "posix":  # not every platform can open a folder
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let an error of reading say whether `path` is missing, damaged or not to be read.

    Raises:
        FileNotFoundError: nothing is there.
        DamagedError: a folder is in its place, or its text is not UTF-8.
        ResultsError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    except IsADirectoryError:
        raise DamagedError(path, "a folder is in its place") from None
    except UnicodeDecodeError:
        raise DamagedError(path, "it is not UTF-8") from None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None


# --- what a full disk says ------------------------------------------------------------------------

_FULL = (errno.ENOSPC, errno.EDQUOT)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def explained_errors(path: Path) -> Iterator[None]:
    """Let an error of writing name `path`, and say how full the disk is and what is kept.

    Raises:
        OSError: with `path` as its file name.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        raise OSError(number, _explanation(number, path), str(path)) from error


def _error_number(error: Exception) -> int | None:
    """Return the number of an operating system's error, also of one that safetensors passes on."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST_ERROR.search(str(error))
    return None if found is None else int(found[1])


def _explanation(number: int, path: Path) -> str:
    said = os.strerror(number)
    if number in _FULL:
        return (
            f"{said} ({_free_space(path)}); nothing that was finished is lost: make room and run "
            "the same command again"
        )
    if number == errno.EROFS:
        return f"{said}; nothing was changed"
    if number in (errno.ENOTDIR, errno.EEXIST):
        blocker = next((place for place in path.parents if place.is_file()), path)
        return f"{blocker.name} is a file where a folder should be; move it away"
    return said


def _free_space(path: Path) -> str:
    for place in path.parents:
        try:
            return f"{shutil.disk_usage(place).free / 2**20:,.0f} MiB free on its disk"
        except OSError:
            continue
    return "free space unknown"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (see `atomic_path`).

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "greeting.txt", "hello")
    ...     (Path(folder) / "greeting.txt").read_text()
    'hello'
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
