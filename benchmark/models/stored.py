"""Files that runs share and that can be made anew: what is damaged is set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmark.records import DamagedError, set_aside


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
