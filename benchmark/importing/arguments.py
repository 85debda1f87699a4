"""Values of options, and the options that every import has."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from benchmark.registry import NAME_PATTERN
from benchmark.shell import as_folder

_LONGEST_SEED = 20  # a seed of 64 bits; it becomes part of a folder's name


class UsageError(ValueError):
    """The command line asks for something that cannot be."""


def add_places(parser: argparse._ArgumentGroup) -> None:
    """Add the options that say where a run goes."""
    parser.add_argument("--suite", default="imported", type=name, metavar="NAME")
    parser.add_argument("--seed", default=0, type=seed, help="tells runs of a model apart")
    parser.add_argument("--force", action="store_true", help="replace what the run's folder holds")
    parser.add_argument("--results", type=as_folder, default=Path("results"))
    parser.add_argument("--reports", type=as_folder, default=Path("reports"))
    parser.add_argument("--no-report", action="store_true", help="do not write the suite's report")


def without_folders(argument: str) -> str:
    """Return an argument with the folders of an absolute path left out: they are this machine's."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def name(text: str) -> str:
    """Return a text that can name a folder."""
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot name a folder: use letters, digits, '.', '_' and '-'"
        )
    return text


def names(text: str) -> tuple[str, ...]:
    """Return the names between commas."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError("give names with commas between them")
    return parts


def names_or_none(text: str) -> tuple[str, ...]:
    """Return the names between commas; `none` is no name."""
    return () if text == "none" else names(text)


def seed(text: str) -> int:
    """Return a whole number of at least 0."""
    if not text.isdecimal() or len(text) > _LONGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a whole number of at least 0 (and {_LONGEST_SEED} digits)"
        )
    return int(text)


def fraction(text: str) -> float:
    """Return a number between 0 and 1, both left out."""
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def count(text: str) -> int:
    """Return a whole number of at least 0, which may be written as 25e6."""
    value = number(text)
    if value < 0 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 25e6")
    return int(value)


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not at least 1")
    return count(text)


def number(text: str) -> float:
    """Return a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def yes_or_no(text: str) -> Any:
    """Return whether the text is yes."""
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return text == "yes"
