"""The result of the training stage: a checkpoint folder, and the file that marks it as finished."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from benchmark.records import (
    DamagedError,
    DataFacts,
    OtherVersionError,
    ResultsError,
    RunFolder,
    Training,
    explained_errors,
    fsync_path,
    read_json_text,
    seal_folder,
    sealed_json,
    verify_folder,
    write_text,
)
from benchmark.registry import Entry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from benchmark.models import Preprocessor


class TrainedModel(Entry):
    """`training.json`: marks `model/` as the finished result of the training stage.

    `weights` says how those of its checkpoint were read; None: they were random, or it was not
    written down yet.
    """

    key: str
    training: Training | None
    parameters: int
    weights: str | None = None
    data: DataFacts


def find_trained_model(folder: RunFolder, *, quick: bool = False) -> TrainedModel | None:
    """Return what `training.json` says of a finished model, or None where there is none.

    Args:
        folder: of the run.
        quick: check the model's files by size and time only (see `verify_folder`).

    Raises:
        DamagedError: `training.json` or a file of the model is not as it was written.
        OtherVersionError: `training.json` is of another version of this program.
    """
    trained = _read(folder)
    try:
        verify_folder(folder.model, quick=quick)
    except FileNotFoundError:
        return None
    return trained


def read_trained_model(folder: RunFolder) -> TrainedModel | None:
    """Read `training.json`; None where there is none that can be used."""
    try:
        return _read(folder)
    except ResultsError:
        return None


def _read(folder: RunFolder) -> TrainedModel | None:
    path = folder.training
    try:
        text, sealed = read_json_text(path)
    except FileNotFoundError:
        return None
    try:
        return TrainedModel.model_validate_json(text)
    except ValidationError as error:
        problem = f"not a mark of a finished training ({error.errors()[0]['msg']})"
        raise (OtherVersionError if sealed else DamagedError)(path, problem) from None


def save_trained_model(
    folder: RunFolder, facts: TrainedModel, model: PreTrainedModel, preprocessor: Preprocessor
) -> None:
    """Keep a model as a checkpoint folder that the Auto classes load; mark it finished."""
    with explained_errors(folder.model):
        folder.training.unlink(missing_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.path, prefix=".model-"))
        try:
            model.save_pretrained(temporary)
            preprocessor.save_pretrained(temporary)
            seal_folder(temporary)
            # mkdtemp lets nobody else in; a checkpoint is as readable as what lies beside it.
            temporary.chmod(0o755)
            shutil.rmtree(folder.model, ignore_errors=True)
            os.replace(temporary, folder.model)
            fsync_path(folder.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    write_text(folder.training, sealed_json(facts.model_dump_json(indent=1)))
    folder.training_state.unlink(missing_ok=True)
