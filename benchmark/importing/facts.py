"""What is known of an imported model: from a registry entry, from the command line, or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.importing.importing import SOURCE
from benchmark.records import ModelFacts
from benchmark.registry import ModelEntry, Registry, did_you_mean


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
    facts: dict[str, Any] = {}
    if registry is not None:
        entries = Registry.load(registry)
        if model not in entries.models:
            raise FactsError(
                f"{registry}: no model '{model}'{did_you_mean(model, entries.models)}; without "
                "--registry its facts come from --mixer, --family and the like"
            )
        facts = _registered(entries.models[model])
    return _facts(facts | {name: value for name, value in given.items() if value is not None})


def facts_of(model: str, registry: Registry | None) -> tuple[ModelFacts, str | None]:
    """Return what a registry says of a model, and its licence; all unknown where it has none.

    Folders of samples are called `<owner>__<name>`; an entry may have either name.
    """
    entries = {} if registry is None else registry.models
    short = model.rpartition("__")[2]
    entry = entries.get(model) or entries.get(short)
    facts = {"modality": "text"} if entry is None else _registered(entry)
    return _facts({name: value for name, value in facts.items() if value is not None})


def _facts(known: Mapping[str, Any]) -> tuple[ModelFacts, str | None]:
    unknown = {"mixer": None, "family": None, "modality": None}
    facts = {name: value for name, value in known.items() if name != "licence"}
    return ModelFacts(**{**unknown, **facts}, source=SOURCE), known.get("licence")


def _registered(entry: ModelEntry) -> dict[str, Any]:
    pretraining = entry.pretraining
    return {
        "mixer": entry.mixer,
        "family": entry.family,
        "modality": entry.modality,
        "parameters": entry.parameters,
        "pretraining_examples": pretraining.examples,
        **pretraining.model_dump(exclude={"corpus", "examples", "objective"}),
        "evaluation_resolution": entry.evaluation_resolution,
        "twin": entry.twin,
        "reference": entry.reference,
        "licence": entry.licence,
    }
