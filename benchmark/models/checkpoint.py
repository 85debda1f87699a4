"""Model entry -> model with a head for the dataset's classes, new or fine-tuned before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import SafetensorError
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from benchmark.data import Corpus
from benchmark.failures import RunError, UnavailableError
from benchmark.hub import fetch_weights
from benchmark.models.pretrained import (
    Preprocessor,
    load_problem,
    missing_library,
    naming,
    source_name,
    source_options,
    trusted_code,
)
from benchmark.models.scratch import scratch_config
from benchmark.plan import RunSpec
from benchmark.registry import ModelEntry

if TYPE_CHECKING:
    from torch.nn import Parameter
    from transformers import PreTrainedModel

_MODEL_CLASSES = {
    "image": AutoModelForImageClassification,
    "text": AutoModelForSequenceClassification,
}

_LARGEST_NEW_SHARE = 0.2
"""Of a backbone's weights; a pooler that was not pretrained is less."""


def build_model(spec: RunSpec, corpus: Corpus, preprocessor: Preprocessor) -> PreTrainedModel:
    """Return the checkpoint with a head for the dataset's classes, on the CPU.

    New weights (all of a scratch model's, else the head's) are drawn from the run's seed.

    Raises:
        RunError: a scratch config is invalid, or the checkpoint lacks weights: any of a head
            that is scored as published, too many of a backbone that is fine-tuned.
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
    if entry.hub is not None:
        with naming(entry):
            fetch_weights(entry.hub, str(spec.model_revision), allow_pickle=entry.allow_pickle)
    try:
        model: PreTrainedModel
        model, loading = _MODEL_CLASSES[entry.modality].from_pretrained(
            source_name(entry),
            ignore_mismatched_sizes=True,  # what did not fit is looked at below
            output_loading_info=True,
            # None: safetensors where there are, else a pickle read as tensors only.
            use_safetensors=None if entry.allow_pickle else True,
            **label_options,
            **source_options(spec),
        )
    except ImportError as error:
        raise missing_library(entry, error) from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnavailableError(
            f"model {entry.name}: cannot be loaded: {load_problem(error)}"
        ) from error
    _require_weights(spec, model, loading)
    model.float()
    return model


def _require_weights(
    spec: RunSpec, model: PreTrainedModel, loading: Mapping[str, Iterable[Any]]
) -> None:
    """Refuse a checkpoint whose weights are not those of the model that was built.

    Args:
        spec: the run.
        model: as loaded.
        loading: what `from_pretrained` tells: names of missing keys, and mismatched ones as
            (name, shape in the checkpoint, shape in the model).
    """
    new = set(loading["missing_keys"])
    new |= {entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"]}
    if not new:
        return
    some = ", ".join(sorted(new)[:3]) + (", ..." if len(new) > 3 else "")
    if spec.model.evaluate:
        raise RunError(
            f"model {spec.model.name}: the checkpoint has no fitting weights for {some}, so it "
            "has no published head to score (evaluate); fine-tune it instead, with a recipe"
        )
    backbone = {f"{model.base_model_prefix}.{name}": p for name, p in _backbone_weights(model)}
    total = sum(weight.numel() for weight in backbone.values())
    missing = sum(weight.numel() for name, weight in backbone.items() if name in new)
    if missing > _LARGEST_NEW_SHARE * total:
        raise RunError(
            f"model {spec.model.name}: {missing / total:.0%} of the backbone's weights are not in "
            f"the checkpoint ({some}): it belongs to another architecture than its config says"
        )


def _backbone_weights(model: PreTrainedModel) -> Iterator[tuple[str, Parameter]]:
    backbone = getattr(model, model.base_model_prefix, None)
    if backbone is not None:
        yield from backbone.named_parameters()


def load_trained_model(folder: Path, entry: ModelEntry) -> PreTrainedModel:
    """Return the entry's fine-tuned model saved in `folder`, in evaluation mode on the CPU.

    Raises:
        UnavailableError: it needs code of its own, which this process does not allow.
    """
    model: PreTrainedModel = _MODEL_CLASSES[entry.modality].from_pretrained(
        folder, use_safetensors=True, trust_remote_code=trusted_code(entry)
    )
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
