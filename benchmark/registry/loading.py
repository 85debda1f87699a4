"""registry.yaml -> `Registry`. Errors name file, line and the fix, all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError

from benchmark.registry.entries import (
    Claim,
    DatasetEntry,
    Entry,
    ModelEntry,
    Recipe,
    Suite,
    did_you_mean,
)
from benchmark.registry.source import Location, RegistryError, Source

DEFAULT_REGISTRY = Path(__file__).parents[2] / "registry.yaml"

SECTIONS = ("suites", "recipes", "models", "datasets")
NAMED_SECTIONS = ("suites", "models", "datasets")


class Registry(Entry):
    """Everything that can be run: models, datasets, recipes, suites and the claim."""

    version: Literal[1] = 1
    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]
    recipes: dict[str, Recipe]
    suites: dict[str, Suite] = Field(min_length=1)
    claim: Claim = Claim()

    @classmethod
    def load(cls, path: Path | str = DEFAULT_REGISTRY) -> Registry:
        """Read and validate a registry file, with the files that it extends.

        Entries of the file come before those it extends, and replace those of the same name.

        Raises:
            RegistryError: a file is missing, is not YAML, or has invalid entries; the
                message lists all of them, each with file, line, column and a suggestion.
        """
        return RegistryFiles.read(path).registry

    def default_suite(self) -> Suite:
        """Return the first suite of the file."""
        return next(iter(self.suites.values()))


@dataclass(frozen=True)
class RegistryFiles:
    """A registry with the files it was read from, nearest first."""

    registry: Registry
    sources: tuple[Source, ...]

    @classmethod
    def read(cls, path: Path | str = DEFAULT_REGISTRY) -> RegistryFiles:
        """Read and validate a registry file; see `Registry.load`."""
        return cls.assemble(list(_read_chain(Path(path))))

    @classmethod
    def assemble(cls, sources: Sequence[Source]) -> RegistryFiles:
        """Merge and validate files that are parsed, nearest first; see `Registry.load`."""
        try:
            registry = Registry.model_validate(_merge(sources))
        except ValidationError as error:
            raise RegistryError("\n".join(_describe_all(sources, error))) from None
        problems = [
            _owner(sources, where).describe(where, text)
            for where, text in _broken_references(registry)
        ]
        if problems:
            raise RegistryError("\n".join(problems))
        return cls(registry, tuple(sources))

    def place(self, section: str, name: str) -> str:
        """Return file:line of an entry."""
        source = _owner(self.sources, (section, name))
        return f"{source.path}:{source.line((section, name))}"


# --- one tree out of a file and those it extends ----------------------------------------------


def _read_chain(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[Source]:
    """Yield the file and then, nearest first, what it extends."""
    source = Source.read(path)
    yield source
    seen = (*seen, path.resolve())
    for location, name in _extended(source):
        base = path.parent / name
        if not _is_file(base):
            text = f"no registry file '{name}' in {path.parent.resolve()}"
            raise RegistryError(source.describe(location, text))
        if base.resolve() in seen:
            raise RegistryError(source.describe(location, f"'{name}' extends this file in turn"))
        yield from _read_chain(base, seen)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that holds NUL
        return False


def _extended(source: Source) -> list[tuple[Location, str]]:
    tree = source.plain()
    if not isinstance(tree, dict) or tree.get("extends") is None:
        return []
    value = tree["extends"]
    if isinstance(value, str):
        return [(("extends",), value)]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        text = "name a registry file, or a list of them, relative to this one"
        raise RegistryError(source.describe(("extends",), text))
    return [(("extends", index), name) for index, name in enumerate(value)]


def _merge(sources: Sequence[Source]) -> Any:
    """Return one plain tree; what is not a mapping is left for validation to refuse."""
    merged: dict[str, Any] = {}
    for source in sources:
        tree = source.plain()
        if not isinstance(tree, dict):
            return tree
        tree.pop("extends", None)
        _complete_entries(tree, source.path.parent)
        for key, value in tree.items():
            known = merged.setdefault(key, value)
            if key in SECTIONS and isinstance(known, dict) and isinstance(value, dict):
                merged[key] = {**known, **{k: v for k, v in value.items() if k not in known}}
    return merged


def _complete_entries(tree: dict[str, Any], folder: Path) -> None:
    """Give each entry its key as its name; take paths as relative to the registry's folder."""
    for section in NAMED_SECTIONS:
        entries = tree.get(section)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                entry.setdefault("name", name)
                if isinstance(entry.get("path"), str):
                    entry["path"] = str(folder / entry["path"])


