"""Adding an entry to a registry file: lines are added, none is changed, nothing is lost."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.registry.parsing import Node
from benchmark.registry.source import RegistryError, Source

_WIDTH = 96


def with_entry(source: Source, section: str, name: str, fields: Mapping[str, Any]) -> Source:
    """Return the file with an entry more, after the last one of its section.

    The text is put in as lines and read again; it must then hold what it held before and the
    new entry.

    Args:
        source: the file as it is.
        section: models or datasets.
        name: the entry's key.
        fields: what the entry says: plain values.

    Raises:
        RegistryError: the section is not written as a block, so that lines cannot be added.
    """
    expected = source.plain()
    expected[section] = {**(expected.get(section) or {}), name: dict(fields)}
    for text in _candidates(source, section, {name: dict(fields)}):
        try:
            changed = Source.parse(source.path, text)
        except RegistryError:
            continue
        if changed.plain() == expected:
            return changed
    raise RegistryError(
        source.describe((section,), "no lines can be added here; write the section as a block")
        + f"\nThe entry would be:\n{entry_text({name: dict(fields)}, indent=2)}"
    )


def entry_text(entry: Mapping[str, Any], indent: int) -> str:
    """Return an entry as YAML lines, indented by so many columns."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(dict(entry), stream)
    return "".join(f"{' ' * indent}{line}\n" for line in stream.getvalue().splitlines())


def _candidates(source: Source, section: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts with the entry put in, the nicest place first."""
    lines = source.text.splitlines(keepends=True)
    ending = "\r\n" if "\r\n" in source.text else "\n"
    root = source.root.content
    found = root.get(section) if isinstance(root, dict) else None
    if found is None:
        added = f"\n{section}:\n{entry_text(entry, indent=2)}"
        yield _insert(lines, len(lines), added.replace("\n", ending), ending)
        return
    node = found[1]
    if node.flow or not isinstance(node.content, dict) or not node.content:
        return
    added = entry_text(entry, indent=node.start[1]).replace("\n", ending)
    for line in _ends(node, lines):
        yield _insert(lines, line, added, ending)


def _insert(lines: list[str], position: int, added: str, ending: str) -> str:
    before = "".join(lines[:position])
    if before and not before.endswith(("\n", "\r")):
        before += ending  # the file's last line had none
    return before + added + "".join(lines[position:])


def _ends(section: Node, lines: list[str]) -> Iterator[int]:
    """Yield lines that the section may end before: without, then with comments that follow it."""
    end = min(section.end[0] + (section.end[1] > 0), len(lines))
    last = end
    while last > 0 and (not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#")):
        last -= 1
    yield last
    yield end


def replace_file(source: Source, text: str) -> None:
    """Put `text` in the place of the file, at once and whole.

    Raises:
        RegistryError: the file has changed since it was read, or cannot be written.
    """
    path = source.path.resolve()  # a link stays a link
    try:
        if Source.read(path).text != source.text:
            raise RegistryError(f"{source.path}: has just been changed; run the command again")
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            shutil.copymode(path, temporary)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise RegistryError(f"{source.path}: cannot be written: {error}; it is as it was") from None
