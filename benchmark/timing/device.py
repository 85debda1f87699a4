"""The device that is timed: waiting for it, its clock and memory, and what to record about it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.records import Setting, available_cores, processor_name
from benchmark.timing.loops import Stopwatch

if TYPE_CHECKING:  # torch takes seconds to import; the functions below import it when called.
    import torch
    from torch import Tensor, nn

# Rows whose FLOPs are counted; text rows differ in length, so one would not do.
_FLOP_ROWS = 16


def describe(model: nn.Module, device: torch.device) -> Setting:
    """Record what latency depends on besides the model's weights."""
    import torch

    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return Setting(
        device=str(device),
        device_name=device_name(device),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        attention=_attention(model, device),
        tf32=_rounds_to_tf32(device),
        compiled=_is_compiled(model),
        inter_op_threads=torch.get_num_interop_threads(),
        available_threads=available_cores(),
        affinity=tuple(sorted(affinity)),
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        other_device_processes=_other_processes(device),
    )


def _rounds_to_tf32(device: torch.device) -> bool:
    """Say whether products of float32 are rounded; torch by itself does so in convolutions only."""
    import torch

    products = torch.get_float32_matmul_precision() != "highest"
    return device.type == "cuda" and (products or torch.backends.cudnn.allow_tf32)


def device_name(device: torch.device) -> str:
    """Return the GPU's or the processor's name."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


def _attention(model: nn.Module, device: torch.device) -> str:
    """Implementation that the model asks for and, for torch's own, the kernels it may pick."""
    import torch

    asked = getattr(getattr(model, "config", None), "_attn_implementation", None) or "none"
    if asked != "sdpa" or device.type != "cuda":
        return str(asked)
    backends: Any = torch.backends.cuda  # its switches are not annotated
    allowed = {
        "flash": backends.flash_sdp_enabled(),
        "efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return f"sdpa ({', '.join(name for name, on in allowed.items() if on)})"


def _is_compiled(model: nn.Module) -> bool:
    # torch.compile(model) wraps the module; model.compile() sets this attribute instead.
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def _other_processes(device: torch.device) -> int | None:
    """Count other compute processes on a GPU; None where that cannot be read."""
    if device.type != "cuda":
        return None
    import torch

    query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    query += ["--id", f"GPU-{torch.cuda.get_device_properties(device).uuid}"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)  # nosec B603 # fixed arguments
    except (OSError, subprocess.SubprocessError):
        return None
    pids = {int(line) for line in answer.stdout.split() if line.isdigit()}
    return len(pids - {os.getpid()})


def logits_of(output: Any) -> Tensor:
    """Return the logits [batch, classes] of whatever a model returned."""
    logits = getattr(output, "logits", output)
    return logits[0] if isinstance(logits, tuple) else logits  # type: ignore[no-any-return]


def forward_call(model: nn.Module) -> Callable[[Mapping[str, Tensor]], object]:
    """Return the call that region `forward` times: inputs on the device to logits on it."""

    def call(batch: Mapping[str, Tensor]) -> object:
        return model(**batch)

    return call


def cuda_synchronizer(device: torch.device) -> Callable[[], None]:
    """Return a call that waits until the GPU has nothing left to do."""
    import torch

    def synchronize() -> None:
        torch.cuda.synchronize(device)

    return synchronize


def stopwatch(call: Callable[[Any], object], device: torch.device) -> Stopwatch[Any]:
    """Time a call as its device needs it: wait for a GPU, not for a CPU."""
    if device.type != "cuda":
        return Stopwatch(call)
    return Stopwatch(call, cuda_synchronizer(device))


def shape_of(batch: Mapping[str, Tensor]) -> Hashable:
    """Return what decides which kernels a batch needs, for the warm-up."""
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in batch.items())


class EventCall:
    """A call that also measures itself with a pair of CUDA events.

    One pair serves every query, since a single-stream query is waited for; `prepare` reads it
    before the next query, outside the host's timed stretch.
    """

    def __init__(
        self, call: Callable[[Any], object], device: torch.device, event: type | None = None
    ) -> None:
        import torch

        self._call = call
        self._start, self._end = ((event or torch.cuda.Event)(enable_timing=True) for _ in "ab")
        self._pending = False
        self._times_ms: list[float] = []
        self.synchronize = cuda_synchronizer(device)

    def __call__(self, batch: Any) -> None:
        """Make the call between two events."""
        self._start.record()
        self._call(batch)
        self._end.record()
        self._pending = True

    def prepare(self) -> None:
        """Wait for the device and note the time of the query before, if any."""
        self.synchronize()
        if self._pending:
            self._times_ms.append(self._start.elapsed_time(self._end))
            self._pending = False

    def forget(self) -> None:
        """Drop what was noted so far (the warm-up)."""
        self._pending = False
        self._times_ms.clear()

    def median_ms(self) -> float:
        """Return the median over the queries since `forget`."""
        self.prepare()
        return float(np.median(self._times_ms))


class Peak(NamedTuple):
    """Peak CUDA memory in bytes: of live tensors, and of what the allocator holds."""

    allocated: int
    reserved: int


def pass_peak(
    device: torch.device,
    call: Callable[[Any], object],
    batches: Sequence[Mapping[str, Tensor]],
) -> Peak | None:
    """Run one pass and return the GPU's peak memory, or None on another device.

    Args:
        device: where model and batches are.
        call: the forward pass.
        batches: what to run.
    """
    import torch

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        # Blocks cached by earlier work would count as reserved by this pass.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    for batch in batches:
        call(batch)
    if not on_gpu:
        return None
    torch.cuda.synchronize(device)
    return Peak(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


def count_flops(model: nn.Module, single_rows: Sequence[Mapping[str, Tensor]]) -> float | None:
    """Count floating point operations of one forward pass with torch's counter.

    Matrix products, convolutions and attention are counted, a multiply-add as two operations;
    element-wise work is not. The CPU's fused attention kernel has no formula in torch and is given
    the GPU kernel's here: without it, attention would count as nothing.

    Args:
        model: on the batches' device.
        single_rows: batches of one row; up to 16, spread evenly, are counted.

    Returns:
        The mean per row, or None when the counter finds nothing that it knows.
    """
    import torch
    from torch.utils import flop_counter

    library: Any = flop_counter  # its formulas are not annotated

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return library.sdpa_flop_count(query, key, value)  # all three are shapes here

    rows = single_rows[:: -(-len(single_rows) // _FLOP_ROWS)]
    fused_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {fused_on_cpu: attention}
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=formulas)
    # inference_mode keeps composite operations from the counter, so it is lifted here.
    with torch.inference_mode(False), torch.no_grad(), counter:
        for batch in rows:
            model(**{name: tensor.clone() for name, tensor in batch.items()})
    total = counter.get_total_flops()
    return total / len(rows) if total else None
