"""Gradients summed over the processes of a launch while the backward pass goes on.

They lie in buckets, each one piece of memory of which every parameter's `grad` is a view: what
autograd adds up is what is exchanged, and there is no second copy. A bucket's sum is started as
soon as the last of its gradients is there, as torch's DistributedDataParallel does (Li et al. 2020,
arXiv:2006.15704). Unlike there, a process may have no rows of a batch, and one in trouble goes
through the exchanges of the step with whatever it has: they are the same number in the same order
on all, so that nobody waits for it and the next vote tells of the error. docs/scaling.md says why
this and not DistributedDataParallel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from benchmark.execution.agreement import ProcessesPartedError, collective

BUCKET_BYTES = 25 * 2**20
"""Torch's own choice: few enough exchanges, the first of them early."""
_ALIGNMENT = 16
"""Elements at whose multiples views begin, so that kernels read them in whole vectors."""


class _Bucket:
    """Gradients that are exchanged in one piece."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = parameters
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + _aligned(parameter.numel()))
        first = parameters[0]
        # After the gradients a number for each parameter: how many processes have used it.
        self.flat = torch.zeros(
            starts[-1] + len(parameters), dtype=first.dtype, device=first.device
        )
        self.views = [
            self.flat[start : start + parameter.numel()].view_as(parameter)
            for start, parameter in zip(starts, parameters, strict=False)
        ]
        self.used = self.flat[starts[-1] :]
        self.begin()

    def begin(self) -> None:
        self.flat.zero_()
        self.used.fill_(1)
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view
        self.unused = set(range(len(self.parameters)))
        self.awaited = set(self.unused)

    def leave_out_unused(self) -> None:
        """Take the gradient from parameters that no process has used, as if there were one."""
        if self.unused:
            processes = self.used.tolist()
            for place in self.unused:
                if not processes[place]:
                    self.parameters[place].grad = None


class GradientSum:
    """The sum over processes of the gradients of a training's steps.

    Args:
        parameters: what is trained, in the same order on all processes; none: nothing is done.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._buckets = [_Bucket(some) for some in _in_buckets(parameters)]
        self._works: list[distributed.Work] = []
        self._started = len(self._buckets)
        self._is_last_pass = False
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket, place))
            for bucket in self._buckets
            for place, parameter in enumerate(bucket.parameters)
        ]

    @contextmanager
    def of_step(self) -> Iterator[None]:
        """Sum the gradients of the backward passes within, by the end of the block.

        All processes have to come here from a vote, and to go on to one. An error within is raised
        after the exchanges.

        Raises:
            ProcessesPartedError: another process is gone.
        """
        try:
            self.begin()
            yield
        except ProcessesPartedError:
            raise
        except Exception:
            self._finish()
            raise
        self._finish()
        for bucket in self._buckets:
            bucket.leave_out_unused()

    def begin(self) -> None:
        """Set gradients to zero; what follows adds to them and, in itself, exchanges nothing."""
        self._started, self._is_last_pass = 0, False
        for bucket in self._buckets:
            bucket.begin()

    def last_pass(self) -> None:
        """Exchange what the next backward pass, the step's last here, has finished with."""
        self._is_last_pass = True

    def close(self) -> None:
        """Leave the parameters as they were."""
        for hook in self._hooks:
            hook.remove()
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.grad = None
        self._hooks, self._buckets = [], []

    def _arrived(self, bucket: _Bucket, place: int, _: Tensor) -> None:
        bucket.unused.discard(place)
        if not self._is_last_pass:
            return
        if place not in bucket.awaited:
            raise RuntimeError(
                "a gradient came in two parts, as with re-entrant checkpointing of weights that "
                "are used several times: start this model as one process"
            )
        bucket.awaited.remove(place)
        while self._started < len(self._buckets) and not self._buckets[self._started].awaited:
            self._start_next()

    def _start_next(self) -> None:
        flat = self._buckets[self._started].flat
        self._started += 1
        work = collective(lambda: distributed.all_reduce(flat, async_op=True))
        assert work is not None
        self._works.append(work)

    def _finish(self) -> None:
        """Start the exchanges that are left, and wait for all."""
        for bucket in self._buckets[self._started :]:
            for place in bucket.unused:
                bucket.used[place] = 0
            self._start_next()
        works, self._works = self._works, []
        for work in works:
            collective(work.wait)


def _aligned(elements: int) -> int:
    return -(-elements // _ALIGNMENT) * _ALIGNMENT


def _in_buckets(parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Cut parameters, last ones first as their gradients come, into buckets of one data type."""
    bucket: list[Parameter] = []
    size = 0
    for parameter in reversed(parameters):
        too_much = size + parameter.nbytes > BUCKET_BYTES
        if bucket and (too_much or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket
