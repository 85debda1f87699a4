"""The hub's own conversion of a pickle to safetensors: a pull request that its bot has opened.

Nobody is asked to convert anything. What the bot has converted is taken where the pickle it
started from is the one of the commit that a run is pinned to, byte for byte.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from benchmark.failures import UnavailableError
from benchmark.hub.errors import causes, explain
from benchmark.hub.requests import DOWNLOAD_ATTEMPTS, client, request_errors, with_retries
from benchmark.hub.revisions import repository_cache
from benchmark.hub.settings import is_offline, patience
from benchmark.records import write_text

_BOT = "SFconvertbot"
_VALID = ("open", "merged")
"""The owner has not refused it."""


@dataclass(frozen=True)
class Conversion:
    """A pull request, at the commit that it stood at when it was first used."""

    number: int
    commit: str

    @property
    def description(self) -> str:
        """Its place, for records."""
        return f"the hub's conversion, pull request {self.number} (commit {self.commit})"


def find_conversion(
    repository: str, commit: str, pickles: Sequence[str], safetensors: Sequence[str]
) -> Conversion | None:
    """Return the hub's conversion of a commit's pickle; None where there is none.

    It is remembered in the hub's cache, so that a commit's weights are read from one place ever
    after, offline too.

    Args:
        repository: the model's.
        commit: of the pickle.
        pickles: patterns of the pickle's files.
        safetensors: patterns of the files that the conversion must have.

    Raises:
        UnavailableError: the hub does not answer.
    """
    memory = repository_cache(repository, "model") / "refs" / "conversions" / commit
    for remembered in sorted(memory.glob("*")):
        return Conversion(int(remembered.name), remembered.read_text(encoding="utf-8").strip())
    if is_offline():
        return None
    try:
        found = with_retries(
            lambda: _ask_for_conversion(repository, commit, pickles, safetensors),
            DOWNLOAD_ATTEMPTS,
        )
    except request_errors() as error:
        if _is_refusal(error):  # the owner has turned discussions off, or a mirror has none
            return None
        raise UnavailableError(explain(error, repository, commit, "model")) from error
    if found is not None:
        with suppress(OSError):  # a cache that cannot be written to still serves this run
            write_text(memory / str(found.number), found.commit)
    return found


def _ask_for_conversion(
    repository: str, commit: str, pickles: Sequence[str], safetensors: Sequence[str]
) -> Conversion | None:
    hub = client()
    requests = hub.get_repo_discussions(
        repository, author=_BOT, discussion_type="pull_request", discussion_status="all"
    )
    numbers = [
        request.num
        for request in requests
        # The hub is asked for the bot's only; a mirror may not look at what it is asked for.
        if request.author == _BOT and request.is_pull_request and request.status in _VALID
    ]
    if not numbers:
        return None
    original = _contents(hub, repository, commit)[1]
    wanted = _matching(original, pickles)
    for number in sorted(numbers, reverse=True):
        at, files = _contents(hub, repository, f"refs/pr/{number}")
        if wanted and _matching(files, pickles) == wanted and _matching(files, safetensors):
            return Conversion(number, at)
    return None


def _contents(hub: Any, repository: str, revision: str) -> tuple[str, dict[str, str]]:
    """Return a revision's commit, and its files with their identities."""
    info = hub.model_info(repository, revision=revision, files_metadata=True, timeout=patience())
    files = {file.rfilename: str(file.blob_id) for file in info.siblings or ()}
    return str(info.sha), files


def _matching(files: dict[str, str], patterns: Sequence[str]) -> dict[str, str]:
    return {
        name: blob
        for name, blob in files.items()
        if "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }


def _is_refusal(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    return any(
        isinstance(cause, HfHubHTTPError) and cause.response.status_code in (400, 401, 403, 404)
        for cause in causes(error)
    )
