"""The saved state of a training under way: never pickled, sealed by a checksum."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from benchmark.records import BLANK, DamagedError, atomic_path, seal, set_aside, verify


@dataclass(frozen=True)
class Progressed:
    """How far a training has come.

    Attributes:
        epochs: epochs done.
        loss: mean loss per row of the last one; None: no epoch, or not recorded then.
        seconds: time taken so far, over all launches.
    """

    epochs: int = 0
    loss: float | None = None
    seconds: float = 0.0


def write_state(
    path: Path, key: str, progressed: Progressed, tensors: dict[str, Tensor], rest: Any
) -> None:
    """Save tensors and JSON values that the next epoch needs.

    Args:
        path: of the file.
        key: of the training stage.
        progressed: how far it has come.
        tensors: by name, on the CPU, each with memory of its own.
        rest: JSON values.
    """
    header = {
        "checksum": BLANK,
        "key": key,
        "epochs_done": str(progressed.epochs),
        "loss": json.dumps(progressed.loss),
        "seconds": json.dumps(progressed.seconds),
        "rest": json.dumps(rest),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)
        seal(temporary)


def saved_progress(path: Path, key: str, *, may_rename: bool) -> Progressed:
    """Return how far a saved state with this key has come; no epoch where there is none.

    A damaged state counts as none: the training starts anew.

    Args:
        path: of the file.
        key: of the training stage; a state with another one is ignored.
        may_rename: set a damaged file aside (one process of a launch does).
    """
    try:
        header = _header(path)
    except FileNotFoundError:
        return Progressed()
    except DamagedError as error:
        if may_rename:
            set_aside(error)
        return Progressed()
    if header.get("key") != key or "rest" not in header:
        return Progressed()
    return Progressed(
        int(header["epochs_done"]), json.loads(header["loss"]), json.loads(header["seconds"])
    )


def read_state(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and the JSON values of a state that `saved_progress` has found."""
    with safe_open(path, framework="pt") as state:
        rest = json.loads(state.metadata()["rest"])
        return {name: state.get_tensor(name) for name in state.keys()}, rest  # noqa: SIM118


def _header(path: Path) -> dict[str, str]:
    sealed = verify(path)
    try:
        with safe_open(path, framework="pt") as state:
            header: dict[str, str] = state.metadata() or {}
    except SafetensorError as error:
        raise DamagedError(path, str(error)) from None
    return header if sealed else {}  # one of an earlier version cannot be checked


def named_tensors(module: torch.nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what training changes: parameters, buffers and optimiser moments by name.

    Each is on the CPU, with memory of its own. Weights that are frozen are those of the checkpoint.
    """
    tensors: dict[str, Tensor] = {
        f"model.{name}": value for name, value in module.named_parameters() if value.requires_grad
    }
    tensors |= {f"buffer.{name}": value for name, value in module.named_buffers()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": moment for name, moment in moments.items()}
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def load_tensors(module: torch.nn.Module, optimizer: Optimizer, saved: dict[str, Tensor]) -> None:
    """Put back what `named_tensors` returned."""
    with torch.no_grad():
        trained = ((n, p) for n, p in module.named_parameters() if p.requires_grad)
        for name, parameter in trained:
            parameter.copy_(saved[f"model.{name}"])
        for name, buffer in module.named_buffers():
            buffer.copy_(saved[f"buffer.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, moment = rest.partition(".")
            state.setdefault(int(index), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
