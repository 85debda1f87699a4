"""How a methods page puts counts, ranges and tables into markdown; texts of others are escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from benchmark.markup import MISSING, decimals, escape_inline

MAX_LISTED = 6
"""Different values that are written out; of more it is said how many there are."""
SHOWN_DIGITS = 12
"""Of revisions and hashes, which `spec.json` has whole."""


def bullets(sentences: Iterable[str]) -> str:
    """Return markdown sentences as a list, without the empty ones."""
    return "".join(f"- {sentence}\n" for sentence in sentences if sentence)


def pipe_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are markdown already, without columns in which all are empty."""
    lines = [list(row) for row in rows]
    kept = [k for k in range(len(header)) if any(line[k] for line in lines)]
    cells = [[header[k] for k in kept], *([line[k] or MISSING for k in kept] for line in lines)]
    widths = [max(3, *(len(line[k]) for line in cells)) for k in range(len(kept))]
    padded = [
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))} |"
        for line in cells
    ]
    rule = f"| {' | '.join('-' * width for width in widths)} |"
    return "\n".join([padded[0], rule, *padded[1:]]) + "\n"


def distinct(values: Iterable[object], most: int = MAX_LISTED) -> str:
    """Return the different values, escaped, the first of them where there are very many.

    >>> distinct([2, 1, 2, None, ""])
    '2, 1'
    """
    known = [text for text in dict.fromkeys(_text(value) for value in values) if text]
    rest = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(escape_inline(text) for text in known[:most]) + rest


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def counted(values: Iterable[str], most: int = MAX_LISTED) -> str:
    """Return how often each value occurs, the most frequent first.

    >>> counted(["flat", "converged", "converged"])
    '2 converged, 1 flat'
    """
    found = Counter(values).most_common()
    rest = f" and {len(found) - most:,} other" if len(found) > most else ""
    return ", ".join(f"{count:,} {escape_inline(name)}" for name, count in found[:most]) + rest


def spread(values: Iterable[float], places: int = 0) -> str:
    """Return the least and the greatest value, or the one that there is.

    >>> spread([1.25, 0.5], 2), spread([468, 468]), spread([])
    ('0.50 to 1.25', '468', '')
    """
    known = sorted(values)
    if not known:
        return ""
    ends = dict.fromkeys(_number(value, places) for value in (known[0], known[-1]))
    return " to ".join(ends)


def _number(value: float, places: int) -> str:
    return decimals(value, places) if places else f"{value:,.0f}"


def shortened(digest: str | None) -> str:
    """Return the first digits of a revision."""
    return escape_inline((digest or "")[:SHOWN_DIGITS])
