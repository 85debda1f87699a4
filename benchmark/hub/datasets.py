"""Data sets of the hub, prepared once for each commit and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.failures import UnavailableError
from benchmark.hub.errors import explain
from benchmark.hub.requests import DOWNLOAD_ATTEMPTS, client, request_errors, with_retries
from benchmark.hub.settings import access_token, patience
from benchmark.records import write_text

if TYPE_CHECKING:
    import datasets

_PREPARED = "prepared.json"


def load_hub_dataset(
    repository: str, commit: str, config: str | None, files: Mapping[str, str] | None
) -> datasets.DatasetDict:
    """Return a data set's source splits as they are at one commit.

    What was prepared is kept in a folder of its own for each commit, configuration and choice
    of files: where the hub cannot be reached, the `datasets` library takes the latest that it
    finds in its cache folder, whatever revision was asked for.

    Raises:
        UnavailableError: the data are not to be had.
    """
    from datasets.exceptions import DatasetsError

    cache = _dataset_cache(repository, commit, config, files)
    try:
        return with_retries(
            lambda: _load_dataset(repository, commit, config, files, cache), DOWNLOAD_ATTEMPTS
        )
    except (*request_errors(), DatasetsError) as error:
        raise UnavailableError(explain(error, repository, commit, "dataset")) from error


def _load_dataset(
    repository: str,
    commit: str,
    config: str | None,
    files: Mapping[str, str] | None,
    cache: Path,
) -> datasets.DatasetDict:
    import datasets

    prepared = _prepared_dataset(cache)
    if prepared is not None:
        return prepared
    _fetch_card(repository, commit)
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        repository,
        config,
        data_files=None if files is None else dict(files),
        revision=commit,
        token=access_token(),
        cache_dir=str(cache),
    )
    tables = {
        split: [str(Path(part["filename"]).relative_to(cache)) for part in parts]
        for split, parts in loaded.cache_files.items()
    }
    write_text(cache / _PREPARED, json.dumps(tables))
    return loaded


def _prepared_dataset(cache: Path) -> datasets.DatasetDict | None:
    """Return what was prepared in `cache` before; None: nothing was, or not to its end."""
    import datasets

    try:
        tables = json.loads((cache / _PREPARED).read_text(encoding="utf-8"))
        return datasets.DatasetDict(
            {
                split: datasets.concatenate_datasets(
                    [datasets.Dataset.from_file(str(cache / part)) for part in parts]
                )
                for split, parts in tables.items()
            }
        )
    except (OSError, ValueError):
        return None


def _fetch_card(repository: str, commit: str) -> None:
    """Fetch a data set's card first: the hub's own error for it says best what is wrong."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        client().hf_hub_download(
            repository,
            "README.md",
            repo_type="dataset",
            revision=commit,
            etag_timeout=patience(),
        )
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return  # a data set need not have one


def _dataset_cache(
    repository: str, commit: str, config: str | None, files: Mapping[str, str] | None
) -> Path:
    import datasets

    choice = json.dumps([config, None if files is None else dict(files)], sort_keys=True)
    name = f"{commit}-{hashlib.sha256(choice.encode()).hexdigest()[:8]}"
    root = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "by-commit"
    return root / repository.replace("/", "--") / name
