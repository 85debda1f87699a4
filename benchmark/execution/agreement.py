"""Agreement across the processes of a launch when one of them runs into trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from benchmark.failures import OtherProcessError, RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

ResultT = TypeVar("ResultT")


def agree(accelerator: Accelerator, error: BaseException | None) -> None:
    """Raise on every process if any of them brings an error; otherwise return on all.

    A process that raises alone leaves the others waiting in their next collective call
    until that times out. Every process must call this at the same point.

    Raises:
        BaseException: `error` itself, on the process that brought it.
        OtherProcessError: on the processes that brought none.
    """
    if error is None and any(_gather(accelerator, 0)):
        raise OtherProcessError("another process of this launch failed; its message says why")
    if error is not None:
        _gather(accelerator, 1)
        raise error


def together(accelerator: Accelerator, work: Callable[[], ResultT]) -> ResultT:
    """Do `work` on every process; if it fails on any, raise on all (see `agree`)."""
    try:
        result = work()
    except Exception as error:
        agree(accelerator, error)
        raise
    agree(accelerator, None)
    return result


def _gather(accelerator: Accelerator, value: int) -> list[int]:
    """Return the value that each process brings, in rank order."""
    if accelerator.num_processes == 1:
        return [value]
    import torch

    values = accelerator.gather(torch.tensor([value], device=accelerator.device))
    return [int(v) for v in values.tolist()]


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the accelerator's memory ran out."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def largest_fitting(accelerator: Accelerator, attempt: Callable[[int], None], largest: int) -> int:
    """Return the largest of `largest`, `largest`/2, ... rows for which `attempt` fits.

    All processes settle on the same number, that of the tightest one, so that they go on
    cutting batches alike.

    Args:
        accelerator: the launch whose processes must agree.
        attempt: does the work for a number of rows; runs out of memory if they are too many.
        largest: the number of rows to start from.

    Raises:
        RunError: not even one row fits.
    """
    rows = largest
    while rows >= 1:
        error = _error_of(attempt, rows)
        out_of_memory = error is not None and is_out_of_memory(error)
        agree(accelerator, None if out_of_memory else error)
        if not any(_gather(accelerator, int(out_of_memory))):
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
