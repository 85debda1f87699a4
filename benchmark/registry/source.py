"""A YAML file that can say where each of its nodes stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

Location = tuple[str | int, ...]
"""The keys and indexes that lead from the top of a file to one of its nodes."""


class RegistryError(ValueError):
    """The registry cannot be used; the message lists every problem with file and line."""


@dataclass(frozen=True)
class Source:
    """A parsed registry file, with its lines for messages."""

    path: Path
    lines: list[str]
    tree: Any

    @classmethod
    def read(cls, path: Path) -> Source:
        """Parse a file.

        Raises:
            RegistryError: it is missing, cannot be read, or is not YAML.
        """
        try:
            text = path.read_text(encoding="utf-8")
            tree = YAML(typ="rt").load(text)
        except FileNotFoundError:
            raise RegistryError(f"{path}: no such registry file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"{path}: cannot be read: {error}") from None
        except MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            raise RegistryError(f"{where}: not valid YAML: {error.problem}") from None
        except Exception as error:  # a YAML library can raise anything on garbage
            raise RegistryError(f"{path}: not valid YAML: {error}") from None
        return cls(path, text.splitlines(), tree)

    def plain(self) -> Any:
        """Return the content as plain dictionaries and lists; keys become strings."""
        return _plain(self.tree)

    def holds(self, location: Location) -> bool:
        """Say whether there is a node at `location`."""
        return self._walk(location)[0] == len(location)

    def existing(self, location: Location) -> Location:
        """Return the leading part of `location` that is in the file."""
        return location[: self._walk(location)[0]]

    def describe(self, location: Location, text: str, *, at_key: bool = False) -> str:
        """Format a problem: file:line:column, path in the tree, message, line and caret.

        Args:
            location: the node that is wrong; if it does not exist, its deepest existing parent
                is shown.
            text: what is wrong and what to do.
            at_key: point at the node's key instead of its value.
        """
        line, column = self._walk(location, at_key=at_key)[1]
        dotted = ".".join(str(part) for part in location)
        message = f"{self.path}:{line + 1}:{column + 1}: {dotted or 'registry'}: {text}"
        if line >= len(self.lines):
            return message
        return f"{message}\n    {self.lines[line]}\n    {' ' * column}^"

    def _walk(self, location: Location, *, at_key: bool = False) -> tuple[int, tuple[int, int]]:
        """Follow `location`; return how many parts exist and (line, column) of the last one."""
        node, position = self.tree, (0, 0)
        for depth, part in enumerate(location):
            key = _key_in(node, part)
            if key is not None:
                is_scalar = not isinstance(node[key], CommentedMap | CommentedSeq)
                at_value = is_scalar and not at_key
                position = node.lc.value(key) if at_value else node.lc.key(key)
                node = node[key]
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                position = node.lc.item(part)
                node = node[part]
            else:
                return depth, position
        return len(location), position


def _key_in(node: Any, part: str | int) -> Any:
    """Return the mapping's own key for `part` (YAML keys need not be strings), or None."""
    if not isinstance(node, CommentedMap):
        return None
    if part in node:
        return part
    return next((key for key in node if str(key) == part), None)


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node
