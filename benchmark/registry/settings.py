"""Single fields of recipes, data sets and models, changed for one command (`--set`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from benchmark.registry.entries import DatasetEntry, Entry, ModelEntry, did_you_mean
from benchmark.registry.recipe import Recipe
from benchmark.registry.source import RegistryError

EntryT = TypeVar("EntryT", bound=Entry)
Settings = Mapping[str, Mapping[str, Any]]
"""Of "recipe", "dataset" or "model": field (with dots for fields of fields): value."""

_KINDS: dict[str, type[Entry]] = {"recipe": Recipe, "dataset": DatasetEntry, "model": ModelEntry}


def parse_settings(texts: Sequence[str]) -> Settings:
    """Return what texts such as `recipe.epochs=1` say; values are written as in a registry.

    Raises:
        RegistryError: a text is no setting, or names no field.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        kind, _, field = name.strip().partition(".")
        if not equals or not field:
            raise RegistryError(f"--set {text}: write it as recipe.epochs=1")
        if kind not in _KINDS:
            raise RegistryError(f"--set {text}: unknown '{kind}'{did_you_mean(kind, _KINDS)}")
        _check_field(text, _KINDS[kind], field)
        try:
            settings.setdefault(kind, {})[field] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise RegistryError(f"--set {text}: '{value}' is no value of a registry") from None
    return settings


def _check_field(text: str, entry: type[BaseModel], field: str) -> None:
    known = entry.model_fields
    first = field.partition(".")[0]
    if first not in known or first == "name":
        raise RegistryError(f"--set {text}: no field '{first}'{did_you_mean(first, known)}")


def changed(entry: EntryT, settings: Mapping[str, Any]) -> EntryT:
    """Return an entry with fields changed, checked as when it is read from a registry.

    Raises:
        RegistryError: a value is not allowed.
    """
    if not settings:
        return entry
    tree = entry.model_dump(exclude_unset=True)
    for field, value in settings.items():
        *parents, last = field.split(".")
        place = tree
        for parent in parents:
            place[parent] = place = dict(place.get(parent) or {})
        place[last] = value
    try:
        return type(entry).model_validate(tree)
    except ValidationError as error:
        raise RegistryError("\n".join(_problem(entry, one) for one in error.errors())) from None


def _problem(entry: Entry, error: Any) -> str:
    kind = next(name for name, of_kind in _KINDS.items() if isinstance(entry, of_kind))
    place = ".".join(str(part) for part in (kind, *error["loc"]))
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"--set {place}: {text[:1].lower()}{text[1:]}"
