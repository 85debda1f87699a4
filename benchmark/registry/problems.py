"""What is wrong with a registry: each problem at its place, in words for whoever wrote the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from benchmark.registry.entries import LONGEST_NAME, Entry, did_you_mean
from benchmark.registry.source import Location, Source

_EXPECTED = {
    "string": "a text",
    "path": "a path",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
"""First word of an error's type: what was expected."""
_LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "too_short": "needs at least {min_length} of them",
    "too_long": "takes at most {max_length} of them",
}
_REFERENCES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("models", "*", "recipe"), "recipe"),
    (("models", "*", "evaluate", "*"), "dataset"),
    (("models", "*", "datasets", "*"), "dataset"),
    (("models", "*", "twin"), "model"),
    (("suites", "*", "models", "*"), "model"),
    (("suites", "*", "datasets", "*"), "dataset"),
    (("suites", "*", "published", "*", "model"), "model"),
    (("suites", "*", "published", "*", "dataset"), "dataset"),
)
"""Where an entry uses another one's name, and of what kind that is; `*` stands for any part."""


def owner(sources: Sequence[Source], location: Location) -> Source:
    """Return the file that a part of the merged tree came from."""
    return max(sources, key=lambda source: min(2, len(source.existing(location))))


def invalid_nodes(
    sources: Sequence[Source], error: ValidationError, root: type[Entry]
) -> Iterator[str]:
    """Yield one problem for each wrong node; a node may break several alternatives of a type.

    Args:
        sources: the files, nearest first.
        error: of their merged tree.
        root: the class that the tree is not an instance of.
    """
    problems: dict[tuple[Location, str], list[Any]] = {}
    for detail in error.errors():
        location = detail["loc"]
        if detail["type"] == "missing":
            place = location
        else:
            place = owner(sources, location).existing(location)
        kind = "extra" if detail["type"] == "extra_forbidden" else "value"
        problems.setdefault((place, kind), []).append(detail)
    for (place, _), details in problems.items():
        yield _describe(sources, place, details, root)


def _describe(
    sources: Sequence[Source], place: Location, details: Sequence[Any], root: type[Entry]
) -> str:
    first = details[0]
    source = owner(sources, place)
    if first["type"] == "extra_forbidden":
        known = set(_entry_class(place[:-1], root).model_fields) - {"name"}
        if len(place) == 1:
            known.add("extends")
        text = f"unknown key '{place[-1]}'{did_you_mean(str(place[-1]), known)}"
        return source.describe(place, text, at_key=True)
    if first["type"] == "missing" and isinstance(place[-1], int):
        return source.describe(place[:-1], f"needs at least {place[-1] + 1} of them")
    if first["type"] == "missing":
        return source.describe(place[:-1], f"missing key '{place[-1]}'")
    if first["type"] == "model_type":
        fields = _entry_class(place, root).model_fields
        keys = ", ".join(name for name in fields if name != "name")
        found = "is empty: " if first["input"] is None and place else ""
        return source.describe(place, f"{found}expected a mapping with keys out of: {keys}")
    if len(details) == 1 and first["type"] == "literal_error":
        hint = did_you_mean(str(first["input"]), _allowed(first))
        return source.describe(place, f"unknown {place[-1]} '{first['input']}'{hint}")
    texts = dict.fromkeys(in_words(detail) for detail in details)
    return source.describe(place, "; or: ".join(texts))


def _allowed(detail: Mapping[str, Any]) -> list[str]:
    text: str = detail["ctx"]["expected"]
    return text.replace("'", "").replace(" or ", ", ").split(", ")


def in_words(detail: Mapping[str, Any]) -> str:
    """Return what a pydantic error says, without the words of Python's types."""
    kind, value = str(detail["type"]), detail.get("input")
    if kind in _LIMITS:
        return _LIMITS[kind].format(**detail["ctx"])
    if kind == "string_pattern_mismatch":
        return _about_name(str(value))
    if kind == "literal_error":
        return f"expected {detail['ctx']['expected']}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is no key here"
    expected = _EXPECTED.get(kind.partition("_")[0])
    if kind == "value_error" or expected is None:
        return str(detail["msg"]).removeprefix("Value error, ")
    if value is None:
        return f"is empty: expected {expected}"
    return f"expected {expected}{_found(expected, value)}"


def _found(expected: str, value: object) -> str:
    """Say what stands there instead, and how to write it if that can be told."""
    if isinstance(value, dict):
        return ", found a mapping"
    if isinstance(value, list | tuple):
        return ", found a list"
    word = str(value).lower() if isinstance(value, bool) else f"{value}"[:40]
    if expected == "a text":
        kind = "truth value" if isinstance(value, bool) else "number"
        return f", found the {kind} {word}: put it in quotes, '{word}'"
    return f", found {word}" + (f": write [{word}]" if expected == "a list" else "")


def _about_name(name: str) -> str:
    if len(name) > LONGEST_NAME:
        return (
            f"is too long: a name becomes part of file names, so it has at most {LONGEST_NAME} "
            f"characters; this one has {len(name)}"
        )
    fitting = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")
    example = f", e.g. '{fitting}'" if fitting and fitting != name else ""
    return (
        "a name becomes a folder: it has letters, digits, '.', '_' and '-', no slash or space, and "
        f"begins with a letter or digit{example}"
    )


def _entry_class(location: Location, root: type[Entry]) -> type[Entry]:
    """Return the class of the entry at `location` in a registry."""
    found = root
    inside_container = False
    for part in location:
        if inside_container:  # a name in a section, or an index in a list
            inside_container = False
            continue
        annotation = found.model_fields[str(part)].annotation
        found = _first_entry_class(annotation) or found
        inside_container = get_origin(annotation) in (dict, tuple)
    return found


def _first_entry_class(annotation: Any) -> type[Entry] | None:
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        return annotation
    classes = (_first_entry_class(part) for part in get_args(annotation))
    return next((found for found in classes if found is not None), None)


def broken_references(sources: Sequence[Source], tree: Any) -> Iterator[str]:
    """Yield a problem for each name that is used but not defined.

    Args:
        sources: the files, nearest first.
        tree: what they hold, merged; parts of it may be invalid, and are passed over.
    """
    for location, kind, used in references(tree):
        known = tree.get(f"{kind}s")
        if isinstance(known, dict) and used not in known:
            text = f"unknown {kind} '{used}'{did_you_mean(used, known)}"
            yield owner(sources, location).describe(location, text)


def references(tree: Any) -> Iterator[tuple[Location, str, str]]:
    """Yield every use of a name in a registry's tree, as (location, kind of entry, name)."""
    for pattern, kind in _REFERENCES:
        for location, value in _matching(tree, pattern):
            if isinstance(value, str):
                yield location, kind, value


def _matching(
    node: Any, pattern: tuple[str, ...], location: Location = ()
) -> Iterator[tuple[Location, Any]]:
    """Yield the nodes below `node` whose location is of a pattern."""
    if not pattern:
        yield location, node
        return
    children: Sequence[tuple[str | int, Any]] = ()
    if isinstance(node, dict):
        children = [(key, node[key]) for key in node if pattern[0] in ("*", key)]
    elif isinstance(node, list | tuple) and pattern[0] == "*":
        children = [*enumerate(node)]
    for part, child in children:
        yield from _matching(child, pattern[1:], (*location, part))
