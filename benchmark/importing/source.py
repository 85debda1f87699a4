"""Files of logits, told apart by their content -> named arrays or a table. Never unpickled."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmark.arrays import AnyArray
from benchmark.importing.errors import SourceError, reading, require_file
from benchmark.importing.formats import Format, detect_format, pickled
from benchmark.importing.tables import TableFile, read_csv, read_parquet


@dataclass(frozen=True)
class ArrayFile:
    """A file of named arrays, read one by one."""

    path: Path
    format: Format
    names: tuple[str, ...]

    def read(self, name: str) -> AnyArray:
        """Return one array.

        Raises:
            SourceError: it is pickled, damaged, or of a type that numpy does not have.
        """
        where = f"{self.path}: array '{name}'"
        with reading(where):
            if self.format == "safetensors":
                return _read_tensor(self.path, name)
            if self.format == "npy":
                with self.path.open("rb") as stream:
                    return _read_npy(stream, where)
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as member:
                return _read_npy(member, where)


def open_source(path: Path) -> ArrayFile | TableFile:
    """Open a file of logits in whatever format its content shows.

    Raises:
        SourceError: it is missing, pickled, damaged or of an unknown format.
    """
    with reading(str(path)):
        kind = detect_format(path)
        if kind == "csv":
            return read_csv(path)
        if kind == "parquet":
            return read_parquet(path)
        return ArrayFile(path, kind, _array_names(path, kind))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        SourceError: the file cannot be read.
    """
    require_file(path)
    with reading(str(path)), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- named arrays ------------------------------------------------------------------------------


def _array_names(path: Path, kind: Format) -> tuple[str, ...]:
    if kind == "npy":
        return (path.stem,)
    if kind == "npz":
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return tuple(file.keys())


def _read_npy(stream: BinaryIO | Any, where: str) -> AnyArray:
    try:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except ValueError as error:
        if "Object arrays" in str(error):
            raise pickled(where) from None
        raise


def _read_tensor(path: Path, name: str) -> AnyArray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        try:
            return np.asarray(file.get_tensor(name))
        except TypeError:
            kind = file.get_slice(name).get_dtype()
            raise SourceError(
                f"{path}: array '{name}': numpy has no {kind}; save it as float32"
            ) from None
