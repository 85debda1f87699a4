"""The logits file of a run: safetensors, sealed by a checksum, read without torch.

`<split>.logits` float32 [n, K], `<split>.labels` and `<split>.ids` int64 [n], for the
splits `calibration`, `test` and the shifted test sets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchmark.arrays import AnyArray, Float32Array, IntArray
from benchmark.records.checksums import BLANK, seal, verify
from benchmark.records.files import DamagedError, OtherVersionError, ResultsError, atomic_path
from benchmark.records.folder import RunFolder

_FORMAT = 2
"""1 had the checksum of the tensors only; from 2 the file is sealed as well (see `checksums`)."""

_checked: dict[str, tuple[int, ...]] = {}
"""States of files of format 1 whose tensors matched their checksum."""


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


def write_logits(
    folder: RunFolder,
    splits: Mapping[str, LogitsSplit],
    key: str,
    *,
    device: str | None = None,
) -> None:
    """Write all splits' logits atomically, with the stage key and checksums in the header.

    Args:
        folder: where they go.
        splits: by name.
        key: of the logits stage.
        device: what they were computed on.
    """
    tensors: dict[str, AnyArray] = {}
    for name, split in splits.items():
        tensors[f"{name}.ids"] = np.ascontiguousarray(split.ids, dtype=np.int64)
        tensors[f"{name}.logits"] = np.ascontiguousarray(split.logits, dtype=np.float32)
        tensors[f"{name}.labels"] = np.ascontiguousarray(split.labels, dtype=np.int64)
    header = {
        "checksum": BLANK,
        "format": str(_FORMAT),
        "key": key,
        "splits": json.dumps(list(splits)),
        "sha256": _tensor_checksum(tensors),
    }
    if device is not None:
        header["device"] = device
    with atomic_path(folder.logits) as temporary:
        save_file(tensors, temporary, metadata=header)
        _sort_header(temporary)
        seal(temporary)


def _sort_header(path: Path) -> None:
    """Put a safetensors file's header in order, in place.

    The library writes its entries in another order each time; so the same logits are the same
    bytes, and two files of them can be compared as files.
    """
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(size))
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        ordered = text.encode().ljust(size)
        if len(ordered) == size:  # both write JSON without spaces
            file.seek(8)
            file.write(ordered)


def stored_key(folder: RunFolder) -> str | None:
    """Return the stage key of the folder's logits file; None: no file, or a damaged one.

    Raises:
        OtherVersionError: the file is of a newer format.
    """
    header = _usable_header(folder)
    return None if header is None else header["key"]


def stored_device(folder: RunFolder) -> str | None:
    """Return what the folder's logits were computed on, where that is known."""
    try:
        header = _usable_header(folder)
    except ResultsError:
        return None
    return None if header is None else header.get("device")


def _usable_header(folder: RunFolder) -> dict[str, str] | None:
    try:
        return verify_logits(folder)
    except (FileNotFoundError, DamagedError):
        return None


def split_names(folder: RunFolder) -> list[str]:
    """Return the names of the splits whose logits are stored, in the order they were made."""
    with _open(folder) as file:
        names: list[str] = json.loads(file.metadata()["splits"])
        return names


def read_split(folder: RunFolder, split: str) -> LogitsSplit:
    """Return one split's logits; the file is verified first, once for each state of it.

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
    """Return the SHA-256 of the stored tensors: equal where the same rows have the same logits.

    Raises:
        ResultsError: it is not the one in the header: the file was damaged.
    """
    with _open(folder) as file:
        return _verify_tensors(folder.logits, file)


def verify_logits(folder: RunFolder) -> dict[str, str]:
    """Check the logits file against its checksum, once for each state of it; return its header.

    Raises:
        DamagedError: it is not as it was written.
        OtherVersionError: it is of a newer format.
        FileNotFoundError: there is none.
    """
    path = folder.logits
    sealed = verify(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            if int(header["format"]) > _FORMAT:
                raise OtherVersionError(path, f"logits of the newer format {header['format']}")
            if not sealed and int(header["format"]) > 1:
                raise DamagedError(path, "it has no checksum")
            if not sealed:
                _verify_old(path, file)
            return header
    except (SafetensorError, KeyError) as error:
        raise DamagedError(path, str(error)) from None
    except ValueError as error:
        if isinstance(error, ResultsError):
            raise
        raise DamagedError(path, str(error)) from None


def _verify_old(path: Path, file: Any) -> None:
    """Check a file of format 1 by its tensors; its header has no checksum."""
    found = path.stat()
    state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if _checked.get(str(path)) != state:
        _verify_tensors(path, file)
        _checked[str(path)] = state


def _verify_tensors(path: Path, file: Any) -> str:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    checksum = _tensor_checksum(tensors)
    if checksum != file.metadata().get("sha256"):
        raise DamagedError(path, "its checksum does not match")
    return checksum


def _open(folder: RunFolder) -> Any:
    path = folder.logits
    try:
        verify_logits(folder)
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file; run the benchmark to make it") from None


def _tensor_checksum(tensors: Mapping[str, AnyArray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
