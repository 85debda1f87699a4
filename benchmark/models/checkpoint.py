"""Model entry -> model with a head for the dataset's classes, new or fine-tuned before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from benchmark.data import Corpus
from benchmark.failures import UnavailableError
from benchmark.hub import access_token
from benchmark.models.completeness import require_weights
from benchmark.models.pretrained import (
    Preprocessor,
    load_problem,
    missing_library,
    naming,
    source_name,
    trusted_code,
)
from benchmark.models.scratch import scratch_config
from benchmark.models.weights import checkpoint_files, require_tensors
from benchmark.plan import RunSpec
from benchmark.records import DamagedError, verify_folder
from benchmark.registry import ModelEntry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MODEL_CLASSES = {
    "image": AutoModelForImageClassification,
    "text": AutoModelForSequenceClassification,
}


def build_model(spec: RunSpec, corpus: Corpus, preprocessor: Preprocessor) -> PreTrainedModel:
    """Return the checkpoint with a head for the dataset's classes, on the CPU.

    New weights (all of a scratch model's, else the head's) are drawn from the run's seed.

    Raises:
        RunError: a scratch config is invalid, or the checkpoint lacks weights of the backbone, or
            of a head that is scored as published.
        UnavailableError: the weights cannot be read or fetched.
    """
    transformers.set_seed(spec.seed)
    label_options = _label_options(corpus)
    if spec.model.scratch is not None:
        config = scratch_config(spec, corpus, preprocessor, label_options)
        model: PreTrainedModel = _MODEL_CLASSES[spec.model.modality].from_config(config)
        return model
    return _pretrained_model(spec, {} if spec.model.evaluate else label_options)


def _pretrained_model(spec: RunSpec, label_options: dict[str, Any]) -> PreTrainedModel:
    entry = spec.model
    files = checkpoint_files(spec)
    code = {"trust_remote_code": trusted_code(entry), "token": access_token()}
    try:
        if files.is_pickle:
            with naming(entry):
                for path in files.paths:
                    require_tensors(path)
        # From folders, where the library asks no hub: it would have a pickle converted there.
        config = AutoConfig.from_pretrained(files.settings, **label_options, **code)
        model: PreTrainedModel
        model, loading = _MODEL_CLASSES[entry.modality].from_pretrained(
            files.weights,
            config=config,
            ignore_mismatched_sizes=True,  # what did not fit is looked at below
            output_loading_info=True,
            use_safetensors=not files.is_pickle,
            weights_only=True,
            **code,
        )
    except ImportError as error:
        raise missing_library(entry, error) from None
    except UnavailableError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnavailableError(
            f"model {entry.name}: cannot be loaded: {load_problem(error)}"
        ) from error
    model.config.name_or_path = source_name(entry)
    require_weights(spec, model, loading)
    model.float()
    return model


def load_trained_model(folder: Path, entry: ModelEntry) -> PreTrainedModel:
    """Return the entry's fine-tuned model saved in `folder`, in evaluation mode on the CPU.

    Raises:
        DamagedError: a file is not as it was written, or lacks weights of the model, in whose
            place the library puts random ones.
        UnavailableError: it needs code of its own, which this process does not allow.
    """
    verify_folder(folder)
    model: PreTrainedModel
    try:
        model, loading = _MODEL_CLASSES[entry.modality].from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=trusted_code(entry),
            ignore_mismatched_sizes=True,  # what did not fit is looked at below
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise DamagedError(folder, str(error)) from error
    lost = {str(key) for kind in ("missing_keys", "mismatched_keys") for key in loading[kind]}
    if lost:
        raise DamagedError(folder, f"it has no fitting weights for {', '.join(sorted(lost)[:3])}")
    model.eval()
    return model


def count_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _label_options(corpus: Corpus) -> dict[str, Any]:
    names = corpus.label_names
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
