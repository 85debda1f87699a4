"""Code that comes with a checkpoint: who allows it, and what it gets to see of this machine.

It runs only where the registry's entry says `trust_remote_code: true` and the command line says
`--allow-remote-code`, in processes that know no token and ask no hub. What it needs is fetched
before, by a process that runs none of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.hub.files import fetch_checkpoint, fetch_files
from benchmark.hub.settings import access_token
from benchmark.markup import without_credentials

_ALLOWED = "BENCHMARK_ALLOW_REMOTE_CODE"
_SECRET = re.compile(
    r"(^|_)(tokens?|secrets?|password|passwd|passphrase|credentials?|(api|access|private)_?key)(_|$)",
    re.IGNORECASE,
)
"""Names of variables that hold secrets: HF_TOKEN, AWS_SECRET_ACCESS_KEY, WANDB_API_KEY, ..."""


def allow_remote_code(allowed: bool) -> None:
    """Say for this process, and those that it starts, whether checkpoints may run their code."""
    os.environ.pop(_ALLOWED, None)
    if allowed:
        os.environ[_ALLOWED] = "1"


def remote_code_is_allowed() -> bool:
    """Say whether checkpoints may run their own code here."""
    return os.environ.get(_ALLOWED) == "1"


def refusal_of_code() -> str | None:
    """Return why this process does not run a checkpoint's own code, or None where it may."""
    if not remote_code_is_allowed():
        return (
            "it runs code of its own (trust_remote_code: true), which the command line has to "
            "allow as well: read the code, then add --allow-remote-code"
        )
    if access_token():
        return (
            "it runs code of its own, which could read HF_TOKEN in this process: start run.py "
            "without a launcher of several processes, and it hides the token; or unset HF_TOKEN"
        )
    return None


def environment_for_code(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process with a checkpoint's code gets: no secret, and no hub."""
    kept = {
        name: without_credentials(value)
        for name, value in environment.items()
        if not _SECRET.search(name)
    }
    # A token that a log-in left on disk is not found by the library's own means, either.
    return {**kept, "HF_HUB_OFFLINE": "1", "HF_TOKEN_PATH": os.devnull}


@contextmanager
def secrets_hidden() -> Iterator[None]:
    """Let processes that are started meanwhile have the environment of `environment_for_code`."""
    before = dict(os.environ)
    hidden = environment_for_code(before)
    try:
        for name in before.keys() - hidden.keys():
            del os.environ[name]
        os.environ.update(hidden)
        yield
    finally:
        for name in hidden.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update(before)


def fetch_model_with_code(repository: str, commit: str, *, allow_pickle: bool = True) -> None:
    """Bring a checkpoint and its code into the cache, also code that lies in other repositories.

    Nothing of it is run.

    Raises:
        UnavailableError: they are not to be had.
    """
    folder = fetch_files(repository, commit, ["*.json", "*.py"])
    fetch_checkpoint(repository, commit, allow_pickle=allow_pickle, remote_code=True)
    for other in sorted(_repositories_of_code(folder)):
        # The library takes such code from the main branch, so its commit cannot be pinned.
        fetch_files(other, "main", ["*.json", "*.py"])


def _repositories_of_code(folder: Path) -> set[str]:
    """Return the repositories that a checkpoint's settings name with `repository--module.Class`."""
    found = set()
    for file in folder.glob("*.json"):
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        auto_map = settings.get("auto_map") if isinstance(settings, dict) else None
        for name in _texts(auto_map):
            repository, dashes, _ = name.partition("--")
            if dashes:
                found.add(repository)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
