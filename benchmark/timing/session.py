"""One model under measurement: its inputs on their device, and the calls that are timed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmark.data import Rows
from benchmark.records import Region
from benchmark.timing.device import forward_call, logits_of, shape_of, stopwatch
from benchmark.timing.durations import Durations
from benchmark.timing.job import TimingSample
from benchmark.timing.loops import Stopwatch

if TYPE_CHECKING:  # torch takes seconds to import; whoever holds a model has done so already.
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Calls:
    """The timed calls of one region at one batch size.

    Attributes:
        watch: makes and times a call.
        queries: what it is called with, in the sample's order.
        shape: a query to what decides which kernels it needs, for the warm-up.
    """

    watch: Stopwatch[Any]
    queries: Sequence[Any]
    shape: Callable[[Any], Hashable]


@dataclass
class Session:
    """What one measurement works on.

    Attributes:
        model: in evaluation mode, on its device.
        sample: what to time it on.
        temperature: > 0, for the end-to-end region.
        seed: of the order in which rows are issued.
        durations: of each part.
        device: the model's.
        single_rows: the sample's rows one by one, encoded, on the device.
    """

    model: nn.Module
    sample: TimingSample
    temperature: float
    seed: int
    durations: Durations
    device: torch.device = field(init=False)
    single_rows: list[dict[str, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.single_rows = self._batches(1)

    def calls(self, region: Region, size: int) -> Calls:
        """Return the calls of a region, `size` rows each; the last may have fewer."""
        if region == "end_to_end":
            chunks = self.sample.chunks(size)
            return Calls(stopwatch(self.end_to_end, self.device), chunks, len)
        batches = self.single_rows if size == 1 else self._batches(size)
        return Calls(stopwatch(forward_call(self.model), self.device), batches, shape_of)

    def _batches(self, size: int) -> list[dict[str, Tensor]]:
        return [self.sample.encode_on(self.device, rows) for rows in self.sample.chunks(size)]

    def logits(self, rows: Rows) -> Tensor:
        """Return the model's logits of raw rows, on the device."""
        return logits_of(self.model(**self.sample.encode_on(self.device, rows)))

    def end_to_end(self, rows: Rows) -> Tensor:
        """Return the probabilities of raw rows, on the host."""
        import torch

        return torch.softmax(self.logits(rows).float() / self.temperature, dim=-1).cpu()
