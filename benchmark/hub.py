"""The Hugging Face hub: revisions, files and data sets, each error with what to do about it.

What a run needs is fetched here, at a pinned commit, into the hub's cache, and is read from
there. Left to themselves the libraries go on without an optional file when the network fails,
and with another revision's data when a data set cannot be reached.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from benchmark.failures import UnavailableError, first_line
from benchmark.records import RevisionUnavailableError

if TYPE_CHECKING:
    import datasets
    from huggingface_hub import HfApi

# The libraries read these when they are imported, or when they load weights: no token from
# disk, no request that somebody convert a checkpoint, no telemetry, no advice between our lines.
os.environ.setdefault("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_VERBOSITY", "error")
os.environ.setdefault("DATASETS_VERBOSITY", "error")

Kind = Literal["model", "dataset"]
ResultT = TypeVar("ResultT")

_QUESTION_ATTEMPTS = 3
_DOWNLOAD_ATTEMPTS = 2
"""The library makes some of its own in each of ours, and goes on where a file was cut off."""
_FIRST_DELAY = 0.5  # seconds, doubled after each attempt
_REFUSAL_LASTS = 60.0  # seconds; other runs of the same input need not wait for it again
_refusals: dict[tuple[str, str, Kind], tuple[float, str]] = {}
"""When the hub was last asked in vain, and what was wrong."""
_lost: list[float] = []
"""When no connection to the hub could be made, the last time."""
_BUSY = (408, 429, 500, 502, 503, 504)
_SETTINGS_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.bpe", "*.codes", "*.tiktoken"]
_SAFETENSORS = ["model.safetensors", "model-*.safetensors"]
_PICKLES = ["pytorch_model.bin", "pytorch_model-*.bin"]
_PREPARED = "prepared.json"
_AGAIN = "run the same command again to continue"


def access_token() -> str | Literal[False]:
    """Return the token of HF_TOKEN, or False: send none, whatever a file on disk holds."""
    return os.environ.get("HF_TOKEN", "").strip() or False


def is_offline() -> bool:
    """Say whether the hub must not be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub.constants import is_offline_mode

    return bool(is_offline_mode())


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
    reference = _repository_cache(repository, kind) / "refs" / revision
    if is_offline():
        return _cached_revision(repository, revision, kind, reference)
    api, wait = _api(), _patience()
    try:
        info = _with_retries(
            lambda: api.repo_info(repository, revision=revision, repo_type=kind, timeout=wait),
            1 if _was_lost() else _QUESTION_ATTEMPTS,
        )
    except _request_errors() as error:
        _note_loss(error)
        raise RevisionUnavailableError(_explain(error, repository, revision, kind)) from None
    if info.sha is None:
        raise RevisionUnavailableError(f"{kind} {repository}: the hub names no commit for it")
    with suppress(OSError):  # a cache that cannot be written to still serves this run
        _write_atomically(reference, str(info.sha))
    return str(info.sha)


def _was_lost() -> bool:
    """Say whether the hub was out of reach a moment ago: then one attempt tells enough."""
    return bool(_lost) and time.monotonic() - _lost[-1] < _REFUSAL_LASTS


def _note_loss(error: BaseException) -> None:
    from httpx2 import ConnectError

    if any(isinstance(cause, ConnectError) for cause in _chain(error)):
        _lost[:] = [time.monotonic()]


def _cached_revision(repository: str, revision: str, kind: Kind, reference: Path) -> str:
    if not reference.exists():
        raise RevisionUnavailableError(
            f"{kind} {repository} (revision {revision}) is not in the cache and HF_HUB_OFFLINE "
            "is set: unset it to download, or pin a cached commit"
        )
    return reference.read_text(encoding="utf-8").strip()


def fetch_settings(repository: str, commit: str, *, remote_code: bool = False) -> None:
    """Bring a model's configuration, tokenizer and image processor files into the cache.

    Raises:
        UnavailableError: they are not to be had.
    """
    _fetch_files(repository, commit, [*_SETTINGS_FILES, *(["*.py"] if remote_code else [])])


def fetch_weights(repository: str, commit: str, *, allow_pickle: bool = False) -> None:
    """Bring a model's weights into the cache: safetensors, or else a pickle if it is allowed.

    Raises:
        UnavailableError: they are not to be had.
    """
    folder = _fetch_files(repository, commit, [*_SETTINGS_FILES, *_SAFETENSORS])
    if any(folder.glob("model*.safetensors")):
        return
    if allow_pickle:
        _fetch_files(repository, commit, [*_SETTINGS_FILES, *_PICKLES])
        return
    raise UnavailableError(
        f"model {repository} (commit {commit}) has no safetensors weights"
        f"{' in the cache' if is_offline() else ''}: set 'allow_pickle: true' to read the tensors "
        "of its pickle, or name a revision that has safetensors"
    )


