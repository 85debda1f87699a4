"""What is known of an imported model: from a registry entry, from the command line, or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.importing.importing import SOURCE
from benchmark.records import ModelFacts
from benchmark.registry import Registry, did_you_mean


class FactsError(ValueError):
    """The registry does not have the model."""


def gather_facts(
    model: str, given: Mapping[str, Any], registry: Path | None
) -> tuple[ModelFacts, str | None]:
    """Return a model's facts and its licence. What nobody says stays None.

    Args:
        model: its name.
        given: fields of `ModelFacts`, and `licence`; None where the user says nothing. They
            come before what the registry says.
        registry: a registry with an entry of that name, or None.

    Raises:
        RegistryError: the registry cannot be read.
        FactsError: it has no such model.
    """
    facts = {} if registry is None else _registered(model, registry)
    facts |= {name: value for name, value in given.items() if value is not None}
    licence = facts.pop("licence", None)
    unknown = {"mixer": None, "family": None, "modality": None}
    return ModelFacts(**{**unknown, **facts}, source=SOURCE), licence


def _registered(model: str, path: Path) -> dict[str, Any]:
    registry = Registry.load(path)
    if model not in registry.models:
        raise FactsError(
            f"{path}: no model '{model}'{did_you_mean(model, registry.models)}; without "
            "--registry its facts come from --mixer, --family and the like"
        )
    entry = registry.models[model]
    pretraining = entry.pretraining
    return {
        "mixer": entry.mixer,
        "family": entry.family,
        "modality": entry.modality,
        "parameters": entry.parameters,
        "pretraining_examples": pretraining.examples,
        "label_smoothing": pretraining.label_smoothing,
        "mixup": pretraining.mixup,
        "distillation": pretraining.distillation,
        "reference": entry.reference,
        "licence": entry.licence,
    }
