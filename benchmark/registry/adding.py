"""`add`: a checkpoint or data set of the hub becomes an entry of the registry file."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from benchmark.registry import hub_facts
from benchmark.registry.entries import DatasetEntry, Entry, ModelEntry, did_you_mean
from benchmark.registry.hub_facts import HubError, Kind, ask_hub
from benchmark.registry.hub_names import hub_page
from benchmark.registry.loading import RegistryFiles
from benchmark.registry.problems import in_words
from benchmark.registry.source import RegistryError
from benchmark.registry.writing import entry_text, replace_file, with_entry

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo

__all__ = ["HubError", "add_from_hub"]

_ORDER = (
    *("hub", "revision", "config", "modality", "mixer", "family", "recipe", "evaluate"),
    *("trust_remote_code", "parameters", "columns", "splits", "licence"),
    "reference",
)


def add_from_hub(path: Path, options: argparse.Namespace) -> str:
    """Add an entry to the registry file, or with `dry_run` only make it.

    Args:
        path: the registry file.
        options: as `commands.parse_arguments` makes them for `add`.

    Returns:
        What was done, to be printed.

    Raises:
        HubError: the hub cannot be asked or does not have it.
        RegistryError: the registry is not valid, has it already, or a field must be given.
    """
    files = RegistryFiles.read(path)
    page = hub_page(options.hub)
    if page is not None:
        options.hub, options.dataset = page.name, options.dataset or page.is_dataset
        options.revision = options.revision or page.revision
    section = "datasets" if options.dataset else "models"
    name = options.name or re.sub(r"[^A-Za-z0-9._-]", "-", options.hub.rpartition("/")[2]).lower()
    _refuse_name(files, section, name)
    kind: Kind = "dataset" if options.dataset else "model"
    info = ask_hub(options.hub, options.revision, kind)
    if options.dataset:
        fields = _dataset_fields(cast("DatasetInfo", info), options)
    else:
        fields = _model_fields(cast("ModelInfo", info), options, files)
    fields = {field: fields[field] for field in _ORDER if field in fields}
    _refuse_twin(files, section, fields)
    _require_valid(DatasetEntry if options.dataset else ModelEntry, name, fields)
    changed = with_entry(files.sources[0], section, name, fields)
    updated = RegistryFiles.assemble([changed, *files.sources[1:]])
    text = entry_text({name: fields}, indent=2).rstrip("\n")
    notes = "".join(f"\nnote: {note}" for note in _notes(info, section, options))
    if options.dry_run:
        return f"{section} (dry run, nothing is written)\n{text}{notes}"
    replace_file(files.sources[0], changed.text)
    return f"added to {updated.place(section, name)}\n{text}{notes}"


def _refuse_name(files: RegistryFiles, section: str, name: str) -> None:
    if name in getattr(files.registry, section):
        place = files.place(section, name)
        raise RegistryError(f"{place}: {section} has '{name}' already; give another --name")


def _refuse_twin(files: RegistryFiles, section: str, fields: dict[str, Any]) -> None:
    identity = ("hub", "revision", "config")
    for name, entry in getattr(files.registry, section).items():
        if all(getattr(entry, field, None) == fields.get(field) for field in identity):
            place = files.place(section, name)
            raise RegistryError(f"{place}: '{name}' is {fields['hub']} at this revision already")


def _model_fields(
    info: ModelInfo, options: argparse.Namespace, files: RegistryFiles
) -> dict[str, Any]:
    fields = hub_facts.model_fields(info)
    for field in ("modality", "mixer", "family", "recipe"):
        if getattr(options, field) is not None:
            fields[field] = getattr(options, field)
    for field in ("evaluate", "trust_remote_code"):
        if getattr(options, field):
            fields[field] = True
    problems = _missing_facts(info, fields) + _refused_files(info, fields)
    recipes = files.registry.recipes
    if "recipe" not in fields and "evaluate" not in fields:
        known = ", ".join(recipes)
        problems.append(f"give --recipe (one of {known}), or --evaluate to score its own head")
    elif "recipe" in fields and fields["recipe"] not in recipes:
        hint = did_you_mean(fields["recipe"], recipes)
        problems.append(f"unknown recipe '{fields['recipe']}'{hint}")
    _refuse(options.hub, problems)
    return fields


def _missing_facts(info: ModelInfo, fields: dict[str, Any]) -> list[str]:
    missing = [field for field in ("modality", "mixer", "family") if field not in fields]
    if not missing:
        return []
    model_type = hub_facts.model_type_of(info)
    known = f"of its architecture '{model_type}'" if model_type else "without a model_type"
    wanted = ", ".join(f"--{field}" for field in missing)
    return [f"{' and '.join(missing)} cannot be told {known}: give {wanted}"]


def _refused_files(info: ModelInfo, fields: dict[str, Any]) -> list[str]:
    problems = []
    if hub_facts.needs_remote_code(info) and "trust_remote_code" not in fields:
        problems.append("needs code of its own; --trust-remote-code runs it, read it before")
    return problems


def _dataset_fields(info: DatasetInfo, options: argparse.Namespace) -> dict[str, Any]:
    try:
        fields = hub_facts.dataset_fields(info, options.config)
    except ValueError as error:
        raise RegistryError(f"{options.hub} {error}") from None
    for group, parts in (
        ("columns", ("text", "text_pair", "image", "label")),
        ("splits", ("train", "calibration", "test")),
    ):
        given = {part: getattr(options, f"{part}_{group[:-1]}") for part in parts}
        chosen = {part: value for part, value in given.items() if value is not None}
        if chosen or group in fields:
            fields[group] = {**fields.get(group, {}), **chosen}
    columns = fields.get("columns", {})
    modality = "image" if "image" in columns else "text"
    fields["modality"] = options.modality or fields.get("modality", modality)
    _refuse(options.hub, _missing_columns(columns, fields["modality"]))
    # The defaults of an entry need not be written.
    fields["columns"] = {key: value for key, value in columns.items() if (key, value) != _LABEL}
    return fields


_LABEL = ("label", "label")


def _missing_columns(columns: dict[str, str], modality: str) -> list[str]:
    problems = []
    if modality not in columns:
        problems.append(f"its card does not tell the {modality} column: give --{modality}-column")
    if "label" not in columns:
        problems.append("its card does not tell the column of class labels: give --label-column")
    return problems


def _refuse(hub: str, problems: list[str]) -> None:
    if problems:
        raise RegistryError("\n".join(f"{hub}: {problem}" for problem in problems))


def _require_valid(entry_class: type[Entry], name: str, fields: dict[str, Any]) -> None:
    try:
        entry_class.model_validate({"name": name, **fields})
    except ValidationError as error:
        details = error.errors()
        texts = [".".join(str(part) for part in d["loc"]) + f": {in_words(d)}" for d in details]
        raise RegistryError("\n".join(f"{fields['hub']}: {text}" for text in texts)) from None


def _notes(info: ModelInfo | DatasetInfo, section: str, options: argparse.Namespace) -> list[str]:
    """Return what a person should know before the entry is run."""
    notes = ["add it to a suite, or run it by name with --" + section]
    if info.gated:
        notes.append("it is gated: accept its terms on the hub and set HF_TOKEN to run it")
    if section == "models" and not hub_facts.has_safetensors(cast("ModelInfo", info)):
        notes.append(
            "it has no safetensors: the hub's conversion is read where there is one, else the "
            "tensors of its pickle; 'allow_pickle: false' refuses that"
        )
    if section == "models" and options.family is None:
        notes.append("the family is that of its architecture; see that it is that of its paper")
    return notes
