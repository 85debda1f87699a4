"""A model's files, fetched at one commit into the hub's cache."""

from __future__ import annotations

from pathlib import Path

from benchmark.failures import UnavailableError
from benchmark.hub.errors import causes, explain
from benchmark.hub.requests import DOWNLOAD_ATTEMPTS, client, request_errors, with_retries
from benchmark.hub.settings import is_offline, patience

_SETTINGS_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.bpe", "*.codes", "*.tiktoken"]
_SAFETENSORS = ["model.safetensors", "model-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model-*.bin"]


def fetch_settings(repository: str, commit: str, *, remote_code: bool = False) -> None:
    """Bring a model's configuration, tokenizer and image processor files into the cache.

    Raises:
        UnavailableError: they are not to be had.
    """
    fetch_files(repository, commit, [*_SETTINGS_FILES, *(["*.py"] if remote_code else [])])


def fetch_weights(repository: str, commit: str, *, allow_pickle: bool = False) -> None:
    """Bring a model's weights into the cache: safetensors, or else a pickle if it is allowed.

    Raises:
        UnavailableError: they are not to be had.
    """
    folder = fetch_files(repository, commit, [*_SETTINGS_FILES, *_SAFETENSORS])
    if any(folder.glob("model*.safetensors")):
        return
    if allow_pickle:
        fetch_files(repository, commit, [*_SETTINGS_FILES, *_PICKLES])
        return
    raise UnavailableError(
        f"model {repository} (commit {commit}) has no safetensors weights"
        f"{' in the cache' if is_offline() else ''}: set 'allow_pickle: true' to read the tensors "
        "of its pickle, or name a revision that has safetensors"
    )


def is_missing_file(error: BaseException) -> bool:
    """Say whether a library failed because a repository that was fetched lacks a file."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return any(isinstance(cause, LocalEntryNotFoundError) for cause in causes(error))


def fetch_files(repository: str, commit: str, patterns: list[str]) -> Path:
    """Return the folder of a model's files that match; none in subfolders (other formats).

    Raises:
        UnavailableError: they are not to be had.
    """
    hub = client()
    try:
        folder = with_retries(
            lambda: hub.snapshot_download(
                repository,
                revision=commit,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                etag_timeout=patience(),
            ),
            DOWNLOAD_ATTEMPTS,
        )
    except request_errors() as error:
        raise UnavailableError(explain(error, repository, commit, "model")) from error
    return Path(folder)
