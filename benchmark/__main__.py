"""`calibration-benchmark COMMAND ...`, also `python -m benchmark COMMAND ...`.

What follows the command is up to it; nothing of another command is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.arguments import PROGRAM, Parser, completing, skip_completed_word, start_as_program
from benchmark.arguments import parse as parse_line
from benchmark.shell import command


@dataclass(frozen=True)
class _Command:
    """A command: where its `main` is, what it is for, and what is put before its arguments."""

    module: str
    purpose: str
    first: tuple[str, ...] = ()


COMMANDS = {
    "run": _Command("benchmark.run", "fine-tune, calibrate and time models; write a report"),
    "report": _Command("benchmark.report", "write the report of results, or of a table"),
    "compare": _Command("benchmark.report", "what changed between two trees of results"),
    "claim": _Command("benchmark.claim", "test the claim on results, or on a published table"),
    "import": _Command("benchmark.importing", "take in logits of elsewhere as runs", ("import",)),
    "lm-eval": _Command("benchmark.importing", "take in what lm-eval logged", ("lm-eval",)),
    "show": _Command("benchmark.importing", "what the logits of runs hold", ("show",)),
    "export": _Command("benchmark.export", "a run as a checkpoint or ONNX graph", ("export",)),
    "push": _Command("benchmark.export", "an export, to the hub", ("push",)),
    "push-results": _Command("benchmark.export", "a suite's records, to it", ("push-results",)),
    "registry": _Command("benchmark.registry", "check a registry, look into it, add to it"),
    "doctor": _Command("benchmark.execution", "what this machine has, and what is amiss"),
    "completion": _Command("benchmark.__main__", "what a shell needs to complete commands"),
}


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {one.purpose}" for name, one in COMMANDS.items())
    parser = Parser(
        prog=PROGRAM,
        description="Compare the calibration of many models, and test what explains it.",
        epilog=f"commands:\n{listed}\n\n{PROGRAM} COMMAND --help tells what each may be told.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"{PROGRAM} COMMAND ...",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    return parser


class _Version(argparse.Action):
    """Prints the version; it is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        parser.exit()


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    start_as_program()
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if completing():
        name = skip_completed_word()
        if name not in COMMANDS:
            parse_line(parser)  # completes the command's name, and ends
        words = [name]
    elif not words:
        parser.print_help()
        return 2
    elif words[0] not in COMMANDS and not words[0].startswith("-"):
        from benchmark.registry import did_you_mean

        parser.error(f"no command '{words[0]}'{did_you_mean(words[0], COMMANDS)}")
    name = words[0] if words[0] in COMMANDS else parser.parse_args(words[:1]).command
    return _call(name, words[1:])


def _call(name: str, words: Sequence[str]) -> int:
    if name == "completion":
        return _print_completion(words)
    one = COMMANDS[name]
    module = importlib.import_module(one.module)
    function = getattr(module, "doctor" if name == "doctor" else "main")
    if name == "compare" and not {"-h", "--help"} & set(words):
        words = ["--compare", *words]
    return int(function([*one.first, *words]))


def _print_completion(words: Sequence[str]) -> int:
    """Print what a shell has to read to complete this program's command lines."""
    parser = Parser(
        prog=f"{PROGRAM} completion",
        description='Print what a shell needs: eval "$(calibration-benchmark completion bash)".',
    )
    shells = ("bash", "zsh", "fish", "tcsh", "powershell")
    parser.add_argument("shell", nargs="?", choices=shells, default=_shell(shells))
    shell = parse_line(parser, words).shell
    from argcomplete.shell_integration import shellcode

    print(shellcode([PROGRAM], shell=shell))  # nosec B604 - the name of a shell, one of five
    return 0


def _shell(known: Sequence[str]) -> str:
    name = os.path.basename(os.environ.get("SHELL", ""))
    return name if name in known else "bash"


if __name__ == "__main__":
    sys.exit(main())
