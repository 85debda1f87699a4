"""This launch: the Accelerator, and a refusal to run when the launcher misunderstood.

The recipe decides how a model is trained. What the launcher, its configuration or another script's
environment variables say on gradients, precision or compilation is overridden, and said to be;
what cannot be overridden is refused.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from benchmark.failures import RunError
from benchmark.records import processor_name
from benchmark.registry import MixedPrecision

if TYPE_CHECKING:
    from accelerate import Accelerator


_OVERRIDDEN = {
    "ACCELERATE_MIXED_PRECISION": ("no", "the recipe's mixed_precision decides"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "the recipe's batch_size decides"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "the recipe's compile decides"),
}
"""Variables (`accelerate launch` sets them from its options): neutral value, what holds instead."""
_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


COLLECTIVE_TIMEOUT = timedelta(
    seconds=float(os.environ.get("BENCHMARK_COLLECTIVE_TIMEOUT_S", "1800"))
)
"""How long the processes of a launch wait for one another before all end with the reason."""


class LaunchError(RuntimeError):
    """The launch is not what was asked for; the message says how to start it."""


def launched_processes() -> int:
    """Return how many processes the launcher says there are (1 without one)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Return this process's rank in the launch."""
    return int(os.environ.get("RANK", "0"))


def overridden_settings() -> dict[str, str]:
    """Return the variables of this launch that would change a training but are overridden."""
    return {
        name: value
        for name, (neutral, _) in _OVERRIDDEN.items()
        if (value := os.environ.get(name, neutral)).lower() != neutral
    }


def check_launch() -> list[str]:
    """Return a note on each setting that is overridden, for the person who launched.

    Raises:
        LaunchError: something is on that this runner does not support.
    """
    for name, what in _UNSUPPORTED.items():
        if os.environ.get(name, "false").lower() in ("1", "true", "yes"):
            raise LaunchError(
                f"{name} is set, but this runner does not support {what}: unset it, or leave it "
                "out of the launcher's options and configuration (accelerate config)"
            )
    return [
        f"note: {name}={value} has no effect: {_OVERRIDDEN[name][1]}"
        for name, value in overridden_settings().items()
    ]


def make_accelerator(mixed_precision: MixedPrecision = "no") -> Accelerator:
    """Return an Accelerator for one run; a process may make one after another.

    Raises:
        RunError: the device has no such precision.
        LaunchError: the launcher started several processes but Accelerate sees another
            number (a bare `torchrun` without a GPU would train independent copies), or a
            sharding plugin is on, which this runner does not support.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import (
        DistributedType,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
    )

    check_launch()
    # Precision is set once per process state; runs of one process may differ in it.
    AcceleratorState._reset_state(reset_partial_state=False)
    # What is not given here is taken from environment variables.
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)],
    )
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
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise RunError(
            "the recipe's mixed_precision is fp16, which a CPU does not train in: take bf16 or no, "
            "or a GPU"
        )
    return accelerator


def set_tf32(allowed: bool) -> None:
    """Let a GPU round the factors of float32 products to TensorFloat-32, or not.

    Torch by itself does in convolutions and not in matrix products, so that convolutional models
    alone would be computed less exactly.
    """
    import torch

    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def quiet_libraries() -> None:
    """Silence progress bars and advice of libraries; what matters is reported by the run."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def gpu_count() -> int:
    """Return how many CUDA devices this launch may use (0 with ACCELERATE_USE_CPU)."""
    from accelerate.utils import parse_flag_from_env

    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return 0
    import torch

    return int(torch.cuda.device_count())


def use_device(name: str) -> None:
    """Let this process, and those that it starts, use a device; before torch looks for one.

    Args:
        name: auto (the GPUs there are, else the CPU), cpu, cuda (all GPUs), or one of them, as
            cuda:1.

    Raises:
        LaunchError: there is no such device, or the launcher has dealt out devices already.
    """
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not index.isdecimal())):
        raise LaunchError(f"--device {name}: unknown; take auto, cpu, cuda or cuda:1")
    if kind == "auto":
        return
    if launched_processes() > 1:
        raise LaunchError("--device: the launcher deals out devices to several processes")
    if kind == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        return
    os.environ.pop("ACCELERATE_USE_CPU", None)
    if colon:
        listed = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
        known = int(index) < len(listed)
        os.environ["CUDA_VISIBLE_DEVICES"] = listed[int(index)] if known else index
    if not gpu_count():
        raise LaunchError(f"--device {name}: no such CUDA device here")


def device_for_timing() -> str:
    """Return the device that models are timed on."""
    return "cuda" if gpu_count() else "cpu"


def describe_device(device: str) -> str:
    """Return the accelerator's name for a torch device string such as `cuda:0`, or the CPU's."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return processor_name()
