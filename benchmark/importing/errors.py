"""The one error of a file that cannot be used as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.failures import first_line
from benchmark.shell import special_kind


class SourceError(ValueError):
    """A file of logits cannot be used; the message names file, row and column, and the fix."""


def require_file(path: Path) -> None:
    """Refuse what is no file and whose reading may never end: a named pipe, a device.

    Raises:
        SourceError: naming the path and what it is.
    """
    kind = special_kind(path)
    if kind is not None:
        raise SourceError(f"{path}: is {kind}, not a file: save its content and name that")


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Name the file in whatever a library raises on it: damaged files bring up anything."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{where}: no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise SourceError(f"{where}: {error.strerror}") from None
    except Exception as error:
        raise SourceError(
            f"{where}: cannot be read, the file seems damaged ({first_line(error)[:200]}); "
            "save it again"
        ) from None
