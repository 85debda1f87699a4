"""A run against what is there: its inputs' identities, and which of its stages are still to do."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from pydantic import ValidationError

from benchmark.data import resolve_data_revision
from benchmark.execution.trained_model import TrainedModel, find_trained_model
from benchmark.failures import UnavailableError
from benchmark.hub import resolve_hub_revision
from benchmark.markup import without_credentials
from benchmark.plan import RunSpec, Stage
from benchmark.records import (
    DamagedError,
    Record,
    RecordHead,
    ResultsError,
    RevisionUnavailableError,
    RunFolder,
    fingerprint_path,
    set_aside,
    stored_key,
    verify_logits,
    was_set_aside,
)


def resolve(spec: RunSpec, results: Path) -> RunSpec:
    """Return the spec with its inputs' identities filled in (hub commits, content hashes).

    Where an input is out of reach (no network, a folder that is gone) but the same run has been
    completed, its inputs' identities are taken, with a warning: nothing has to be read again.

    Raises:
        UnavailableError: the hub or a path does not have an input.
        RunError: an embedded dataset's name is unknown.
    """
    try:
        revisions = {
            "model_revision": _model_revision(spec),
            "data_revision": resolve_data_revision(spec.dataset),
        }
    except RevisionUnavailableError as error:
        completed = _completed_spec(spec, results)
        if completed is None:
            raise UnavailableError(str(error)) from None
        _warn_once(f"{error}; going on with the completed run's inputs")
        return completed
    return spec.model_copy(update=revisions)


def _completed_spec(spec: RunSpec, results: Path) -> RunSpec | None:
    """Return the spec of the completed record if it asks for the same as this one."""
    folder = spec.folder(results)
    record = usable_head(folder)
    if record is None or record.status != "completed":
        return None
    try:
        stored = RunSpec.model_validate(folder.read_spec())
    except ValidationError:
        return None
    unresolved = {"model_revision": None, "data_revision": None}
    # What is stored lacks the credentials of addresses that the entries may hold.
    asked = RunSpec.model_validate_json(without_credentials(spec.model_dump_json()))
    return stored if stored.model_copy(update=unresolved) == asked else None


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def _model_revision(spec: RunSpec) -> str | None:
    if spec.model.hub is not None:
        return resolve_hub_revision(spec.model.hub, spec.model.revision, "model")
    if spec.model.path is not None:
        return fingerprint_path(spec.model.path)
    return None  # scratch: the config in the entry is all there is


def stale_stages(spec: RunSpec, results: Path) -> list[Stage]:
    """Return which of training, logits and scores a resolved run still needs, in order.

    What is damaged counts as missing; nothing is changed. Weights are needed only by what is still
    to do, so a finished run whose model somebody removed has nothing to do; one whose model is
    damaged, or was set aside and not made anew, is trained again.

    Raises:
        OtherVersionError: a file is of a newer version of this program.
        ResultsError: a file cannot be read.
    """
    folder = spec.folder(results)
    if _model_is_lost(folder):
        return ["training", "logits", "scores"]
    if stored_key(folder) == spec.key("logits"):
        return [] if _is_scored(folder, spec.key("scores")) else ["scores"]
    trained = _usable_model(folder)
    if trained is not None and trained.key == spec.key("training"):
        return ["logits", "scores"]
    return ["training", "logits", "scores"]


def _model_is_lost(folder: RunFolder) -> bool:
    if was_set_aside(folder.model) or was_set_aside(folder.training):
        return True
    try:
        find_trained_model(folder, quick=True)
    except DamagedError:
        return True
    return False


def _usable_model(folder: RunFolder) -> TrainedModel | None:
    try:
        return find_trained_model(folder)
    except DamagedError:
        return None


def _is_scored(folder: RunFolder, key: str) -> bool:
    try:
        record, spec = folder.read_head(), folder.verified_spec()
    except DamagedError:
        return False
    if record is None or record.status != "completed":
        return False
    return record.keys.get("scores") == key and bool(spec)


def begin(spec: RunSpec, results: Path, *, force: bool) -> tuple[list[Stage], Record | None]:
    """Return which stages of a resolved run are to be done now, and its record.

    What is damaged is set aside. To be called with the run's folder locked.

    Args:
        spec: the resolved run.
        results: the results tree.
        force: redo every stage.

    Raises:
        OtherVersionError: a file is of a newer version of this program; it is left as it is.
        ResultsError: a file cannot be read.
    """
    folder = spec.folder(results)
    stale = stale_stages(spec, results)
    if stale or force:
        _set_aside_damaged(folder)
    return ["training", "logits", "scores"] if force else stale, folder.read_record()


def _set_aside_damaged(folder: RunFolder) -> None:
    readings = (
        folder.read_record,
        folder.verified_spec,
        functools.partial(verify_logits, folder),
        functools.partial(find_trained_model, folder),
    )
    for read in readings:
        try:
            read()
        except DamagedError as error:
            set_aside(error)
        except FileNotFoundError:
            continue


def usable_record(folder: RunFolder) -> Record | None:
    """Read a run's record; an unreadable one counts as none."""
    try:
        return folder.read_record()
    except ResultsError:
        return None


def usable_head(folder: RunFolder) -> RecordHead | None:
    """Read a run's record without its metrics; an unreadable one counts as none."""
    try:
        return folder.read_head()
    except ResultsError:
        return None
