"""`python -m benchmark.registry validate | show | add | schema`: arguments, exit code.

Exit codes: 0 done; 1 the hub could not be asked; 2 the command or the registry is wrong, and
nothing was written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from benchmark.arguments import Parser, parse, program
from benchmark.registry.entries import Mixer, Modality
from benchmark.registry.loading import DEFAULT_REGISTRY, RegistryFiles, refuse
from benchmark.registry.source import RegistryError
from benchmark.shell import command

if TYPE_CHECKING:
    from benchmark.registry.local_files import CheckData

_DESCRIPTION = "Look after a registry: check it, look into it, and add to it from the hub."
_ADD = """\
Add a checkpoint (or with --dataset a data set) of the hub to the registry, pinned at the commit
that its main branch stands at now. What the hub's metadata say is filled in; what they do not
say, and what an option gives, is taken from the options."""


@command
def main(arguments: Sequence[str] | None = None, *, check_data: CheckData | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: of the command line; None: those of the process.
        check_data: reads the local data of an entry for `validate`; None: no file is opened.
    """
    options = parse_arguments(arguments)
    options.check_data = check_data
    try:
        return int(options.run(options))
    except RegistryError as error:
        print(error, file=sys.stderr)
        return 2


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Nothing heavy is imported before this is done."""
    parser = Parser(
        prog=program("registry", "python -m benchmark.registry"),
        description=_DESCRIPTION,
        epilog="docs/registry.md has every field.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser("validate", help="print every error at once; open local files")
    validate.add_argument("file", nargs="?", type=Path, metavar="FILE")
    _add_registry(validate)
    validate.set_defaults(run=_validate)
    show = commands.add_parser("show", help="what entries are, with extends and defaults filled in")
    show.add_argument("names", nargs="*", metavar="NAME", help="none: an overview")
    _add_registry(show)
    show.set_defaults(run=_show)
    add = commands.add_parser(
        "add",
        help="add a checkpoint or data set of the hub",
        description=_ADD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options_of_add(add)
    _add_registry(add)
    add.set_defaults(run=_add)
    schema = commands.add_parser("schema", help="print the JSON schema of registry files")
    schema.set_defaults(run=_schema)
    return parse(parser, arguments)


def _add_registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--registry", type=Path, metavar="FILE", help=f"default: {DEFAULT_REGISTRY.name}"
    )


def _add_options_of_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "hub", metavar="HUB_ID", help="owner/name on the hub, or the address of its page"
    )
    parser.add_argument("--name", help="default: the name on the hub")
    parser.add_argument("--revision", help="branch, tag or commit to pin; default: main")
    parser.add_argument("--dry-run", action="store_true", help="print the entry, write nothing")
    parser.add_argument("--dataset", action="store_true", help="it is a data set")
    parser.add_argument("--modality", choices=get_args(Modality))
    model = parser.add_argument_group("of a checkpoint")
    model.add_argument("--mixer", choices=get_args(Mixer))
    model.add_argument("--family", help="checkpoints of one architecture paper share a family")
    model.add_argument("--recipe", help="how it is fine-tuned: one of the registry's recipes")
    model.add_argument("--evaluate", action="store_true", help="score the published head")
    model.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's code")
    data = parser.add_argument_group("of a data set")
    data.add_argument("--config", help="its configuration, where it has several")
    for column in ("text", "text-pair", "image", "label"):
        data.add_argument(f"--{column}-column", metavar="COLUMN")
    for split in ("train", "calibration", "test"):
        data.add_argument(f"--{split}-split", metavar="SPLIT")


def _registry_path(options: argparse.Namespace) -> Path:
    return options.registry or DEFAULT_REGISTRY


def _validate(options: argparse.Namespace) -> int:
    from benchmark.registry.advice import summary, warnings
    from benchmark.registry.local_files import local_problems

    if options.file is not None and options.registry is not None:
        raise RegistryError("name one registry file, as FILE or with --registry")
    path = options.file or _registry_path(options)
    try:
        files = RegistryFiles.read(path)
        if options.check_data is not None:
            refuse(local_problems(files, options.check_data))
    except RegistryError as error:
        problems = sum(not line.startswith("    ") for line in str(error).splitlines())
        print(error, file=sys.stderr)
        print(f"{path}: not valid; problems: {problems}", file=sys.stderr)
        return 2
    for warning in warnings(files):
        print(warning)
    print(f"{path}: valid: {summary(files)}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from benchmark.registry.showing import overview, show_entries

    files = RegistryFiles.read(_registry_path(options))
    print(show_entries(files, options.names) if options.names else overview(files))
    return 0


def _add(options: argparse.Namespace) -> int:
    from benchmark.registry.adding import HubError, add_from_hub

    try:
        print(add_from_hub(_registry_path(options), options))
    except HubError as error:
        print(f"unavailable: {error}", file=sys.stderr)
        return 1
    return 0


def _schema(_: argparse.Namespace) -> int:
    from benchmark.registry.schema import schema_text

    print(schema_text(), end="")
    return 0
