"""Which files of a checkpoint hold its weights: safetensors first, else a pickle of tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmark.failures import UnavailableError

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a checkpoint's configuration and weights are.

    Attributes:
        settings: the folder that holds its configuration.
        weights: the folder that holds its weights; another one where they are the hub's own
            conversion of its pickle.
        names: the files in `weights`, all of one kind.
        origin: where the conversion stands, for the record; None: beside the configuration.
    """

    settings: Path
    weights: Path
    names: tuple[str, ...]
    origin: str | None = None

    @property
    def is_pickle(self) -> bool:
        """Say whether the weights are a pickle, to be read as tensors only."""
        return not self.names[0].endswith(".safetensors")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the weights."""
        return tuple(self.weights / name for name in self.names)

    @property
    def description(self) -> str:
        """How the weights are read, as records and reports say it."""
        if self.is_pickle:
            return f"pickle, read as tensors only ({_in_short(self.names)})"
        return "safetensors" if self.origin is None else f"safetensors of {self.origin}"


def find_weights(folder: Path, kind: str) -> tuple[str, ...]:
    """Return the names of a folder's weights of one kind; empty where it has none.

    Args:
        folder: a checkpoint, as `save_pretrained` writes it.
        kind: `SAFETENSORS` or `PICKLE`.

    Raises:
        UnavailableError: the index of a checkpoint in several files is not one, or files that it
            names are not there.
    """
    if (folder / kind).is_file():
        return (kind,)
    index = folder / f"{kind}.index.json"
    if not index.is_file():
        return ()
    names = _indexed(index)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise UnavailableError(
            f"{index.name} names {_in_short(absent)}, which {folder} does not have"
        )
    return names


def _indexed(index: Path) -> tuple[str, ...]:
    """Return the files that an index names; all lie beside it."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = tuple(sorted({Path(name).name for name in named}))
        if not names or set(names) != set(named):
            raise ValueError("its weight_map names no files of its folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnavailableError(
            f"{index.name} in {index.parent} is no index of weights: {error}"
        ) from None
    return names


def local_checkpoint(folder: Path, *, allow_pickle: bool = True) -> CheckpointFiles:
    """Return the files of a checkpoint in a folder of this machine.

    Raises:
        UnavailableError: it has no weights, or only a pickle that is not allowed.
    """
    for kind in (SAFETENSORS, PICKLE):
        names = find_weights(folder, kind)
        if names and (kind == SAFETENSORS or allow_pickle):
            return CheckpointFiles(folder, folder, names)
        if names:
            raise UnavailableError(f"{folder} has no safetensors weights, and {REFUSED_PICKLE}")
    raise UnavailableError(f"{folder} has no weights: neither {SAFETENSORS} nor {PICKLE}")


REFUSED_PICKLE = (
    "its pickle is refused ('allow_pickle: false'): without that line its tensors are read by a "
    "reader that runs no code"
)


def _in_short(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
