"""What must not leave this machine with what is published: folders' names, tokens, passwords."""

from __future__ import annotations

import re
from typing import Any

from benchmark.markup import without_credentials

_PART = r"[^\s/\\:*?\"'<>|,;()\[\]{}`]+"
# Two folders or more: a single slash between words is no path. Addresses have "//" before them.
_POSIX = re.compile(rf"(?<![\w./:>~-])(?:~|/{_PART})(?:/{_PART})*/(?={_PART})")
_WINDOWS = re.compile(rf"(?<!\w)[A-Za-z]:\\(?:{_PART}\\)*(?={_PART})")
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16})\b"
)


def without_private_parts(text: str) -> str:
    """Return a text with the folders of absolute paths, tokens and passwords left out.

    Of a path the last name is kept, which tells what it was.

    >>> without_private_parts("/home/ann/data/reviews.csv: no column 'text' (see https://a.org/b/c)")
    "reviews.csv: no column 'text' (see https://a.org/b/c)"
    """
    text = _TOKEN.sub("***", without_credentials(text))
    return _WINDOWS.sub("", _POSIX.sub("", text))


def cleaned(value: Any) -> Any:
    """Return JSON values with every text as `without_private_parts` gives it; keys stay."""
    if isinstance(value, str):
        return without_private_parts(value)
    if isinstance(value, dict):
        return {key: cleaned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [cleaned(one) for one in value]
    return value


def has_secret(text: str) -> bool:
    """Say whether a text holds what looks like a token, or an address with a password."""
    return _TOKEN.search(text) is not None or without_credentials(text) != text
