"""A YAML file that can say where each of its nodes stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.registry.parsing import Node, ParseError, Position, parse
from benchmark.shell import special_kind

Location = tuple[str | int, ...]
"""The keys and indexes that lead from the top of a file to one of its nodes."""

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # those of the YAML parser
_SHOWN_COLUMNS = 120


class RegistryError(ValueError):
    """The registry cannot be used; the message lists every problem with file and line."""


@dataclass(frozen=True)
class Source:
    """A parsed registry file, with its lines for messages."""

    path: Path
    text: str
    root: Node

    @classmethod
    def read(cls, path: Path) -> Source:
        """Parse a file.

        Raises:
            RegistryError: it is missing, cannot be read, or is not YAML.
        """
        kind = special_kind(path)
        if kind is not None:
            raise RegistryError(f"{path}: is {kind}, not a file: save the registry and name it")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise RegistryError(f"{path}: no such registry file") from None
        except (OSError, ValueError) as error:  # ValueError: a path that holds NUL
            raise RegistryError(f"{path}: cannot be read: {error}") from None
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8").split("\n")
            where = f"{path}:{len(before)}:{len(before[-1]) + 1}"
            raise RegistryError(f"{where}: cannot be read: not UTF-8: {error.reason}") from None
        return cls.parse(path, text)

    @classmethod
    def parse(cls, path: Path, text: str) -> Source:
        """Parse the text of the file at `path`.

        Raises:
            RegistryError: it is not the YAML of a registry.
        """
        try:
            return cls(path, text, parse(text))
        except ParseError as error:
            problem = f"not valid YAML: {error}"
            if error.position is None:
                raise RegistryError(f"{path}: {problem}") from None
            raise RegistryError(_located(path, text, error.position, problem)) from None

    def plain(self) -> Any:
        """Return the content as plain dictionaries and lists; keys are strings."""
        return self.root.plain()

    def existing(self, location: Location) -> Location:
        """Return the leading part of `location` that is in the file."""
        return location[: self._walk(location)[0]]

    def line(self, location: Location) -> int:
        """Return the line, from 1, of the node at `location` or of its deepest parent."""
        return self._walk(location)[1][0] + 1

    def describe(self, location: Location, text: str, *, at_key: bool = False) -> str:
        """Format a problem: file:line:column, path in the tree, message, line and caret.

        Args:
            location: the node that is wrong; if it does not exist, its deepest existing parent
                is shown.
            text: what is wrong and what to do.
            at_key: point at the node's key instead of its value.
        """
        position = self._walk(location, at_key=at_key)[1]
        dotted = ".".join(str(part) for part in location) or "registry"
        return _located(self.path, self.text, position, f"{dotted}: {text}")

    def _walk(self, location: Location, *, at_key: bool = False) -> tuple[int, Position]:
        """Follow `location`; return how many parts exist and where the last one stands."""
        node, position = self.root, (0, 0)
        for depth, part in enumerate(location):
            content = node.content
            if isinstance(content, dict) and str(part) in content:
                key_position, node = content[str(part)]
                at_value = not at_key and not isinstance(node.content, dict | list)
                position = node.start if at_value else key_position
            elif isinstance(content, list) and isinstance(part, int) and part < len(content):
                node = content[part]
                position = node.start
            else:
                return depth, position
        return len(location), position


def _located(path: Path, text: str, position: Position, problem: str) -> str:
    """Return the problem with file, line and column, then the line itself with a caret."""
    line, column = position
    message = f"{path}:{line + 1}:{column + 1}: {_printable(problem)}"
    lines = _LINE_BREAK.split(text)
    if line >= len(lines):
        return message
    first = max(0, column - _SHOWN_COLUMNS // 2)
    shown = lines[line][first : first + _SHOWN_COLUMNS]
    shown = "".join(character if character.isprintable() else " " for character in shown)
    return f"{message}\n    {shown}\n    {' ' * (column - first)}^"


def _printable(text: str) -> str:
    """Escape what a terminal would obey."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
