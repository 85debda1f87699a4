"""Energy counters, where the machine lets us read one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only for annotations: importing torch takes seconds
    import torch

_RAPL = Path("/sys/class/powercap")


def read_joules(device: torch.device, rapl: Path = _RAPL) -> float | None:
    """Read the running energy total that covers a device, in joules.

    CUDA: the whole GPU, by NVML (package `nvidia-ml-py`, extra `energy`). CPU: the processor
    packages, by Linux' RAPL files, which usually only root may read. Neither includes the rest of
    the machine, and both include whatever else ran meanwhile.

    Returns:
        Joules since some moment in the past, or None where there is no counter.
    """
    return _nvml_joules(device) if device.type == "cuda" else _rapl_joules(rapl)


def difference(start: float | None, end: float | None) -> float | None:
    """Return joules between two readings; None without counter or when it wrapped around."""
    if start is None or end is None or end < start:
        return None
    return end - start


def _rapl_joules(folder: Path) -> float | None:
    # intel-rapl:0 is a package; intel-rapl:0:0 a part of it, already counted.
    packages = [path for path in folder.glob("intel-rapl:*") if path.name.count(":") == 1]
    try:
        readings = [int((path / "energy_uj").read_text()) for path in packages]
    except (OSError, ValueError):
        return None
    return sum(readings) / 1e6 if readings else None


def _nvml_joules(device: torch.device) -> float | None:
    try:
        nvml: Any = importlib.import_module("pynvml")  # optional: extra `energy`
    except ImportError:
        return None
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        nvml.nvmlInit()
        # By identity: CUDA_VISIBLE_DEVICES renumbers torch's devices but not NVML's.
        millijoules: int = nvml.nvmlDeviceGetTotalEnergyConsumption(
            nvml.nvmlDeviceGetHandleByUUID(uuid)
        )
    except nvml.NVMLError:
        return None
    return millijoules / 1000