# --- what is wrong, and where -------------------------------------------------------------------


def _owner(sources: Sequence[Source], location: Location) -> Source:
    """Return the file that a part of the merged tree came from."""
    return max(sources, key=lambda source: min(2, len(source.existing(location))))


def _describe_all(sources: Sequence[Source], error: ValidationError) -> list[str]:
    """Return one problem for each wrong node; a node may break several alternatives of a type."""
    problems: dict[tuple[Location, str], list[Any]] = {}
    for detail in error.errors():
        location = detail["loc"]
        if detail["type"] == "missing":
            place = location
        else:
            place = _owner(sources, location).existing(location)
        kind = "extra" if detail["type"] == "extra_forbidden" else "value"
        problems.setdefault((place, kind), []).append(detail)
    return [_describe(sources, place, details) for (place, _), details in problems.items()]


def _describe(sources: Sequence[Source], place: Location, details: Sequence[Any]) -> str:
    first = details[0]
    source = _owner(sources, place)
    if first["type"] == "extra_forbidden":
        known = set(_entry_class(place[:-1]).model_fields) - {"name"}
        if len(place) == 1:
            known.add("extends")
        text = f"unknown key '{place[-1]}'{did_you_mean(str(place[-1]), known)}"
        return source.describe(place, text, at_key=True)
    if first["type"] == "missing":
        return source.describe(place[:-1], f"missing key '{place[-1]}'")
    if first["type"] == "model_type":
        fields = _entry_class(place).model_fields
        keys = ", ".join(name for name in fields if name != "name")
        return source.describe(place, f"expected a mapping with keys out of: {keys}")
    if len(details) == 1 and first["type"] == "literal_error":
        allowed = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = did_you_mean(str(first["input"]), allowed)
        return source.describe(place, f"unknown {place[-1]} '{first['input']}'{hint}")
    texts = dict.fromkeys(str(detail["msg"]).removeprefix("Value error, ") for detail in details)
    return source.describe(place, "; or: ".join(texts))


def _entry_class(location: Location) -> type[Entry]:
    """Return the class of the entry at `location` in a registry."""
    owner: type[Entry] = Registry
    inside_container = False
    for part in location:
        if inside_container:  # a name in a section, or an index in a list
            inside_container = False
            continue
        annotation = owner.model_fields[str(part)].annotation
        owner = _first_entry_class(annotation) or owner
        inside_container = get_origin(annotation) in (dict, tuple)
    return owner


def _first_entry_class(annotation: Any) -> type[Entry] | None:
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        return annotation
    classes = (_first_entry_class(part) for part in get_args(annotation))
    return next((found for found in classes if found is not None), None)


def _broken_references(registry: Registry) -> Iterator[tuple[Location, str]]:
    """Find names used but not defined, as (location in the file, message)."""
    known: dict[str, Mapping[str, object]] = {
        "recipe": registry.recipes,
        "model": registry.models,
        "dataset": registry.datasets,
    }
    for location, kind, used in references(registry):
        if used not in known[kind]:
            yield location, f"unknown {kind} '{used}'{did_you_mean(used, known[kind])}"


def references(registry: Registry) -> Iterator[tuple[Location, str, str]]:
    """Yield every use of a name, as (location in the file, kind of entry, name)."""
    for name, model in registry.models.items():
        if model.recipe is not None:
            yield ("models", name, "recipe"), "recipe", model.recipe
        for field in ("evaluate", "datasets"):
            names = getattr(model, field)
            for index, used in enumerate(names if isinstance(names, tuple) else ()):
                yield ("models", name, field, index), "dataset", used
    for name, suite in registry.suites.items():
        for index, used in enumerate(suite.models):
            yield ("suites", name, "models", index), "model", used
        for index, used in enumerate(suite.datasets):
            yield ("suites", name, "datasets", index), "dataset", used
        for index, published in enumerate(suite.published):
            base: Location = ("suites", name, "published", index)
            yield (*base, "model"), "model", published.model
            yield (*base, "dataset"), "dataset", published.dataset
