"""Agreement across the processes of a launch, so that none goes on or waits alone.

Processes meet only in votes and in exchanges of data that begin with a vote (those of a training's
gradients with the vote of the step before, see `gradients`). A vote brings
along how many there were before and where it stands, so that processes that have parted notice it
at the next one instead of mixing what belongs to different runs. An error that a process runs into
between votes is brought to the next vote (see `settle`). An exchange that does not come about
within `COLLECTIVE_TIMEOUT`, or whose other end is gone, ends the launch with the reason.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from benchmark.execution.launch import COLLECTIVE_TIMEOUT, launched_processes, process_index
from benchmark.failures import OtherProcessError, RunError, first_line
from benchmark.shell import asked_to_stop, stop

ResultT = TypeVar("ResultT")

_AGREED = "_benchmark_agreed"
_votes = 0


class ProcessesPartedError(RuntimeError):
    """The processes of this launch no longer do the same; nothing but ending it is safe."""


def vote(point: str, value: int = 0, error: BaseException | None = None) -> list[int]:
    """Meet the other processes at `point` and return the value that each brings, in rank order.

    Args:
        point: what this process is about to do; the same on all.
        value: a number to share.
        error: what went wrong here since the last vote, if anything did.

    Raises:
        BaseException: `error` itself, on the process that brought it.
        OtherProcessError: on the processes that brought none, where another did.
        ProcessesPartedError: the processes are at different points.
    """
    global _votes
    if launched_processes() == 1:
        if error is not None:
            raise error
        return [value]
    _votes += 1
    ballots = collective(lambda: _gather([int(error is not None), _votes, _number(point), value]))
    if error is not None:
        setattr(error, _AGREED, True)
        raise error
    if any(ballot[0] for ballot in ballots):
        raise OtherProcessError("another process of this launch failed; its message says why")
    if any(ballot[1:3] != ballots[0][1:3] for ballot in ballots):
        raise ProcessesPartedError(
            f"the processes of this launch are at different points (this one: {point}), so that "
            "their results would mix"
        )
    return [ballot[3] for ballot in ballots]


def together(point: str, work: Callable[[], ResultT]) -> ResultT:
    """Do `work` on every process, then vote; if it failed on any, raise on all (see `vote`)."""
    try:
        result = work()
    except ProcessesPartedError:
        raise
    except Exception as error:
        vote(point, error=error)
        raise
    vote(point)
    return result


def from_first(point: str, work: Callable[[], ResultT]) -> ResultT:
    """Do `work` on the first process and return its result on all; if it fails, raise on all."""
    if launched_processes() == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    result = together(point, lambda: work() if process_index() == 0 else None)
    shared: ResultT = exchange(f"{point}, shared", lambda: broadcast_object_list([result])[0])
    return shared


def stop_point(point: str) -> None:
    """End here, all processes together, if any of them has been asked to (see `shell.stop`)."""
    if any(vote(point, int(asked_to_stop()))):
        stop()


def settle(error: BaseException) -> None:
    """Let the other processes know of an error that was raised here outside any vote.

    They learn of it at the vote that they come to next; all then give up the same run.

    Raises:
        ProcessesPartedError: they cannot be reached.
    """
    known = isinstance(error, OtherProcessError) or getattr(error, _AGREED, False)
    if launched_processes() == 1 or known:
        return
    try:
        vote("trouble", error=error)
    except ProcessesPartedError:
        raise
    except BaseException:
        return  # the same error


def gather_objects(own: ResultT) -> list[ResultT]:
    """Return what each process brings, in rank order, on all of them."""
    if launched_processes() == 1:
        return [own]
    from accelerate.utils import gather_object

    found: list[ResultT] = exchange("gather", lambda: gather_object([own]))
    return found


def exchange(point: str, call: Callable[[], ResultT]) -> ResultT:
    """Vote, then call a collective operation with nothing in between that could fail on one.

    Raises:
        OtherProcessError: another process ran into trouble before.
        ProcessesPartedError: another process is gone, or did not come within the timeout.
    """
    vote(point)
    return collective(call)


def collective(call: Callable[[], ResultT]) -> ResultT:
    """Call a part of a collective operation, and tell its errors as what they mean.

    Raises:
        ProcessesPartedError: another process is gone, or did not come within the timeout.
    """
    try:
        return call()
    except Exception as error:
        raise ProcessesPartedError(
            "another process of this launch is gone or did not answer within "
            f"{_in_words(COLLECTIVE_TIMEOUT)} ({first_line(error)})"
        ) from error


def _in_words(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} minutes"


def _number(point: str) -> int:
    return zlib.crc32(point.encode())


def _gather(values: list[int]) -> list[list[int]]:
    """Return the numbers of each process, in rank order."""
    import torch

    own = torch.tensor(values, dtype=torch.int64)
    rows = [torch.empty_like(own) for _ in range(launched_processes())]
    torch.distributed.all_gather(rows, own, group=_hosts())
    return [[int(number) for number in row.tolist()] for row in rows]


@functools.cache
def _hosts() -> Any:
    """Return the group in which processes vote: on the host, so that no vote waits for a device."""
    import torch
    from accelerate import PartialState

    PartialState()  # the launch's processes meet here, if they have not yet
    return torch.distributed.new_group(timeout=COLLECTIVE_TIMEOUT, backend="gloo")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the accelerator's memory ran out."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def largest_fitting(attempt: Callable[[int], None], largest: int) -> int:
    """Return the largest of `largest`, `largest`/2, ... rows for which `attempt` fits.

    All processes settle on the same number, that of the tightest one, so that they go on
    cutting batches alike.

    Args:
        attempt: does the work for a number of rows; runs out of memory if they are too many.
        largest: the number of rows to start from, the same on all processes.

    Raises:
        RunError: not even one row fits.
    """
    rows = largest
    while rows >= 1:
        error = _error_of(attempt, rows)
        out_of_memory = error is not None and is_out_of_memory(error)
        unfit = vote(f"{rows} rows", int(out_of_memory), None if out_of_memory else error)
        if not any(unfit):
            return rows
        del error  # its traceback keeps the failed attempt's tensors alive
        _release_memory()
        rows //= 2
    raise RunError(
        "out of memory with a single row on the device: use mixed precision, a shorter "
        "max_length, or a smaller model"
    )


def _error_of(attempt: Callable[[int], None], rows: int) -> Exception | None:
    try:
        attempt(rows)
    except Exception as error:
        return error
    return None


def _release_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
