"""Entries of a registry as text: an overview, or every field of those that are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from benchmark.registry.advice import users
from benchmark.registry.entries import DatasetEntry, Entry, ModelEntry, did_you_mean
from benchmark.registry.loading import RegistryFiles
from benchmark.registry.source import RegistryError

_SECTIONS = ("models", "datasets", "suites", "recipes")


def show_entries(files: RegistryFiles, names: Sequence[str]) -> str:
    """Return what the entries of these names are, with defaults, places and users.

    A name may be that of a model and of a dataset: then both are shown.

    Raises:
        RegistryError: no entry has such a name.
    """
    known = dict.fromkeys(name for section in _SECTIONS for name in _section(files, section))
    problems = [f"no entry '{name}'{did_you_mean(name, known)}" for name in names]
    problems = [text for text, name in zip(problems, names, strict=True) if name not in known]
    if problems:
        raise RegistryError("\n".join(problems))
    return "\n\n".join(
        _entry_text(files, section, name)
        for name in dict.fromkeys(names)
        for section in _SECTIONS
        if name in _section(files, section)
    )


def overview(files: RegistryFiles) -> str:
    """Return a table for each section of the registry."""
    used = users(files)
    tables = {
        "suites": _suite_rows(files),
        "models": [_model_row(model, used) for model in files.registry.models.values()],
        "datasets": [_dataset_row(data, used) for data in files.registry.datasets.values()],
        "recipes": _recipe_rows(files, used),
    }
    return "\n\n".join(f"{title}\n\n{_table(rows)}" for title, rows in tables.items() if rows)


def _section(files: RegistryFiles, section: str) -> Mapping[str, Entry]:
    entries: Mapping[str, Entry] = getattr(files.registry, section)
    return entries


def _entry_text(files: RegistryFiles, section: str, name: str) -> str:
    from tabulate import tabulate

    entry = _section(files, section)[name]
    rows = [row for row in _field_rows(entry) if row[0] != "name"]
    rows.append(("used by", "", ", ".join(users(files).get((section, name), ())) or "nothing"))
    title = f"{section.removesuffix('s')} {name}  ({files.place(section, name)})"
    return f"{title}\n\n{tabulate(rows, tablefmt='plain', disable_numparse=True)}"


def _field_rows(entry: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (field, "default" where the file does not say it, value)."""
    for field, value in entry:
        name = f"{prefix}{field}"
        if isinstance(value, BaseModel):
            yield from _field_rows(value, f"{name}.")
        else:
            yield name, "" if field in entry.model_fields_set else "default", _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(_text(part) for part in value) or "none"
    if isinstance(value, BaseModel):
        return _text(value.model_dump(exclude_defaults=True))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(part)}" for key, part in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _suite_rows(files: RegistryFiles) -> list[dict[str, str]]:
    return [
        {
            "suite": name + (" (default)" if name == files.registry.default_suite().name else ""),
            "models": str(len(suite.models)),
            "datasets": _text(suite.datasets),
            "seeds": str(suite.seeds),
            "place": files.place("suites", name),
        }
        for name, suite in files.registry.suites.items()
    ]


def _model_row(model: ModelEntry, used: Mapping[tuple[str, str], list[str]]) -> dict[str, str]:
    return {
        "model": model.name,
        "source": _source(model),
        "modality": model.modality,
        "mixer": model.mixer,
        "family": model.family,
        "parameters": _text(model.parameters),
        "recipe": "published head" if model.evaluate is True else _text(model.recipe),
        "suites": _suites(used.get(("models", model.name), [])),
    }


def _dataset_row(data: DatasetEntry, used: Mapping[tuple[str, str], list[str]]) -> dict[str, str]:
    return {
        "dataset": data.name,
        "source": _source(data),
        "modality": data.modality,
        "classes": _text(data.class_count),
        "rows": _text(data.all_rows),
        "shifts": _text(data.shifts),
        "licence": _text(data.licence),
        "suites": _suites(used.get(("datasets", data.name), [])),
    }


def _recipe_rows(
    files: RegistryFiles, used: Mapping[tuple[str, str], list[str]]
) -> list[dict[str, str]]:
    return [
        {
            "recipe": name,
            "epochs": str(recipe.epochs),
            "batch size": str(recipe.batch_size),
            "learning rate": str(recipe.learning_rate),
            "schedule": recipe.schedule,
            "models": str(len(used.get(("recipes", name), []))),
        }
        for name, recipe in files.registry.recipes.items()
    ]


def _source(entry: ModelEntry | DatasetEntry) -> str:
    if entry.hub is not None:
        return f"{entry.hub}@{entry.revision[:8]}" if entry.revision else entry.hub
    if entry.path is not None:
        return str(entry.path)
    if isinstance(entry, DatasetEntry):
        return f"embedded {entry.embedded}"
    return f"scratch {(entry.scratch or {})['model_type']}"


def _suites(entry_users: Sequence[str]) -> str:
    suites = [user.removeprefix("suite ") for user in entry_users if user.startswith("suite ")]
    return ", ".join(suites) or "-"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    from tabulate import tabulate

    return tabulate([dict(row) for row in rows], headers="keys", disable_numparse=True)
