"""How large what would be fetched is, as far as the hub tells."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

from benchmark.hub.errors import Kind
from benchmark.hub.requests import client, request_errors
from benchmark.hub.settings import is_offline

_WEIGHTS = (("model*.safetensors",), ("pytorch_model*.bin",))
"""The first kind that a repository has is fetched."""
_DATA_ENDINGS = (".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".gz", ".zip")


def weights_size(repository: str, commit: str) -> int | None:
    """Return the bytes of a model's weights at a commit; None where the hub does not tell."""
    sizes = _file_sizes(repository, commit, "model")
    for patterns in _WEIGHTS:
        found = [size for path, size in sizes.items() if _matches(path, patterns)]
        if found:
            return sum(found)
    return None


def data_size(
    repository: str, commit: str, config: str | None, files: Iterable[str] | None
) -> int | None:
    """Return the bytes of a data set's files at a commit; None where the hub does not tell.

    Args:
        repository: owner/name.
        commit: at which the files are listed.
        config: the configuration, whose files are those in a folder of its name, if there are.
        files: patterns of the files that are fetched; None: all of the configuration.
    """
    sizes = _file_sizes(repository, commit, "dataset")
    if files is not None:
        patterns = tuple(files)
        found = {path: size for path, size in sizes.items() if _matches(path, patterns)}
    else:
        found = {path: size for path, size in sizes.items() if path.endswith(_DATA_ENDINGS)}
        of_config = {path: size for path, size in found.items() if path.startswith(f"{config}/")}
        found = of_config or found
    return sum(found.values()) or None


@functools.cache
def _file_sizes(repository: str, commit: str, kind: Kind) -> Mapping[str, int]:
    """Return the bytes of each file; empty where the hub cannot be asked."""
    if is_offline():
        return {}
    try:
        tree = client().list_repo_tree(repository, revision=commit, repo_type=kind, recursive=True)
        sizes = {entry.path: getattr(entry, "size", None) for entry in tree}
    except request_errors():
        return {}
    return {path: size for path, size in sizes.items() if size is not None}


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)
