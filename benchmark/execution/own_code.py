"""Runs of checkpoints that bring code of their own: after all others, in processes of their own.

Code of a checkpoint can do what a person can, so a process that has run it is not trusted with the
token any more. What such a run needs is fetched here, with the token; the code then runs in
workers that have neither the token nor a hub to ask (see `benchmark.hub`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from benchmark.data import load_corpus
from benchmark.execution.progress import StageProgress
from benchmark.execution.resolution import resolve
from benchmark.execution.run_record import run_record
from benchmark.execution.workers import Finished, run_in_workers
from benchmark.failures import UnavailableError, outcome
from benchmark.hub import (
    fetch_model_with_code,
    remote_code_is_allowed,
    secrets_hidden,
)
from benchmark.plan import RunSpec
from benchmark.records import Record


def run_apart(
    specs: Sequence[RunSpec], results: Path, **options: Any
) -> Generator[StageProgress | Finished]:
    """Execute runs in workers, those with code of their own last and without secrets.

    Args:
        specs: the runs.
        results: the results tree.
        options: of `run_in_workers`.
    """
    apart = [spec for spec in specs if spec.model.trust_remote_code and remote_code_is_allowed()]
    others = [spec for spec in specs if spec not in apart]
    if others:  # those whose code is not allowed among them: each is refused where it would load
        yield from run_in_workers(others, results, **options)
    fetched = []
    for spec in apart:
        refused = _fetch(spec, results)
        if refused is None:
            fetched.append(spec)
        else:
            yield Finished(refused)
    if fetched:
        with secrets_hidden():
            yield from run_in_workers(fetched, results, **options)


def note_on_code(spec: RunSpec) -> str | None:
    """Return what a person must know of a run whose checkpoint brings code, before it runs."""
    if not spec.model.trust_remote_code:
        return None
    if not remote_code_is_allowed():
        return "refused: it runs code of its own, which needs --allow-remote-code"
    return "runs code of its own"


def _fetch(spec: RunSpec, results: Path) -> Record | None:
    """Fetch what a run needs of the hub; return its record where that is not to be had."""
    stage = "inputs"
    try:
        resolved = resolve(spec, results)
        if resolved.dataset.hub is not None:
            stage = "data"
            load_corpus(resolved.dataset, revision=resolved.data_revision, limit=resolved.limit)
        if resolved.model.hub is not None:
            stage = "checkpoint"
            _fetch_model(resolved)
    except Exception as error:
        status, failure = outcome(error, stage)
        record = run_record(spec, status, failure=failure)
        spec.folder(results).write_record(record)
        return record
    return None


def _fetch_model(spec: RunSpec) -> None:
    entry = spec.model
    try:
        fetch_model_with_code(
            str(entry.hub), str(spec.model_revision), allow_pickle=entry.allow_pickle
        )
    except UnavailableError as error:
        raise UnavailableError(f"model {entry.name}: {error}") from error
