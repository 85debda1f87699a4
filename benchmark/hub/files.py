"""A model's files, fetched at one commit into the hub's cache."""

from __future__ import annotations

import functools
from pathlib import Path

from benchmark.failures import UnavailableError
from benchmark.hub.conversions import find_conversion
from benchmark.hub.errors import causes, explain
from benchmark.hub.requests import DOWNLOAD_ATTEMPTS, client, request_errors, with_retries
from benchmark.hub.settings import is_offline, patience
from benchmark.hub.weights import (
    PICKLE,
    REFUSED_PICKLE,
    SAFETENSORS,
    CheckpointFiles,
    find_weights,
)

_SETTINGS_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.bpe", "*.codes", "*.tiktoken"]
_SAFETENSORS = [SAFETENSORS, "model-*.safetensors"]
_PICKLES = [PICKLE, "pytorch_model-*.bin"]


def fetch_settings(repository: str, commit: str, *, remote_code: bool = False) -> None:
    """Bring a model's configuration, tokenizer and image processor files into the cache.

    Raises:
        UnavailableError: they are not to be had.
    """
    fetch_files(repository, commit, [*_SETTINGS_FILES, *(["*.py"] if remote_code else [])])


@functools.cache
def fetch_checkpoint(
    repository: str, commit: str, *, allow_pickle: bool = True, remote_code: bool = False
) -> CheckpointFiles:
    """Bring a model's configuration and weights into the cache and say where they are.

    The weights are the first of: safetensors of the commit; the hub's own conversion of the
    commit's pickle, a pull request; the pickle. Asked once in a process.

    Args:
        repository: the model's.
        commit: at which all is taken.
        allow_pickle: whether the last is allowed.
        remote_code: whether the checkpoint's own code is to be fetched.

    Raises:
        UnavailableError: they are not to be had.
    """
    settings = [*_SETTINGS_FILES, *(["*.py"] if remote_code else [])]
    folder = fetch_files(repository, commit, [*settings, *_SAFETENSORS])
    names = find_weights(folder, SAFETENSORS)
    if names:
        return CheckpointFiles(folder, folder, names)
    conversion = None
    if not remote_code:  # the hub converts none of those
        conversion = find_conversion(repository, commit, _PICKLES, _SAFETENSORS)
    if conversion is not None:
        index = f"{SAFETENSORS}.index.json"
        converted = fetch_files(repository, conversion.commit, [*_SAFETENSORS, index])
        names = find_weights(converted, SAFETENSORS)
        if names:
            return CheckpointFiles(folder, converted, names, conversion.description)
    cached = " in the cache" if is_offline() else ""
    problem = f"model {repository} (commit {commit}) has no safetensors weights{cached}"
    if not allow_pickle:
        raise UnavailableError(f"{problem}, and {REFUSED_PICKLE}")
    folder = fetch_files(repository, commit, [*settings, *_PICKLES])
    names = find_weights(folder, PICKLE)
    if names:
        return CheckpointFiles(folder, folder, names)
    raise UnavailableError(f"{problem}, nor a {PICKLE}: name a revision that has weights")


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
