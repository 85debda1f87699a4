"""What the hub's errors mean, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from benchmark.failures import first_line
from benchmark.hub.settings import endpoint, is_offline

Kind = Literal["model", "dataset"]
_BUSY = (408, 429, 500, 502, 503, 504)
_AGAIN = "run the same command again to continue"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def may_pass(error: BaseException) -> bool:
    """Say whether trying again may help: broken connections, and answers of a busy hub.

    Not what the library has itself tried again before it reported a missing file.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, EntryNotFoundError | OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    return _is_broken_connection(error)


def _is_broken_connection(error: BaseException) -> bool:
    from httpx2 import TransportError

    cut_short = isinstance(error, OSError) and "Consistency check failed" in str(error)
    return isinstance(error, TransportError | ConnectionError) or cut_short


def explain(
    error: BaseException, repository: str, revision: str, kind: Kind, *, upload: bool = False
) -> str:
    """Return what is wrong with a request to the hub and what to do, in one line.

    Args:
        error: what the library raised.
        repository: owner/name.
        revision: that was asked for.
        kind: of the repository.
        upload: whether something was brought there: then no cache can help.
    """
    from huggingface_hub.errors import HfHubHTTPError

    what = f"{kind} {repository} (revision {revision})"
    if is_offline():
        return (
            f"{what} is not wholly in the cache and HF_HUB_OFFLINE is set: run the same command "
            f"once without it, where the hub can be reached ({first_line(error)})"
        )
    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            return f"{what}: {_explain_answer(cause, repository, revision, kind)}"
        if _is_broken_connection(cause):
            cached = "" if upload else ", or set HF_HUB_OFFLINE=1 to use what is cached"
            return (
                f"{what}: the hub ({endpoint()}) cannot be reached or broke off "
                f"({first_line(cause)}): check the network; {_AGAIN}{cached}"
            )
    reason = first_line(error)
    if "scripts are no longer supported" in reason:
        reason += ". Scripts are not run; the hub may keep tables of it in a branch of their own: "
        reason += "set 'revision: refs/convert/parquet'"
    return f"{what} cannot be loaded: {reason}"


def _explain_answer(error: Any, repository: str, revision: str, kind: Kind) -> str:
    """Return what the hub's refusal means."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as UnknownRevisionError

    status = error.response.status_code
    page = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if isinstance(error, GatedRepoError):
        whose = "a token of the account that accepted them"
        return (
            f"access to it is gated ({status}): accept the terms on {page} and set HF_TOKEN to "
            f"{whose}"
        )
    if isinstance(error, UnknownRevisionError):
        return f"it has no revision '{revision}': see {page}/tree/main for its branches and commits"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no such {kind} on the hub ({status}): check the name; a private one looks "
            "the same without an HF_TOKEN that may read it"
        )
    if status in (401, 403):
        return f"the hub refuses access ({status}): check HF_TOKEN and its permissions"
    if status in _BUSY:
        return f"the hub is out of order or busy ({status}): {_AGAIN}"
    return f"the hub answers {status}: {first_line(error)}"
