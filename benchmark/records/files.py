"""Files written so that a reader sees the old one or the whole new one, whatever happens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ResultsError(ValueError):
    """A file under results/ cannot be used; the message names it and says what to do."""


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
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable; not every platform can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (see `atomic_path`).

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "greeting.txt", "hello")
    ...     (Path(folder) / "greeting.txt").read_text()
    'hello'
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
