"""This launch: the Accelerator, and a refusal to run when the launcher misunderstood."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmark.records import processor_name
from benchmark.registry import MixedPrecision

if TYPE_CHECKING:
    from accelerate import Accelerator


class LaunchError(RuntimeError):
    """The launch is not what was asked for; the message says how to start it."""


def launched_processes() -> int:
    """Return how many processes the launcher says there are (1 without one)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Return this process's rank in the launch."""
    return int(os.environ.get("RANK", "0"))


def make_accelerator(mixed_precision: MixedPrecision = "no") -> Accelerator:
    """Return an Accelerator for one run; a process may make one after another.

    Raises:
        LaunchError: the launcher started several processes but Accelerate sees another
            number (a bare `torchrun` without a GPU would train independent copies), or a
            sharding plugin is on, which this runner does not support.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    # Precision is set once per process state; runs of one process may differ in it.
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(mixed_precision=mixed_precision)
    if accelerator.num_processes != launched_processes():
        raise LaunchError(
            f"the launcher started {launched_processes()} processes but Accelerate sees "
            f"{accelerator.num_processes}. Without a GPU, start it as: ACCELERATE_USE_CPU=true "
            "OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 benchmark/run.py ..."
        )
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise LaunchError(
            f"Accelerate is set to {accelerator.distributed_type}; this runner supports one "
            "process, several CPU processes and several GPUs (accelerate config)"
        )
    return accelerator


def quiet_libraries() -> None:
    """Silence progress bars and advice of libraries; what matters is reported by the run."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_count() -> int:
    """Return how many CUDA devices this launch may use (0 with ACCELERATE_USE_CPU)."""
    from accelerate.utils import parse_flag_from_env

    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return 0
    import torch

    return int(torch.cuda.device_count())


def device_for_timing() -> str:
    """Return the device that models are timed on."""
    return "cuda" if gpu_count() else "cpu"


def describe_device(device: str) -> str:
    """Return the accelerator's name for a torch device string such as `cuda:0`, or the CPU's."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return processor_name()
