"""The hub's metadata of a repository -> fields of a registry entry."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from benchmark.registry.advice import is_commit
from benchmark.registry.architectures import ARCHITECTURES
from benchmark.registry.entries import Modality, did_you_mean

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo

Kind = Literal["model", "dataset"]

PATIENCE = 30.0
"""Seconds to wait for the hub."""

_IMAGE_TASKS = ("image-classification", "image-feature-extraction")
_TEXT_TASKS = (
    *("text-classification", "fill-mask", "sentence-similarity", "token-classification"),
    *("question-answering", "zero-shot-classification", "text-generation", "text-ranking"),
)
_LICENCES = {
    licence.lower(): licence
    for licence in (
        *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0"),
        *("CC-BY-3.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"),
    )
}
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


class HubError(RuntimeError):
    """The hub did not answer, or does not have or give what was asked for."""


def ask_hub(repository: str, revision: str | None, kind: Kind) -> ModelInfo | DatasetInfo:
    """Return what the hub knows of a repository.

    Raises:
        HubError: it cannot be asked, or has no such repository or revision.
    """
    from huggingface_hub import HfApi

    # False: send no token that a file on disk may hold.
    api = HfApi(
        endpoint=os.environ.get("HF_ENDPOINT") or None,
        token=os.environ.get("HF_TOKEN", "").strip() or False,
    )
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        info: ModelInfo | DatasetInfo = ask(repository, revision=revision, timeout=PATIENCE)
    except Exception as error:  # several libraries' kinds of error can come out of one request
        raise HubError(_explain(error, repository, revision, kind)) from None
    if not (isinstance(info.sha, str) and is_commit(info.sha)):
        raise HubError(f"{kind} {repository}: the hub names no commit for it")
    return info


def _explain(error: Exception, repository: str, revision: str | None, kind: Kind) -> str:
    from huggingface_hub import errors

    what = f"{kind} {repository}"
    other = "without --dataset" if kind == "dataset" else "with --dataset if it is a data set"
    # The more special class comes first.
    texts: list[tuple[type[Exception], str]] = [
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set: unset it, the hub must be asked"),
        (errors.GatedRepoError, "is gated: accept its terms on the hub, then set HF_TOKEN"),
        (
            errors.RepositoryNotFoundError,
            f"is not on the hub, or is private: check the name, try {other}, or set HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, f"has no revision '{revision}'"),
        (errors.HFValidationError, "is no repository's name: write owner/name"),
    ]
    for kind_of_error, text in texts:
        if isinstance(error, kind_of_error):
            return f"{what}: {text}"
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    if isinstance(error, AttributeError | KeyError | TypeError | ValueError):
        return f"{what}: the hub's answer makes no sense: {reason}"
    return f"{what}: the hub cannot be reached: {reason}. Check the network and try again"


def model_fields(info: ModelInfo) -> dict[str, Any]:
    """Return the fields of a model entry that the hub's metadata decide; the others are left out.

    Args:
        info: as the hub gave it.
    """
    architecture = ARCHITECTURES.get(model_type_of(info) or "")
    fields: dict[str, Any] = {"hub": info.id, "revision": info.sha}
    modality = architecture.modality if architecture else _modality(info.pipeline_tag)
    if modality is not None:
        fields["modality"] = modality
    if architecture is not None:
        fields |= {"mixer": architecture.mixer, "family": architecture.family}
    if info.safetensors is not None:
        fields["parameters"] = info.safetensors.total
    return fields | _paperwork(info)


def has_safetensors(info: ModelInfo) -> bool:
    """Say whether the repository's top folder holds weights as safetensors."""
    return any(_SAFETENSORS.fullmatch(sibling.rfilename) for sibling in info.siblings or ())


def needs_remote_code(info: ModelInfo) -> bool:
    """Say whether the checkpoint brings a model class of its own."""
    return bool(_config(info).get("auto_map"))


def model_type_of(info: ModelInfo) -> str | None:
    """Return the name that transformers gives the architecture; None: not a checkpoint of it."""
    model_type = _config(info).get("model_type")
    return model_type if isinstance(model_type, str) else None


