"""Branches and tags -> commits; remembered for when the hub cannot be reached."""

from __future__ import annotations

import functools
import math
import time
from contextlib import suppress
from pathlib import Path

from benchmark.hub.errors import Kind, causes, explain
from benchmark.hub.requests import client, request_errors, with_retries
from benchmark.hub.settings import is_offline, patience
from benchmark.records import RevisionUnavailableError, write_text

_QUESTION_ATTEMPTS = 3
_REFUSAL_LASTS = 60.0  # seconds; other runs of the same input need not wait for it again
_refusals: dict[tuple[str, str, Kind], tuple[float, str]] = {}
"""When the hub was last asked in vain, and what was wrong."""
_lost: list[float] = []
"""When no connection to the hub could be made, the last time."""


def resolve_hub_revision(repository: str, revision: str | None, kind: Kind) -> str:
    """Return the commit that `revision` (a branch, tag or commit; None: main) stands for.

    The hub is asked once in a process, or after a while if it failed to answer. A branch's
    commit is remembered in the hub's cache, for HF_HUB_OFFLINE.

    Raises:
        RevisionUnavailableError: the hub does not answer, refuses, or has no such revision.
    """
    if revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    question = (repository, revision or "main", kind)
    asked, reason = _refusals.get(question, (-math.inf, ""))
    if time.monotonic() - asked < _REFUSAL_LASTS:
        raise RevisionUnavailableError(reason)
    try:
        return _resolve(*question)
    except RevisionUnavailableError as error:
        _refusals[question] = (time.monotonic(), str(error))
        raise


@functools.cache
def _resolve(repository: str, revision: str, kind: Kind) -> str:
    reference = repository_cache(repository, kind) / "refs" / revision
    if is_offline():
        return _cached_revision(repository, revision, kind, reference)
    hub, wait = client(), patience()
    try:
        info = with_retries(
            lambda: hub.repo_info(repository, revision=revision, repo_type=kind, timeout=wait),
            1 if _was_lost() else _QUESTION_ATTEMPTS,
        )
    except request_errors() as error:
        _note_loss(error)
        raise RevisionUnavailableError(explain(error, repository, revision, kind)) from None
    if info.sha is None:
        raise RevisionUnavailableError(f"{kind} {repository}: the hub names no commit for it")
    with suppress(OSError):  # a cache that cannot be written to still serves this run
        write_text(reference, str(info.sha))
    return str(info.sha)


def _was_lost() -> bool:
    """Say whether the hub was out of reach a moment ago: then one attempt tells enough."""
    return bool(_lost) and time.monotonic() - _lost[-1] < _REFUSAL_LASTS


def _note_loss(error: BaseException) -> None:
    from httpx2 import ConnectError

    if any(isinstance(cause, ConnectError) for cause in causes(error)):
        _lost[:] = [time.monotonic()]


def _cached_revision(repository: str, revision: str, kind: Kind, reference: Path) -> str:
    if not reference.exists():
        raise RevisionUnavailableError(
            f"{kind} {repository} (revision {revision}) is not in the cache and HF_HUB_OFFLINE "
            "is set: unset it to download, or pin a cached commit"
        )
    return reference.read_text(encoding="utf-8").strip()


def repository_cache(repository: str, kind: Kind) -> Path:
    """Return the folder of the hub's cache that holds a repository."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}"
