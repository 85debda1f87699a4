"""What a valid registry holds, and what in it is worth a second look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sized

from benchmark.registry.entries import DatasetEntry, ModelEntry
from benchmark.registry.loading import RegistryFiles
from benchmark.registry.problems import references

_SHOWN_NAMES = 3


def summary(files: RegistryFiles) -> str:
    """Return how many entries of each kind there are."""
    registry = files.registry
    counts: dict[str, Sized] = {
        "model": registry.models,
        "dataset": registry.datasets,
        "recipe": registry.recipes,
        "suite": registry.suites,
        "file": files.sources,
    }
    return ", ".join(
        f"{len(entries)} {kind}{'' if len(entries) == 1 else 's'}"
        for kind, entries in counts.items()
    )


def warnings(files: RegistryFiles) -> list[str]:
    """Return what is allowed but may be a slip, each with file and line."""
    return [
        f"{files.place(section, name)}: warning: {section}.{name}: {text}"
        for section, name, text in (*_unused(files), *_repeated(files), *_own_code(files))
    ] + _unpinned(files)


def users(files: RegistryFiles) -> dict[tuple[str, str], list[str]]:
    """Return for each (section, name) that is referred to, who does, e.g. "suite small"."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for location, kind, used in references(files.registry.model_dump()):
        user = f"{str(location[0]).removesuffix('s')} {location[1]}"
        if user not in found[f"{kind}s", used]:
            found[f"{kind}s", used].append(user)
    return found


def _unused(files: RegistryFiles) -> Iterator[tuple[str, str, str]]:
    used = users(files)
    for section in ("models", "datasets"):
        for name in getattr(files.registry, section):
            if not any(user.startswith("suite ") for user in used.get((section, name), ())):
                yield section, name, "in no suite: it is only run when it is named"
    for name in files.registry.recipes:
        if not used.get(("recipes", name)):
            yield "recipes", name, "no model uses it"


def _repeated(files: RegistryFiles) -> Iterator[tuple[str, str, str]]:
    first: dict[tuple[object, ...], str] = {}
    for section, entry in _hub_entries(files):
        variant = (entry.config, entry.files) if isinstance(entry, DatasetEntry) else ()
        source = (section, entry.hub, entry.revision, str(variant))
        if source in first:
            yield section, entry.name, f"the same hub repository and revision as {first[source]}"
        first.setdefault(source, entry.name)


def _own_code(files: RegistryFiles) -> Iterator[tuple[str, str, str]]:
    for name, model in files.registry.models.items():
        if model.trust_remote_code:
            yield (
                "models",
                name,
                "runs code of its own (trust_remote_code): run.py lets it only with "
                "--allow-remote-code; read the code first",
            )


def _unpinned(files: RegistryFiles) -> list[str]:
    names = [entry.name for _, entry in _hub_entries(files) if not is_commit(entry.revision)]
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    return [
        f"{files.sources[0].path}: warning: {len(names)} hub entries are not pinned to a commit "
        f"({shown}): set 'revision', so that a later run finds the same files"
    ]


def _hub_entries(files: RegistryFiles) -> Iterator[tuple[str, ModelEntry | DatasetEntry]]:
    yield from (("models", entry) for entry in files.registry.models.values() if entry.hub)
    yield from (("datasets", entry) for entry in files.registry.datasets.values() if entry.hub)


def is_commit(revision: str | None) -> bool:
    """Say whether a revision is a full commit hash, which cannot move as branches do."""
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")
