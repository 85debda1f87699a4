"""What the command that runs a registry may be told."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from benchmark.arguments import (
    Names,
    Parser,
    completed,
    count,
    parse,
    positive,
    program,
    started_as_program,
)
from benchmark.registry import DEFAULT_REGISTRY, MixedPrecision
from benchmark.shell import as_folder

CHECKOUT = Path(__file__).resolve().parents[2]


def parse_run_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of a run. Nothing heavy is imported before this is done."""
    parser = Parser(
        prog=program("run", "benchmark/run.py"),
        description="Fine-tune, calibrate and time the models of a registry; write a report.",
        epilog="Every option is an environment variable, too: CALIBRATION_BENCHMARK_WORKERS=4. "
        "Several processes for each run: accelerate launch benchmark/run.py --models all",
    )
    _add_what(parser)
    _add_how(parser)
    _add_asking(parser)
    _add_where(parser)
    options = parse(parser, arguments)
    if options.json and (options.dry_run or options.list):
        parser.error("--json tells what a run gave: it goes with neither --dry-run nor --list")
    if options.precision:
        options.set.append(f"recipe.mixed_precision={options.precision}")
    return options


def _add_what(parser: Parser) -> None:
    choose = parser.add_argument_group("what to run")
    suite = choose.add_argument("--suite", help="a suite of the registry (default: its first)")
    completed(suite, _names_of("suites"))
    for option, help_text in (
        ("--models", "names or patterns ('vit-*'), with commas or spaces; or all"),
        ("--datasets", "likewise"),
    ):
        action = choose.add_argument(
            option, nargs="+", action=Names, default=["all"], metavar="NAME", help=help_text
        )
        completed(action, _names_of(option.lstrip("-")))
    choose.add_argument("--seeds", type=positive, help="runs per model and dataset")
    choose.add_argument("--limit", type=positive, help="rows of each split, for a quick try")
    choose.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="for these runs only: recipe.epochs=1, dataset.max_length=64; may be repeated",
    )


def _names_of(section: str) -> Callable[[str], Sequence[str]]:
    def complete(_: str) -> Sequence[str]:
        from benchmark.registry import Registry

        return list(getattr(Registry.load(), section))

    return complete


def _add_how(parser: Parser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--workers", type=positive, help="runs side by side (default: cores or GPUs)")
    how.add_argument(
        "--device", default="auto", help="auto (the GPUs, else the CPU), cpu, cuda or cuda:1"
    )
    how.add_argument(
        "--precision",
        choices=get_args(MixedPrecision),
        help="mixed precision of the training, whatever the recipes say",
    )
    how.add_argument("--timing", choices=("quick", "full", "off"), default="quick")
    how.add_argument(
        "--timing-backend",
        choices=("own", "loadgen"),
        default="own",
        help="loadgen: cross-check with MLCommons' load generator (extra: loadgen)",
    )
    how.add_argument(
        "--retries",
        type=count,
        default=1,
        help="how often a run whose worker process died is tried again, alone (default: 1)",
    )
    how.add_argument(
        "--grace",
        type=positive,
        default=25,
        metavar="SECONDS",
        help="on SIGTERM or Ctrl-C: end after the epoch or stage under way, or this (default: 25)",
    )
    how.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="let checkpoints run the code they bring, where the registry says trust_remote_code",
    )
    how.add_argument("--force", action="store_true", help="redo what is cached")
    how.add_argument(
        "--redraw", action="store_true", help="draw the report also where nothing in it changed"
    )


def _add_asking(parser: Parser) -> None:
    ask = parser.add_argument_group("what to tell")
    ask.add_argument("--dry-run", action="store_true", help="show what would be done")
    ask.add_argument("--list", action="store_true", help="show what the registry holds")
    ask.add_argument(
        "--json",
        action="store_true",
        help="print the result as one JSON document, and progress to standard error",
    )
    ask.add_argument(
        "--log-with",
        nargs="+",
        action=Names,
        default=[],
        metavar="TRACKER",
        help="tell trackers of each run: tensorboard, wandb, trackio, mlflow (extras)",
    )


def _add_where(parser: Parser) -> None:
    # A file of a checkout works on the checkout; the program, where it is called.
    here = Path() if started_as_program() or not _is_checkout() else CHECKOUT
    where = parser.add_argument_group("where")
    where.add_argument("--registry", type=Path, default=DEFAULT_REGISTRY)
    where.add_argument("--results", type=as_folder, default=here / "results")
    where.add_argument("--reports", type=as_folder, default=here / "reports")


def _is_checkout() -> bool:
    return (CHECKOUT / "pyproject.toml").exists()
