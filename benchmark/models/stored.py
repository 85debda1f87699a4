"""Files that runs share and that can be made anew: what is damaged is set aside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmark.records import (
    DamagedError,
    explained_errors,
    fsync_path,
    seal_folder,
    set_aside,
    sole_maker,
    verify_folder,
)


def is_whole(path: Path, check: Callable[[Path], object]) -> bool:
    """Say whether a file or folder is there and as it was written; if not, set it aside.

    Args:
        path: what is to be read.
        check: raises `FileNotFoundError` where nothing is, and `DamagedError` for anything that
            is not as it was written.
    """
    try:
        check(path)
    except FileNotFoundError:
        return False
    except DamagedError as error:
        set_aside(error)
        return False
    return True


def make_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Make a folder of files unless it is there and whole; one process does, the others wait.

    Args:
        folder: where.
        write: fills an empty folder, which is then sealed and moved to its place.
    """
    with sole_maker(folder):
        for left in folder.parent.glob(f".tmp-{folder.name}-*"):  # of one that died
            shutil.rmtree(left, ignore_errors=True)
        if is_whole(folder, verify_folder):
            return
        with explained_errors(folder):
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".tmp-{folder.name}-"))
        try:
            write(temporary)
            with explained_errors(folder):
                seal_folder(temporary)
                os.replace(temporary, folder)
                fsync_path(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
