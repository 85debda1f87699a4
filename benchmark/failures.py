"""Typed outcomes of a run: why it has no result, and whose turn it is."""

from __future__ import annotations

import traceback

from benchmark.markup import without_credentials
from benchmark.records import Failure, ResultsError, Status


class RunError(RuntimeError):
    """A run cannot go on, for a reason a person can act on; no traceback is needed."""

    status: Status = "failed"


class UnavailableError(RunError):
    """An input (checkpoint, data, package) is not to be had here; it may be elsewhere."""

    status = "unavailable"


class OtherProcessError(RunError):
    """This process is well, but another one of the same launch failed."""


def outcome(error: BaseException, stage: str) -> tuple[Status, Failure]:
    """Return the status and the stored failure that `error`, raised in `stage`, amounts to."""
    status: Status = error.status if isinstance(error, RunError) else "failed"
    expected = isinstance(error, RunError | ResultsError)
    if isinstance(error, OSError) and error.filename is not None:  # it says which file and why
        expected, message = True, f"{error.filename}: {error.strerror}"
    else:
        message = first_line(error)
    return status, Failure(
        stage=stage,
        kind=type(error).__name__,
        message=without_credentials(message),
        details="" if expected else without_credentials(_trace(error)),
    )


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its representation where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else repr(error)
