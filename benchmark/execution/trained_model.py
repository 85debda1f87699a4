"""The result of the training stage: a checkpoint folder, and the file that marks it as finished."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from benchmark.records import DataFacts, RunFolder, Training, write_text
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


def read_trained_model(folder: RunFolder) -> TrainedModel | None:
    """Read `training.json`; None where there is none, or none of this version."""
    try:
        text = folder.training.read_text(encoding="utf-8")
        return TrainedModel.model_validate_json(text)
    except (FileNotFoundError, ValidationError):
        return None


def save_trained_model(
    folder: RunFolder, facts: TrainedModel, model: PreTrainedModel, preprocessor: Preprocessor
) -> None:
    """Keep a model as a checkpoint folder that the Auto classes load; mark it finished."""
    folder.training.unlink(missing_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.path, prefix=".model-"))
    try:
        model.save_pretrained(temporary)
        preprocessor.save_pretrained(temporary)
        # mkdtemp lets nobody else in; a checkpoint is as readable as what lies beside it.
        temporary.chmod(0o755)
        shutil.rmtree(folder.model, ignore_errors=True)
        os.replace(temporary, folder.model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_text(folder.training, facts.model_dump_json(indent=1) + "\n")
    folder.training_state.unlink(missing_ok=True)
