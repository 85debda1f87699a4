"""`python -m benchmark.importing import | lm-eval | show`: what is asked for, exit code.

Exit codes: 0 done, or nothing to do; 1 the logits could not be scored or reported; 2 the command
or a file is wrong, or has to be asked about; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.arguments import Parser, parse, program
from benchmark.importing import file_command, lm_eval_command
from benchmark.shell import command

_DESCRIPTION = "Logits that exist already: import them as runs, or show what a run has stored."


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse_arguments(arguments)
    if options.command == "show":
        return _show(options.folder)
    if options.command == "lm-eval":
        return lm_eval_command.run(options, arguments)
    return file_command.run(options, arguments)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Nothing heavy is imported before this is done."""
    parser = Parser(prog=program("", "python -m benchmark.importing"), description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    file_command.add(commands)
    lm_eval_command.add(commands)
    show = commands.add_parser("show", help="print what the logits files of runs hold")
    show.add_argument("folder", type=Path, help="a run's folder, or any folder above runs")
    return parse(parser, arguments)


def _show(folder: Path) -> int:
    from benchmark.importing.outcome import fail
    from benchmark.importing.showing import table_of
    from benchmark.records import ResultsError, find_logits

    folders = find_logits(folder)
    if not folders:
        return fail(f"{folder}: no logits.safetensors here or below", 2)
    damaged = []
    for found in folders:
        try:
            print(table_of(found))
        except (ResultsError, ValueError) as error:
            damaged.append(str(error))
    for problem in damaged:
        fail(problem, 1)
    return 1 if damaged else 0
