"""Checksums that travel in the files they are of, and what becomes of a file that does not match.

A sealed file holds `"checksum": "xxh3-128:<32 digits>"` near its start: the XXH3 hash (Collet 2019,
github.com/Cyan4973/xxHash) of all its bytes with those digits read as zeros. JSON has it as the
first entry, safetensors in the metadata. A folder of files that a library wrote is sealed by a list
of their hashes beside them. The hash finds accidents; it is no protection against an attacker.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from benchmark.records.files import DamagedError, fsync_path, reading, write_text

_log = logging.getLogger(__name__)

BLANK = "xxh3-128:" + "0" * 32
"""What a safetensors file is written with as metadata `checksum`, for `seal` to fill in."""

FOLDER_SEAL = "checksums.json"
_NAME = b'"checksum"'
_SEAL = re.compile(_NAME + rb': ?"xxh3-128:([0-9a-f]{32})"')
_JSON_ENTRY = re.compile(r'\A\{\n "checksum": "xxh3-128:[0-9a-f]{32}",')
_HEAD = 2**16
_CHUNK = 2**22

FileState = tuple[int, int, int, int]
"""What changes when a file is written or replaced."""

_verified: dict[str, tuple[FileState, bool]] = {}
_hashed: dict[str, tuple[FileState, str]] = {}


# --- one file -------------------------------------------------------------------------------------


def seal(path: Path) -> None:
    """Fill in the checksum of a file that was written with `BLANK` in its place."""
    with path.open("rb+") as file:
        found = _SEAL.search(file.read(_HEAD))
        assert found is not None, f"{path} was written without a place for its checksum"
        digits = _digest(path, found.span(1)).encode()
        file.seek(found.start(1))
        file.write(digits)


def sealed_json(text: str) -> str:
    """Return the JSON text of an object as a file's content, its checksum the first entry."""
    blank = f'{{\n "checksum": "{BLANK}",' + text.strip().removeprefix("{") + "\n"
    digits = xxhash.xxh3_128_hexdigest(blank.encode())
    return blank.replace("0" * 32, digits, 1)


def verify(path: Path) -> bool:
    """Check a file against the checksum in it; once for each state of the file.

    Returns:
        Whether it has one: files of earlier versions do not, and cannot be checked.

    Raises:
        DamagedError: they differ, or a folder is in the file's place.
        FileNotFoundError: nothing is there.
        ResultsError: the file cannot be read.
    """
    with reading(path):
        state = file_state(path)
        known = _verified.get(str(path))
        if known is not None and known[0] == state:
            return known[1]
        with path.open("rb") as file:
            head = file.read(_HEAD)
        found = _SEAL.search(head)
        if found is None and _NAME in head:
            raise DamagedError(path, "its checksum cannot be read")
        if found is not None and _digest(path, found.span(1)).encode() != found[1]:
            raise DamagedError(path, "its checksum does not match")
    _verified[str(path)] = state, found is not None
    return found is not None


def read_json_text(path: Path) -> tuple[str, bool]:
    """Return the text of a JSON file without its checksum, and whether it had one that matched.

    Raises:
        DamagedError: the checksum does not match, the text is not UTF-8, or it is a folder.
        FileNotFoundError: nothing is there.
    """
    sealed = verify(path)
    with reading(path):
        text = path.read_text(encoding="utf-8")
    return (_JSON_ENTRY.sub("{", text, count=1) if sealed else text), sealed


def file_state(path: Path) -> FileState:
    """Return inode, size and times of a file, by which a changed one is known."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path, blank: tuple[int, int] = (0, 0)) -> str:
    """Return the hash of a file's bytes, those from `blank[0]` to `blank[1]` read as zeros."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        head = bytearray(file.read(_HEAD))
        start, end = blank
        head[start:end] = b"0" * (end - start)
        digest.update(head)
        buffer = bytearray(_CHUNK)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


# --- a folder -------------------------------------------------------------------------------------


def seal_folder(folder: Path) -> None:
    """Write the list of the hashes of a folder's files into it, and make all of them durable."""
    files = {}
    written = (path for path in folder.rglob("*") if path.is_file() and path.name != FOLDER_SEAL)
    for path in sorted(written):
        fsync_path(path)
        found = path.stat()
        files[path.relative_to(folder).as_posix()] = {
            "bytes": found.st_size,
            "modified_ns": found.st_mtime_ns,
            "xxh3_128": _digest(path),
        }
    write_text(folder / FOLDER_SEAL, sealed_json(json.dumps({"files": files}, indent=1)))
    for place in {folder, *(path for path in folder.rglob("*") if path.is_dir())}:
        fsync_path(place)


def verify_folder(folder: Path, *, quick: bool = False) -> bool:
    """Check a folder's files against the list of their hashes; once for each state of a file.

    Args:
        folder: sealed by `seal_folder`, or by an earlier version that made no list.
        quick: take a file whose size and time are those in the list as unchanged. Whoever reads
            the file leaves this out; bits that decay on a disk leave the time as it is.

    Returns:
        Whether there is a list.

    Raises:
        DamagedError: a file differs or is missing, or the folder is a file. Its path is the
            folder's; the reason names the file.
        FileNotFoundError: nothing is there.
    """
    with reading(folder):
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise DamagedError(folder, "a file is in its place")
    try:
        files: dict[str, Any] = json.loads(read_json_text(folder / FOLDER_SEAL)[0])["files"]
    except FileNotFoundError:
        return False
    except (DamagedError, ValueError, KeyError):
        raise DamagedError(folder, f"{FOLDER_SEAL} in it is damaged") from None
    for name, facts in files.items():
        try:
            with reading(folder / name):
                whole = _matches(folder / name, facts, quick)
        except (FileNotFoundError, DamagedError):
            raise DamagedError(folder, f"{name} is missing in it") from None
        if not whole:
            raise DamagedError(folder, f"the checksum of {name} in it does not match")
    return True


def _matches(path: Path, facts: dict[str, Any], quick: bool) -> bool:
    state = file_state(path)
    if state[1] != facts["bytes"]:
        return False
    if quick and state[2] == facts["modified_ns"]:
        return True
    known = _hashed.get(str(path))
    if known is None or known[0] != state:
        known = _hashed[str(path)] = state, _digest(path)
    return bool(known[1] == facts["xxh3_128"])


# --- what is damaged ------------------------------------------------------------------------------


def set_aside(error: DamagedError) -> None:
    """Rename what is damaged to `<name>.corrupt` and say so; the caller makes it anew."""
    path = error.path
    taken = {place.name for place in _set_aside(path)}
    names = (f"{path.name}.corrupt{f'-{n}' if n > 1 else ''}" for n in range(1, len(taken) + 2))
    target = path.with_name(next(name for name in names if name not in taken))
    try:
        os.rename(path, target)
    except FileNotFoundError:  # by somebody else who came across it
        return
    except OSError as problem:
        outcome = f"cannot be set aside ({problem.strerror}), and is replaced"
    else:
        outcome = f"set aside as {target.name} and made anew"
    _log.warning("%s: damaged (%s): %s", path, error.reason, outcome)


def was_set_aside(path: Path) -> bool:
    """Say whether a file was found damaged and has not been made anew yet."""
    return not path.exists() and any(True for _ in _set_aside(path))


def _set_aside(path: Path) -> Iterable[Path]:
    prefix = f"{path.name}.corrupt"
    return [place for place in path.parent.glob("*.corrupt*") if place.name.startswith(prefix)]
