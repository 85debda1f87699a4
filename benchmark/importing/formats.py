"""Which format a file's content shows. Nothing is ever unpickled."""

from __future__ import annotations

import codecs
import pickletools  # nosec B403 # looks at opcodes, runs none
import zipfile
from pathlib import Path
from typing import Literal, get_args

from benchmark.importing.errors import SourceError

Format = Literal["npz", "npy", "safetensors", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

_HEAD = 512
_PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"}
_OTHER_FORMATS = {
    b"\x1f\x8b": "gzip-compressed; decompress it first",
    b"BZh": "bzip2-compressed; decompress it first",
    b"\xfd7zXZ": "xz-compressed; decompress it first",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed; decompress it first",
    b"\x89HDF": "an HDF5 file; save its arrays with numpy.savez",
    b"ARROW1": "an Arrow file; save the table as parquet",
    b"MATLAB": "a MATLAB file; save its arrays with numpy.savez",
    b"\xff\xfe": "UTF-16 text; save it in UTF-8",
    b"\xfe\xff": "UTF-16 text; save it in UTF-8",
    b"{": "JSON; save the table as csv or parquet (the command lm-eval imports samples of "
    "lm-evaluation-harness)",
    b"[": "JSON; save the table as csv or parquet",
}


def detect_format(path: Path) -> Format:
    """Return the format that a file's content shows, whatever its name.

    Raises:
        SourceError: the content is a pickle, or none of the formats that are read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        raise SourceError(f"{path}: the file is empty")
    if head.startswith(b"PK"):
        return _zip_format(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    if _is_safetensors(head, path.stat().st_size):
        return "safetensors"
    _refuse_other_formats(path, head)
    return "csv"


def _refuse_other_formats(path: Path, head: bytes) -> None:
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise SourceError(f"{path}: the content is {what}")
    if _is_pickle(path, head):
        raise pickled(str(path))
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise SourceError(
            f"{path}: the suffix is that of a pickle, which is never read; if the content is a "
            "table, name it .csv"
        )
    if not _is_text(head):
        raise SourceError(
            f"{path}: unknown content; logits are read from {', '.join(FORMATS)} (csv in UTF-8)"
        )


def _zip_format(path: Path) -> Format:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        raise pickled(str(path))
    if not names or not all(name.endswith(".npy") for name in names):
        raise SourceError(f"{path}: a zip archive, but not of numpy arrays (.npz)")
    return "npz"


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= size - 8


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\r\n" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _is_pickle(path: Path, head: bytes) -> bool:
    if head[0] == 0x80 and head[1:2] and head[1] <= 5:
        return True
    # Old protocols are text: only a walk over the opcodes, which runs none, tells them from csv.
    # Every pickle ends with STOP; the first rows of a table may read as one, but not to its end.
    try:
        with path.open("rb") as stream:
            for _ in pickletools.genops(stream):
                pass
            return not stream.read(_HEAD).strip()
    except Exception:
        return False


def pickled(where: str) -> SourceError:
    """Return the error of content that only unpickling could read."""
    return SourceError(
        f"{where}: pickled, and reading a pickle can run any code it holds, so it is refused. "
        "Where you trust its origin, load it there and save plain arrays: numpy.savez('logits.npz',"
        " calibration_logits=..., calibration_labels=..., test_logits=..., test_labels=...)"
    )
