"""The files of a checkpoint's weights, and what may be in them."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmark.failures import UnavailableError, first_line
from benchmark.hub import CheckpointFiles, fetch_checkpoint, local_checkpoint
from benchmark.models.pretrained import naming
from benchmark.plan import RunSpec

_REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")
_FORBIDDEN = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)")
_SHOWN_NAMES = 3


def checkpoint_files(spec: RunSpec) -> CheckpointFiles:
    """Return where the configuration and weights of a run's checkpoint are; fetched if need be.

    Args:
        spec: a run whose model is from the hub or from a folder.

    Raises:
        UnavailableError: there are none that may be read; docs/hub.md has the rule.
    """
    entry = spec.model
    with naming(entry):
        if entry.hub is not None:
            return fetch_checkpoint(
                entry.hub,
                str(spec.model_revision),
                allow_pickle=entry.allow_pickle,
                remote_code=entry.trust_remote_code,
            )
        assert entry.path is not None
        return local_checkpoint(entry.path, allow_pickle=entry.allow_pickle)


def describe_weights(spec: RunSpec) -> str | None:
    """Say how the weights of a run's checkpoint are read; None: they are random (scratch)."""
    return None if spec.model.scratch is not None else checkpoint_files(spec).description


def require_tensors(path: Path) -> None:
    """Refuse a pickle that is anything but tensors by name; nothing that it holds is run.

    Args:
        path: a file as `torch.save` writes it, of any age.

    Raises:
        UnavailableError: it asks for other objects, or cannot be read; the message names it.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused below
            content = torch.load(
                path,
                # Only what there is, not its values: those are read once, by the library.
                map_location="meta",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),
            )
    except Exception as error:  # what garbage raises in the reader is of any kind
        problem = _in_words(error)
        raise UnavailableError(f"{path.name} {problem}; nothing in it was run") from None
    if not isinstance(content, Mapping):
        raise UnavailableError(f"{path.name} holds no tensors by name")
    other = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other:
        some = ", ".join(other[:_SHOWN_NAMES]) + (", ..." if len(other) > _SHOWN_NAMES else "")
        raise UnavailableError(f"{path.name} holds other things than tensors: {some}")


def _in_words(error: Exception) -> str:
    """Return what the reader of tensors found, without its advice to unpickle all the same."""
    if found := _FORBIDDEN.search(str(error)):
        return f"holds other things than tensors: it asks for {found[1]}"
    reason = _REASON.search(str(error))
    text = reason[1] if reason else first_line(error).partition(" In PyTorch 2.6")[0]
    return f"cannot be read as tensors: {text.partition('. ')[0].rstrip('.')}"
