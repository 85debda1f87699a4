"""What a command may be told: on its line, by environment variables, with a shell's completion.

Every option can also be given as CALIBRATION_BENCHMARK_<OPTION>; the command line goes first.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

PREFIX = "CALIBRATION_BENCHMARK_"
PROGRAM = "calibration-benchmark"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_LONGEST_NUMBER = 9
_COMPLETING = "_ARGCOMPLETE"
"""Set by a shell that asks how a command line may go on (argcomplete's protocol)."""


class _Called:
    """How this process was started, where that is not as a module or a file."""

    by_name = False


def started_as_program() -> bool:
    """Say whether the installed command was called, rather than a module or a file."""
    return _Called.by_name


def start_as_program() -> None:
    """Note that the installed command was called."""
    _Called.by_name = True


def program(command: str, otherwise: str) -> str:
    """Return how a command was called, as its help and errors say it.

    Args:
        command: its name among those of the installed command; empty: that of several.
        otherwise: how it is called as a module or a file.
    """
    return f"{PROGRAM} {command}".rstrip() if _Called.by_name else otherwise


class Parser(argparse.ArgumentParser):
    """A parser whose options may also be given as environment variables, and be completed.

    A switch is on at 1, true, yes or on. Where an option takes several values, a variable has
    them as a shell would, with spaces between. What it says is checked as if it had been typed,
    and an error names the variable.
    """

    def parse_known_args(  # type: ignore[override]  # typeshed overloads it by its namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """See `argparse`; options of the environment go before those of the line."""
        given = list(sys.argv[1:] if args is None else args)
        told = [word for _, words in self._of_environment() for word in words]
        return super().parse_known_args([*told, *given], namespace)

    def error(self, message: str) -> NoReturn:
        """End with a usage error; say so where an environment variable may have caused it."""
        names = [
            variable_name(action)
            for action, words in self._of_environment()
            if words and words[0].partition("=")[0] in message
        ]
        cause = f" ({', '.join(names)} is set)" if names else ""
        text = f"{self.prog}: error: {message}{cause}\n{self.prog} --help tells what there is\n"
        self.exit(2, text)

    def _of_environment(self) -> Iterator[tuple[argparse.Action, list[str]]]:
        for action in self._actions:
            value = os.environ.get(variable_name(action)) if _has_variable(action) else None
            if value is not None:
                yield action, _words(action, value)


def _has_variable(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.dest not in (argparse.SUPPRESS, "help", "version")


def variable_name(action: argparse.Action) -> str:
    """Return the environment variable that stands for an option."""
    return PREFIX + action.dest.upper()


def _words(action: argparse.Action, value: str) -> list[str]:
    """Return what would be typed for what a variable says."""
    option = max(action.option_strings, key=len)
    if action.nargs == 0:
        if value.lower() in _NO:
            return []
        # What is neither yes nor no is typed as it is, which the parser then refuses.
        return [option] if value.lower() in _YES else [f"{option}={value}"]
    if action.nargs is None:
        return [f"{option}={value}"]
    return [option, *shlex.split(value)]


def parse(parser: Parser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what a command is told; answer a shell that asks how its line may go on instead."""
    if completing():
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser.parse_args(arguments)


def completing() -> bool:
    """Say whether a shell asks how a command line may go on."""
    return _COMPLETING in os.environ


def skip_completed_word() -> str:
    """Return the first word of a line to be completed, or "" while it is being typed.

    What follows is then completed as if it were the whole line.
    """
    from argcomplete.lexers import split_line

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words, first = split_line(line, point)[3], int(os.environ[_COMPLETING])
    if len(words) <= first:
        return ""
    os.environ[_COMPLETING] = str(first + 1)
    return str(words[first])


def completed(action: argparse.Action, complete: Callable[[str], Sequence[str]]) -> argparse.Action:
    """Let a shell complete an option's names, which may stand with commas between.

    Args:
        action: the option.
        complete: returns the names known, given what was typed of the last.
    """

    def completer(prefix: str, **_: Any) -> list[str]:
        before, comma, last = prefix.rpartition(",")
        return [f"{before}{comma}{name}" for name in complete(last)]

    action.completer = completer  # type: ignore[attr-defined]  # where argcomplete looks for it
    return action


class Names(argparse.Action):
    """Names with commas or spaces between, or both."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Keep the names of this option; given twice, the last counts."""
        typed = [values] if isinstance(values, str) else values
        names = [name.strip() for text in typed for name in text.split(",") if name.strip()]
        if not names:
            parser.error(f"argument {option_string}: give at least one name")
        setattr(namespace, self.dest, names)


def positive(text: str) -> int:
    """Return a whole number of at least 1; for `argparse`."""
    # Longer numbers make names of folders that no file system takes.
    if not text.isdecimal() or len(text) > _LONGEST_NUMBER or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a whole number of at least 1 (and {_LONGEST_NUMBER} digits)"
        )
    return int(text)


def count(text: str) -> int:
    """Return a whole number; for `argparse`."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
