"""The logits file of a run: safetensors with a checksum, read without torch.

`<split>.logits` float32 [n, K], `<split>.labels` and `<split>.ids` int64 [n], for the
splits `calibration`, `test` and the shifted test sets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchmark.arrays import AnyArray, Float32Array, IntArray
from benchmark.records.files import ResultsError, atomic_path
from benchmark.records.folder import RunFolder

_FORMAT = "1"


@dataclass(frozen=True)
class LogitsSplit:
    """One split's cached outputs: ids int64 [n], logits float32 [n, K], labels int64 [n]."""

    ids: IntArray
    logits: Float32Array
    labels: IntArray

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.logits) == len(self.labels):
            raise ValueError("ids, logits and labels differ in length")
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("row ids repeat")

    def sorted_by_id(self) -> LogitsSplit:
        """Return the same rows in the order of their ids."""
        order = np.argsort(self.ids)
        return LogitsSplit(self.ids[order], self.logits[order], self.labels[order])

    def columns(self, order: Sequence[int]) -> LogitsSplit:
        """Return the same rows with the classes in `order`."""
        return LogitsSplit(self.ids, self.logits[:, list(order)], self.labels)


def write_logits(folder: RunFolder, splits: Mapping[str, LogitsSplit], key: str) -> None:
    """Write all splits' logits atomically, with the stage key and a checksum in the header."""
    tensors: dict[str, AnyArray] = {}
    for name, split in splits.items():
        tensors[f"{name}.ids"] = np.ascontiguousarray(split.ids, dtype=np.int64)
        tensors[f"{name}.logits"] = np.ascontiguousarray(split.logits, dtype=np.float32)
        tensors[f"{name}.labels"] = np.ascontiguousarray(split.labels, dtype=np.int64)
    header = {
        "format": _FORMAT,
        "key": key,
        "splits": json.dumps(list(splits)),
        "sha256": _checksum(tensors),
    }
    with atomic_path(folder.logits) as temporary:
        save_file(tensors, temporary, metadata=header)


def stored_key(folder: RunFolder) -> str | None:
    """Return the stage key of the folder's logits file; None: no file, or not a whole one."""
    try:
        with safe_open(folder.logits, framework="numpy") as file:
            return (file.metadata() or {}).get("key")
    except (FileNotFoundError, SafetensorError):
        return None


def split_names(folder: RunFolder) -> list[str]:
    """Return the names of the splits whose logits are stored, in the order they were made."""
    with _open(folder) as file:
        names: list[str] = json.loads(file.metadata()["splits"])
        return names


def read_split(folder: RunFolder, split: str) -> LogitsSplit:
    """Return one split's logits.

    Raises:
        ResultsError: there is no such file or split, or it is damaged.
    """
    with _open(folder) as file:
        if f"{split}.logits" not in file.keys():  # noqa: SIM118 - not a mapping
            names = json.loads(file.metadata()["splits"])
            raise ResultsError(f"{folder.logits}: no split '{split}'; it has {', '.join(names)}")
        return LogitsSplit(
            ids=file.get_tensor(f"{split}.ids"),
            logits=file.get_tensor(f"{split}.logits"),
            labels=file.get_tensor(f"{split}.labels"),
        )


def verify_checksum(folder: RunFolder) -> str:
    """Check the stored tensors against the checksum in the header, and return it.

    Raises:
        ResultsError: they differ: the file was changed or damaged after it was written.
    """
    with _open(folder) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum = _checksum(tensors)
        if checksum != file.metadata()["sha256"]:
            raise ResultsError(f"{folder.logits}: checksum does not match; delete it and run again")
        return checksum


def _open(folder: RunFolder) -> Any:
    path = folder.logits
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file; run the benchmark to make it") from None
    except SafetensorError as error:
        raise ResultsError(f"{path}: damaged ({error}); delete it and run again") from None


def _checksum(tensors: Mapping[str, AnyArray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
