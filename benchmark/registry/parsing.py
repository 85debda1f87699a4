"""YAML text -> nodes that know where they stand.

The scalars are those of YAML 1.2 (`yes` is a word, dates are texts); the events come from libyaml,
whose speed lets every file be read with its positions. Aliases and merge keys work; what a
registry has no use for (tags, several documents, nesting without end) is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Position = tuple[int, int]
"""Line and column, both from 0."""

MAX_DEPTH = 50
MAX_NODES = 100_000
"""After aliases are expanded: a few lines of aliases to aliases can stand for billions."""
MAX_NUMBER_LENGTH = 300

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING_TAGS = ("!", "tag:yaml.org,2002:str")
_CONTAINER_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None}
for _word, _constant in (("null", None), ("true", True), ("false", False)):
    _CONSTANTS |= {_word: _constant, _word.title(): _constant, _word.upper(): _constant}
_INTEGER = re.compile(
    r"[-+]?(?:0b[01][01_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|\d[\d_]*)", re.ASCII
)
_FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    re.ASCII,
)
_FOREIGN = "[\\u00a0\\u1680\\u2000-\\u200d\\u202f\\u205f\\u2060\\u3000\\ufeff]"
"""Blanks that come along with what is copied from a web page or a text processor."""
_FOREIGN_BLANK, _FOREIGN_BLANK_AT_END = re.compile(_FOREIGN), re.compile(f"^{_FOREIGN}|{_FOREIGN}$")
_INDENTING_TAB = re.compile("[ -]*\t")
_BASES = {"0b": 2, "0o": 8, "0x": 16}


class ParseError(ValueError):
    """Text that is not the YAML of a registry; `position` says where, if that is known."""

    def __init__(self, text: str, position: Position | None) -> None:
        super().__init__(text)
        self.position = position


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a YAML file.

    Attributes:
        content: a scalar; nodes; or for each key its position and node.
        start: where the value begins.
        end: where it ends; of a block, where the next line with content begins.
        flow: whether it is written in brackets or braces.
        size: the number of nodes in it, itself included.
    """

    content: str | float | bool | list[Node] | dict[str, tuple[Position, Node]] | None
    start: Position
    end: Position
    flow: bool
    size: int

    def plain(self) -> Any:
        """Return the value as dictionaries, lists and scalars, none of them shared."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, (_, node) in self.content.items()}
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return self.content


def parse(text: str) -> Node:
    """Parse one YAML document; an empty one is a null.

    Raises:
        ParseError: it is not valid, or holds what a registry cannot hold.
    """
    try:
        return _Composer(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _refuse_near_blank(text, error)
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ParseError(reason, None if mark is None else (mark.line, mark.column)) from None
    except yaml.reader.ReaderError as error:
        raise ParseError(_unreadable(error), _position_of(text, error.position)) from None


def _refuse_near_blank(text: str, error: yaml.MarkedYAMLError) -> None:
    """Blame an error on a tab or a foreign blank that stands where the parser stumbled."""
    lines = text.split("\n")
    stumbled = [mark.line for mark in (error.problem_mark, error.context_mark) if mark is not None]
    for number in dict.fromkeys(line - back for line in stumbled for back in (0, 1)):
        line = lines[number].partition(" #")[0] if 0 <= number < len(lines) else ""
        found = _INDENTING_TAB.match(line) or _FOREIGN_BLANK.search(line)
        if found is not None:
            raise _blank_error(line[found.end() - 1], (number, found.end() - 1)) from None


def _blank_error(blank: str, position: Position) -> ParseError:
    name = "a tab" if blank == "\t" else unicodedata.name(blank, "a blank").lower()
    return ParseError(
        f"{name} (U+{ord(blank):04X}) looks like a space and is none: write ordinary spaces",
        position,
    )


def _refuse_blank_in(event: Any, pattern: re.Pattern[str]) -> None:
    """Refuse a text without quotes in which a foreign blank passes for a space of the syntax."""
    found = pattern.search(event.value) if event.implicit[0] else None
    if found is not None:
        line, column = _start(event)
        raise _blank_error(found[0], (line, column + found.start()))


def _unreadable(error: Any) -> str:
    character = error.character
    code = character if isinstance(character, int) else ord(character[:1] or "\0")
    return f"the character U+{code:04X} is not allowed"


def _position_of(text: str, index: int) -> Position:
    lines = text[:index].split("\n")
    return len(lines) - 1, len(lines[-1])


class _Composer:
    """Makes nodes out of the parser's events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node] = {}

    def document(self) -> Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Node(None, (0, 0), (0, 0), flow=False, size=1)
        root = self._node(next(self._events), depth=0)
        next(self._events)  # the document's end
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise ParseError("a registry is one document; here begins another", _start(following))
        return root

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if depth > MAX_DEPTH:
            raise ParseError(f"nested more than {MAX_DEPTH} levels deep", _start(event))
        if isinstance(event, yaml.ScalarEvent):
            node = Node(_scalar(event), _start(event), _end(event), flow=False, size=1)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(event, depth)
        else:
            node = self._sequence(event, depth)
        if node.size > MAX_NODES:
            text = f"aliases expand to more than {MAX_NODES:,} values"
            raise ParseError(text, node.start)
        if event.anchor is not None:  # only now: an alias inside its own anchor has no end
            self._anchors[event.anchor] = node
        return node

    def _aliased(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            text = f"alias '*{event.anchor}' has no anchor before it, or stands inside its own"
            raise ParseError(text, _start(event))
        return node

    def _sequence(self, event: Any, depth: int) -> Node:
        _refuse_tag(event)
        items = []
        while not isinstance(following := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(following, depth + 1))
        size = 1 + sum(item.size for item in items)
        return Node(items, _start(event), _start(following), bool(event.flow_style), size)

    def _mapping(self, event: Any, depth: int) -> Node:
        _refuse_tag(event)
        entries: dict[str, tuple[Position, Node]] = {}
        merged: list[dict[str, tuple[Position, Node]]] = []
        while not isinstance(following := next(self._events), yaml.MappingEndEvent):
            position, merges = _start(following), _is_merge_key(following)
            key = self._key(following)
            value = self._node(next(self._events), depth + 1)
            if merges:
                merged += _merge_sources(value, position)
            elif key in entries:
                line = entries[key][0][0] + 1
                raise ParseError(f"the key '{key}' stands twice, first on line {line}", position)
            else:
                entries[key] = (position, value)
        for source in merged:  # what the mapping itself says comes first, then earlier sources
            entries |= {key: pair for key, pair in source.items() if key not in entries}
        size = 1 + sum(value.size for _, value in entries.values())
        return Node(entries, _start(event), _start(following), bool(event.flow_style), size)

    def _key(self, event: Any) -> str:
        if isinstance(event, yaml.AliasEvent):
            content = self._aliased(event).content
            if isinstance(content, str):
                return content
        elif isinstance(event, yaml.ScalarEvent):
            _refuse_blank_in(event, _FOREIGN_BLANK)
            node = Node(event.value, _start(event), _end(event), flow=False, size=1)
            if event.anchor is not None:
                self._anchors[event.anchor] = node
            return str(event.value)
        raise ParseError("a key is a word, not a list or a mapping", _start(event))


def _start(event: Any) -> Position:
    return event.start_mark.line, event.start_mark.column


def _end(event: Any) -> Position:
    return event.end_mark.line, event.end_mark.column


def _is_merge_key(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]


def _merge_sources(node: Node, position: Position) -> list[dict[str, tuple[Position, Node]]]:
    """Return the mappings that a merge key takes in."""
    nodes = node.content if isinstance(node.content, list) else [node]
    sources = [source.content for source in nodes if isinstance(source.content, dict)]
    if len(sources) < len(nodes):
        raise ParseError("'<<' takes in a mapping, or a list of mappings", position)
    return sources


def _refuse_tag(event: Any) -> None:
    if event.tag not in _CONTAINER_TAGS:
        raise ParseError(f"the tag '{event.tag}' has no meaning in a registry", _start(event))


def _scalar(event: Any) -> str | float | bool | None:
    text = str(event.value)
    _refuse_blank_in(event, _FOREIGN_BLANK_AT_END)
    if event.tag in _STRING_TAGS or not (event.implicit[0] or event.tag):
        return text
    if event.tag is not None:
        raise ParseError(f"the tag '{event.tag}' has no meaning in a registry", _start(event))
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    is_integer = _INTEGER.fullmatch(text)
    if not is_integer and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_LENGTH:
        raise ParseError(f"a number of more than {MAX_NUMBER_LENGTH} characters", _start(event))
    digits = text.replace("_", "")
    if is_integer:
        return int(digits, _BASES.get(digits.lstrip("+-")[:2], 10))
    return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
