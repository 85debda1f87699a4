"""A claim's result as markdown, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.claim.passage import Passage
from benchmark.claim.passages import claim_passages
from benchmark.claim.result import ClaimResult
from benchmark.markup import escape_markdown

MOST_ROWS = 40
"""Rows of a listing that are printed; the JSON output has all."""


def render_markdown(result: ClaimResult, title: str = "", about: Sequence[Passage] = ()) -> str:
    """Return the whole result as markdown, `about` first; texts from the data are escaped."""
    blocks = [
        f"# The claim{': ' + escape_markdown(title) if title else ''}",
        escape_markdown(" ".join(result.verdict.sentences)),
        escape_markdown(" ".join(result.verdict.numbers)),
        *(block for passage in (*about, *claim_passages(result)) for block in _blocks(passage)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _blocks(passage: Passage) -> Iterator[str]:
    yield f"## {escape_markdown(passage.title)}"
    bullet = "- " if len(passage.sentences) > 1 else ""
    if passage.sentences:
        yield "\n".join(
            f"{bullet}{escape_markdown(text)}" for text in passage.sentences[:MOST_ROWS]
        )
    if passage.table is not None:
        yield passage.table.to_markdown(MOST_ROWS).rstrip("\n")
