"""A disk that fills up, or becomes read-only, at the n-th write below a folder."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """Counts writes below `root`; from the one numbered `fails_at` on, all fail (None: none does).

    Attributes:
        writes: how many there were.
        failed: whether one failed.
    """

    def __init__(self, root: Path, number: int, fails_at: int | None) -> None:
        self.root, self.number, self.fails_at = str(root), number, fails_at
        self.writes, self.failed = 0, False

    def write(self, path: Any) -> None:
        """Note a write to `path`, or fail as the operating system would."""
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.root):
            return
        self.writes += 1
        if self.fails_at is not None and self.writes >= self.fails_at:
            self.failed = True
            raise OSError(self.number, os.strerror(self.number), os.fspath(path))

    def write_tensors(self, path: Any) -> None:
        """As `write`, with the error that safetensors makes of it."""
        try:
            self.write(path)
        except OSError as error:
            message = f"Error while serializing: I/O error: {error.strerror}"
            raise SafetensorError(f"{message} (os error {error.errno})") from None


@contextmanager
def failing_disk(  # noqa: C901 - one small function for each operation
    root: Path, number: int = errno.ENOSPC, fails_at: int | None = None
) -> Iterator[Disk]:
    """Let the operations that write below `root` go through a `Disk`."""
    disk = Disk(root, number, fails_at)

    def watched(function: Callable[..., Any], position: int = 0) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            disk.write(args[position])
            return function(*args, **kwargs)

        return call

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            disk.write(path)
        return real_open(path, mode, *args, **kwargs)

    def opened_low(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & WRITING:
            disk.write(path)
        return real_low(path, flags, *args, **kwargs)

    def synced(descriptor: int) -> None:
        disk.write(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def stored(tensors: Any, path: Any, metadata: Any = None) -> None:
        disk.write_tensors(path)
        real_store(tensors, path, metadata)

    real_open, real_low, real_sync = io.open, os.open, os.fsync
    real_store = safetensors.numpy.serialize_file
    with pytest.MonkeyPatch.context() as patch:
        for module in (io, builtins):
            patch.setattr(module, "open", opened)
        patch.setattr(os, "open", opened_low)
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "mkdir", watched(os.mkdir))
        patch.setattr(os, "replace", watched(os.replace, 1))
        patch.setattr(os, "rename", watched(os.rename, 1))
        for package in (safetensors.numpy, safetensors.torch):
            patch.setattr(package, "serialize_file", stored)
        yield disk
