"""Files -> a repository of the hub, made if need be. Nothing here runs unless a person asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmark.failures import UnavailableError
from benchmark.hub.errors import Kind, explain
from benchmark.hub.requests import client, request_errors, with_retries
from benchmark.hub.settings import access_token, endpoint, is_offline

_ATTEMPTS = 2
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def repository_page(repository: str, kind: Kind) -> str:
    """Return the address of a repository's page."""
    return f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repository}"


def upload_files(
    files: Mapping[str, Path | bytes], repository: str, kind: Kind, *, private: bool, message: str
) -> str:
    """Commit files to the main branch of a repository, which is made if it is not there.

    Args:
        files: by path in the repository; a file of this machine, or content.
        repository: owner/name.
        kind: of the repository.
        private: whether only its owner may read a new one. An existing one that everybody may
            read is refused.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        UnavailableError: no token, no connection, or the hub refuses; says what to do.
    """
    from huggingface_hub import CommitOperationAdd

    _require_writable(repository, kind)
    hub = client()
    try:
        _require_privacy(repository, kind, private)
        hub.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        done = hub.create_commit(
            repository, operations, commit_message=message, repo_type=kind, revision="main"
        )
    except request_errors() as error:
        if isinstance(error, UnavailableError):
            raise
        raise UnavailableError(explain(error, repository, "main", kind, upload=True)) from error
    return str(done.commit_url)


def _require_writable(repository: str, kind: Kind) -> None:
    if not _NAME.fullmatch(repository):
        raise UnavailableError(f"'{repository}' is no repository of the hub: give OWNER/NAME")
    if is_offline():
        raise UnavailableError(
            f"{kind} {repository}: HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it"
        )
    if not access_token():
        raise UnavailableError(
            f"{kind} {repository}: an upload needs HF_TOKEN, a token that may write there"
        )


def _require_privacy(repository: str, kind: Kind, private: bool) -> None:
    """Refuse to put what is to be private where everybody may read it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = with_retries(lambda: client().repo_info(repository, repo_type=kind), _ATTEMPTS)
    except RepositoryNotFoundError:
        return
    if private and not info.private:
        raise UnavailableError(
            f"{kind} {repository} is there already and everybody may read it: say --public if "
            "that is meant, or name another one"
        )