def _config(info: ModelInfo) -> Mapping[str, Any]:
    return info.config if isinstance(info.config, Mapping) else {}


def _modality(task: str | None) -> Modality | None:
    if task in _IMAGE_TASKS:
        return "image"
    return "text" if task in _TEXT_TASKS else None


def _paperwork(info: ModelInfo | DatasetInfo) -> dict[str, str]:
    """Return licence and reference, from the tags that the hub makes of the card."""
    tags = [str(tag) for tag in info.tags] if isinstance(info.tags, list) else []
    licences = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    papers = [tag.removeprefix("arxiv:") for tag in tags if tag.startswith("arxiv:")]
    fields = {}
    if licences:
        fields["licence"] = ", ".join(_LICENCES.get(name, name) for name in licences)
    if papers:
        fields["reference"] = ", ".join(f"arXiv:{paper}" for paper in papers)
    return fields


# --- data sets ------------------------------------------------------------------------------------


def dataset_fields(info: DatasetInfo, config: str | None) -> dict[str, Any]:
    """Return the fields of a dataset entry that the hub's metadata decide.

    Args:
        info: as the hub gave it.
        config: the configuration that was asked for.

    Raises:
        ValueError: the data set has several configurations and none, or an unknown one, was
            asked for.
    """
    described = _described_config(info, config)
    fields: dict[str, Any] = {"hub": info.id, "revision": info.sha}
    name = config or described.get("config_name")
    if name not in (None, "default"):
        fields["config"] = name
    columns = _columns(_mappings(described.get("features")))
    if columns:
        fields["modality"] = "image" if "image" in columns else "text"
        fields["columns"] = columns
    splits = _splits([str(split.get("name")) for split in _mappings(described.get("splits"))])
    if splits:
        fields["splits"] = splits
    return fields | _paperwork(info)


def _described_config(info: DatasetInfo, config: str | None) -> Mapping[str, Any]:
    """Return the card's `dataset_info` of one configuration; empty where the card has none."""
    described = getattr(info.card_data, "dataset_info", None)
    options = _mappings([described] if isinstance(described, Mapping) else described)
    by_name = {str(option.get("config_name", "default")): option for option in options}
    if not by_name:
        return {}
    wanted = config or ("default" if "default" in by_name else None)
    if wanted is None and len(by_name) > 1:
        raise ValueError(f"has several configurations: choose --config from {', '.join(by_name)}")
    if wanted is not None and wanted not in by_name:
        raise ValueError(f"has no configuration '{wanted}'{did_you_mean(wanted, by_name)}")
    return by_name[wanted] if wanted is not None else options[0]


def _mappings(values: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list; anything else that a card may hold counts as nothing."""
    values = values if isinstance(values, list) else []
    return [value for value in values if isinstance(value, Mapping)]


def _columns(features: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return which columns hold what; of several text columns none is taken, they may be a pair."""
    kinds: dict[str, list[str]] = {"image": [], "string": [], "label": []}
    for feature in features:
        kind = feature.get("dtype")
        if isinstance(kind, Mapping) and "class_label" in kind:
            kinds["label"].append(str(feature.get("name")))
        elif kind in ("image", "string"):
            kinds[str(kind)].append(str(feature.get("name")))
    columns = {}
    if len(kinds["image"]) == 1:
        columns["image"] = kinds["image"][0]
    elif not kinds["image"] and (len(kinds["string"]) == 1 or "text" in kinds["string"]):
        columns["text"] = "text" if "text" in kinds["string"] else kinds["string"][0]
    if len(kinds["label"]) == 1:
        columns["label"] = kinds["label"][0]
    return columns


def _splits(names: Sequence[str]) -> dict[str, str]:
    """Return the splits of an entry where they are not the default ones."""
    if "train" not in names:
        return {}
    if "test" in names:
        return {"calibration": "validation"} if "validation" in names else {}
    return {"test": "validation"} if "validation" in names else {}
