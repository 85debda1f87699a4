"""Forward pass over a split: every row exactly once, back in its order."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from benchmark.arrays import Float32Array, IntArray
from benchmark.execution.agreement import exchange, is_out_of_memory, together, vote
from benchmark.execution.batch_limits import batch_limit
from benchmark.execution.progress import Progress
from benchmark.failures import RunError
from benchmark.models import (
    BatchLimit,
    EncodedSplit,
    Padding,
    evaluation_batches,
    load_batches,
)
from benchmark.records import LogitsSplit


def predict_logits(
    model: PreTrainedModel,
    split: EncodedSplit,
    *,
    accelerator: Accelerator,
    padding: Padding,
    progress: Progress,
    limit: BatchLimit | None = None,
) -> LogitsSplit:
    """Return the logits of every row of `split`, in the split's order, on every process.

    Args:
        model: a model on the accelerator's device; put into evaluation mode.
        split: n encoded rows.
        accelerator: this launch; its processes share the rows.
        padding: of text inputs.
        progress: told of each row done by this process.
        limit: how much goes through at once; None: found by trying (see `batch_limit`).

    Raises:
        RunError: the outputs are not finite, not [n, K], or a row is missing or doubled.
    """
    model.eval()
    limit = limit or batch_limit(model, split, accelerator, padding)
    batches = evaluation_batches(split.lengths, len(split), limit)
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    positions = np.concatenate([*mine, np.empty(0, dtype=np.int64)])
    outputs = together(
        "forward pass", lambda: _forward(model, split, mine, accelerator, padding, progress)
    )
    positions, outputs = _gather_rows(accelerator, positions, outputs)
    logits = _in_order(positions, outputs, len(split))
    return LogitsSplit(split.ids, logits, split.labels)


@torch.inference_mode()
def _forward(
    model: PreTrainedModel,
    split: EncodedSplit,
    batches: list[IntArray],
    accelerator: Accelerator,
    padding: Padding,
    progress: Progress,
) -> Tensor:
    outputs = torch.empty(0, int(model.config.num_labels or 0))
    done, rows_of_all = 0, sum(map(len, batches))
    for inputs in load_batches(split, batches, padding, accelerator.device):
        rows = len(inputs.pop("labels"))
        with accelerator.autocast():
            logits = _forward_in_parts(model, inputs, rows)
        if logits.ndim != 2:
            raise RunError(
                f"the model's logits have shape {tuple(logits.shape)}, not [rows, classes]"
            )
        if not done:
            outputs = torch.empty(rows_of_all, logits.shape[1], pin_memory=logits.is_cuda)
        # The device goes on with the next batch meanwhile; the host waits once, at the end.
        outputs[done : done + rows].copy_(logits.float(), non_blocking=True)
        done += rows
        progress.advance(rows)
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize(accelerator.device)
    return outputs


def _forward_in_parts(model: PreTrainedModel, inputs: dict[str, Tensor], rows: int) -> Tensor:
    """Forward a batch; where memory runs out, in halves (rows are independent)."""
    try:
        logits: Tensor = model(**inputs).logits
        return logits
    except Exception as error:
        if rows == 1 or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    half = rows // 2
    parts = [{k: v[:half] for k, v in inputs.items()}, {k: v[half:] for k, v in inputs.items()}]
    return torch.cat(
        [
            _forward_in_parts(model, part, size)
            for part, size in zip(parts, (half, rows - half), strict=True)
        ]
    )


def _gather_rows(
    accelerator: Accelerator, positions: IntArray, outputs: Tensor
) -> tuple[IntArray, Tensor]:
    """Bring all processes' rows together; shares of unequal size are padded, then cut again."""
    if accelerator.num_processes == 1:
        return positions, outputs
    # A process without rows does not know how many columns there are.
    width = max(vote("columns", outputs.shape[1] if len(positions) else 0))
    longest = max(vote("rows", len(positions)))
    # Row positions travel as a column: float64 holds them, and float32 values, exactly.
    own = torch.full((longest, 1 + width), -1.0, dtype=torch.float64)
    if len(positions):
        own[: len(positions), 0] = torch.from_numpy(positions)
        own[: len(positions), 1:] = outputs
    own = own.to(accelerator.device)
    parts = [torch.empty_like(own) for _ in range(accelerator.num_processes)]
    exchange("logits", lambda: torch.distributed.all_gather(parts, own))
    whole = torch.cat(parts).cpu()
    whole = whole[whole[:, 0] >= 0]
    return whole[:, 0].long().numpy(), whole[:, 1:].float()


def _in_order(positions: IntArray, outputs: Tensor, n_rows: int) -> Float32Array:
    if not np.array_equal(np.sort(positions), np.arange(n_rows)):
        raise RunError(
            f"the forward pass covered {len(np.unique(positions))} of {n_rows} rows with "
            f"{len(positions)} outputs; each row must come back exactly once"
        )
    logits = np.empty(tuple(outputs.shape), dtype=np.float32)
    logits[positions] = outputs.numpy()
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise RunError(
            f"the model's output for row {row} is not finite: training diverged or the mixed "
            "precision overflows; use bf16 or no mixed precision"
        )
    return logits
