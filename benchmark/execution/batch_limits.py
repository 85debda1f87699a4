"""How many rows go through a model at once where no gradient is needed."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from benchmark.execution.agreement import is_out_of_memory, together, vote
from benchmark.models import (
    BatchLimit,
    EncodedSplit,
    Padding,
    evaluation_batches,
    load_batches,
)

_ON_CPU = BatchLimit(rows=32, tokens=2048)
"""What goes through a layer then stays in a core's cache: on MiniLM and small image models twice
as fast as 256 rows."""
_SMALLEST = BatchLimit(rows=32, tokens=4096)
_DOUBLINGS = 5
_SHARE_OF_MEMORY = 0.5


def batch_limit(
    model: PreTrainedModel, split: EncodedSplit, accelerator: Accelerator, padding: Padding
) -> BatchLimit:
    """Return how much of a split goes through a model at once, the same on all processes.

    On a GPU it is doubled while the longest rows leave half of the free memory. That depends on
    the device alone, not on how busy it is, so that a repeated run repeats its rounding too.

    Args:
        model: in evaluation mode, on the accelerator's device.
        split: the rows.
        accelerator: this launch.
        padding: of text inputs.
    """
    if accelerator.device.type != "cuda":
        return _ON_CPU
    doublings = together("batch size", lambda: _fitting(model, split, accelerator, padding))
    return _doubled(min(vote("batch size for all", doublings)))


def _doubled(times: int) -> BatchLimit:
    return BatchLimit(_SMALLEST.rows << times, _SMALLEST.tokens << times)


@torch.inference_mode()
def _fitting(
    model: PreTrainedModel, split: EncodedSplit, accelerator: Accelerator, padding: Padding
) -> int:
    """Return the largest number of doublings that was seen to fit."""
    device, tried = accelerator.device, 0
    torch.cuda.empty_cache()
    used = torch.cuda.memory_allocated(device)
    room = torch.cuda.mem_get_info(device)[0] * _SHARE_OF_MEMORY
    for times in range(1, _DOUBLINGS + 1):
        batches = evaluation_batches(split.lengths, len(split), _doubled(times))
        torch.cuda.reset_peak_memory_stats(device)
        try:
            inputs = next(load_batches(split, batches[:1], padding, device))
            del inputs["labels"]
            with accelerator.autocast():
                model(**inputs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        if torch.cuda.max_memory_allocated(device) - used > room:
            break
        tried = times
        if len(batches) == 1:
            break
    torch.cuda.empty_cache()
    return tried
