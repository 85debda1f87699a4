"""registry.yaml -> `Registry`. Errors name file, line and the fix, all of them at once."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError

from benchmark.notebook import Shown
from benchmark.registry.entries import Claim, DatasetEntry, Entry, ModelEntry, Suite
from benchmark.registry.problems import broken_references, invalid_nodes, owner
from benchmark.registry.recipe import Recipe
from benchmark.registry.source import Location, RegistryError, Source
from benchmark.registry.twins import twin_problems

_NAME = "registry.yaml"
_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE.parent, _PACKAGE)  # of a checkout, and of a wheel
BUNDLED_REGISTRY = next((p / _NAME for p in _PLACES if (p / _NAME).is_file()), _PLACES[0] / _NAME)
"""The registry that comes with this package; files name it as `extends: default`."""
DEFAULT_REGISTRY = Path.cwd() / _NAME if Path(_NAME).is_file() else BUNDLED_REGISTRY
"""The one of the folder that this process was started in, else the bundled one."""

SECTIONS = ("suites", "recipes", "models", "datasets")
NAMED_SECTIONS = ("suites", "models", "datasets")


class Registry(Shown, Entry):
    """Everything that can be run: models, datasets, recipes, suites and the claim."""

    version: Literal[1] = 1
    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]
    recipes: dict[str, Recipe]
    suites: dict[str, Suite] = Field(min_length=1)
    claim: Claim = Claim()
    _files: tuple[tuple[Path, frozenset[str]], ...] = PrivateAttr(())
    """The files it was read from, nearest first, each with the suites that it declares."""

    @property
    def file(self) -> str:
        """The name of the file it was read from; empty where it was not read from a file."""
        return self._files[0][0].name if self._files else ""

    def declaring(self, suite: str) -> Registry:
        """Return the registry whose file declares a suite, without what extends that file.

        Where several files of a chain declare the name, it belongs to the one furthest from this
        registry's own. A file that needs those that extend it declares nothing by itself.
        """
        for path, suites in reversed(self._files[1:]):
            if suite in suites:
                try:
                    return Registry.load(path)
                except RegistryError:
                    continue
        return self

    def _shown(self) -> tuple[str, dict[str, str]]:
        shown = {}
        for section in SECTIONS:
            entries = getattr(self, section)
            text = f"{len(entries)}: {', '.join(entries)}"
            shown[section] = textwrap.shorten(text, 100, placeholder=" ...")
        return f"Registry {self.file}".rstrip(), shown

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
        tree = _merge(sources)
        problems = [*_renamed(sources), *broken_references(sources, tree)]
        try:
            registry = Registry.model_validate(tree)
        except ValidationError as error:
            problems = [*invalid_nodes(sources, error, Registry), *problems]
        refuse(problems)
        registry._files = tuple((source.path, _suites(source)) for source in sources)
        files = cls(registry, tuple(sources))
        refuse(
            files.describe(("models", name, "twin"), text)
            for name, text in twin_problems(registry.models)
        )
        return files

    def place(self, section: str, name: str) -> str:
        """Return file:line of an entry."""
        source = owner(self.sources, (section, name))
        return f"{source.path}:{source.line((section, name))}"

    def describe(self, location: Location, text: str) -> str:
        """Return a problem with file, line and column; see `Source.describe`."""
        return owner(self.sources, location).describe(location, text)


def _suites(source: Source) -> frozenset[str]:
    declared = source.plain().get("suites")
    return frozenset(declared if isinstance(declared, dict) else ())


def refuse(problems: Iterable[str]) -> None:
    """Raise all problems at once, if there are any.

    Raises:
        RegistryError: there is one.
    """
    text = "\n".join(problems)
    if text:
        raise RegistryError(text)


# --- one tree out of a file and those it extends ----------------------------------------------


def _read_chain(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[Source]:
    """Yield the file and then, nearest first, what it extends."""
    source = Source.read(path)
    yield source
    seen = (*seen, path.resolve())
    for location, name in _extended(source):
        base = BUNDLED_REGISTRY if name == "default" else _local(path.parent, name)
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
                    entry["path"] = str(_local(folder, entry["path"]))


def _renamed(sources: Sequence[Source]) -> Iterator[str]:
    """Yield a problem for each entry with a name beside its key: two could have the same one."""
    for source in sources:
        tree = source.plain()
        for section in NAMED_SECTIONS:
            entries = tree.get(section) if isinstance(tree, dict) else None
            for key, entry in entries.items() if isinstance(entries, dict) else ():
                if isinstance(entry, dict) and entry.get("name", key) != key:
                    text = f"the name of an entry is its key, '{key}': leave this out"
                    yield source.describe((section, key, "name"), text)


def _local(folder: Path, name: str) -> Path:
    """Return a path of a registry file: relative to its folder, or in a home folder (~)."""
    try:
        return folder / Path(name).expanduser()
    except (RuntimeError, ValueError):  # nobody of that name
        return folder / name