def is_missing_file(error: BaseException) -> bool:
    """Say whether a library failed because a repository that was fetched lacks a file."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return any(isinstance(cause, LocalEntryNotFoundError) for cause in _chain(error))


def _fetch_files(repository: str, commit: str, patterns: list[str]) -> Path:
    """Return the folder of a model's files that match; none in subfolders (other formats)."""
    api = _api()
    try:
        folder = _with_retries(
            lambda: api.snapshot_download(
                repository,
                revision=commit,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                etag_timeout=_patience(),
            ),
            _DOWNLOAD_ATTEMPTS,
        )
    except _request_errors() as error:
        raise UnavailableError(_explain(error, repository, commit, "model")) from error
    return Path(folder)


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
        return _with_retries(
            lambda: _load_dataset(repository, commit, config, files, cache), _DOWNLOAD_ATTEMPTS
        )
    except (*_request_errors(), DatasetsError) as error:
        raise UnavailableError(_explain(error, repository, commit, "dataset")) from error


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
    _write_atomically(cache / _PREPARED, json.dumps(tables))
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
        _api().hf_hub_download(
            repository,
            "README.md",
            repo_type="dataset",
            revision=commit,
            etag_timeout=_patience(),
        )
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return  # a data set need not have one


# --- caches -------------------------------------------------------------------------------------


def _repository_cache(repository: str, kind: Kind) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}"


def _dataset_cache(
    repository: str, commit: str, config: str | None, files: Mapping[str, str] | None
) -> Path:
    import datasets

    choice = json.dumps([config, None if files is None else dict(files)], sort_keys=True)
    name = f"{commit}-{hashlib.sha256(choice.encode()).hexdigest()[:8]}"
    root = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "by-commit"
    return root / repository.replace("/", "--") / name


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=".tmp-", delete=False
    ) as stream:
        stream.write(text)
    os.replace(stream.name, path)


# --- requests and their errors --------------------------------------------------------------------


@functools.cache
def _limit_waiting() -> None:
    """Let every request of the library give up in time; some of its own wait for ever."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils._http import default_client_factory

    def make_client() -> Any:
        client = default_client_factory()
        client.timeout = HF_HUB_DOWNLOAD_TIMEOUT
        return client

    set_client_factory(make_client)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    _limit_waiting()
    return HfApi(token=access_token())


def _patience() -> int:
    """Return the seconds to wait for an answer without content (HF_HUB_ETAG_TIMEOUT)."""
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    return int(HF_HUB_ETAG_TIMEOUT)


def _with_retries(work: Callable[[], ResultT], attempts: int) -> ResultT:
    """Do `work`; try again after a while if the connection or the hub failed for the moment."""
    delay = _FIRST_DELAY
    for _ in range(attempts - 1):
        try:
            return work()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(delay)
        delay *= 2
    return work()


def _request_errors() -> tuple[type[Exception], ...]:
    """Return what the library raises when a request or its answer is not as it should be."""
    from httpx2 import HTTPError

    return (OSError, ValueError, RuntimeError, HTTPError)


def _may_pass(error: BaseException) -> bool:
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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _explain(error: BaseException, repository: str, revision: str, kind: Kind) -> str:
    """Return what is wrong with a request to the hub and what to do, in one line."""
    from huggingface_hub.errors import HfHubHTTPError

    what = f"{kind} {repository} (revision {revision})"
    if is_offline():
        return (
            f"{what} is not wholly in the cache and HF_HUB_OFFLINE is set: run the same command "
            f"once without it, where the hub can be reached ({first_line(error)})"
        )
    for cause in _chain(error):
        if isinstance(cause, HfHubHTTPError):
            return f"{what}: {_explain_answer(cause, repository, revision, kind)}"
        if _is_broken_connection(cause):
            return (
                f"{what}: the hub ({_endpoint()}) cannot be reached or broke off "
                f"({first_line(cause)}): check the network; {_AGAIN}, or set HF_HUB_OFFLINE=1 to "
                "use what is cached"
            )
    return f"{what} cannot be loaded: {first_line(error)}"


def _explain_answer(error: Any, repository: str, revision: str, kind: Kind) -> str:
    """Return what the hub's refusal means."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as UnknownRevisionError

    status = error.response.status_code
    page = f"{_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if isinstance(error, GatedRepoError):
        token = "a token of the account that accepted them"
        return (
            f"access to it is gated ({status}): accept the terms on {page} and set HF_TOKEN to "
            f"{token}"
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


def _endpoint() -> str:
    from huggingface_hub.constants import ENDPOINT

    return str(ENDPOINT)
