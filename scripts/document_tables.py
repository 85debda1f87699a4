"""Tables that studies write into the documents."""

from __future__ import annotations

from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """Return the lines between which a document holds the table of that name."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replace_table(document: Path, name: str, text: str) -> None:
    """Put a table between its markers in a document."""
    begin, end = markers(name)
    before, rest = document.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
