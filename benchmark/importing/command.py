"""`python -m benchmark.importing import | show`: arguments, what is printed, exit code.

Exit codes: 0 done, or nothing to do; 1 the logits could not be scored or reported; 2 the command
or a file is wrong, and nothing was written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmark.registry import NAME_PATTERN, Mixer, Modality
from benchmark.shell import as_folder, command

if TYPE_CHECKING:
    from benchmark.importing.importing import Job, Result
    from benchmark.importing.layout import Layout, SplitName
    from benchmark.records import ModelFacts

_DESCRIPTION = "Logits that exist already: import them as a run, or show what a run has stored."
_IMPORT = """\
Import logits as a run: they are checked, stored, calibrated, scored and reported like any other.
Formats, told by content: npz, npy, safetensors, csv, parquet. Pickles are refused."""
_IMPORT_END = """\
One file may hold both splits (arrays val_logits, val_labels, test_logits, test_labels; or a table
with a split column), or each split has a file: --calibration FILE --test FILE.
docs/logits.md has the conventions and the checks."""
_FACTS = (
    *("mixer", "family", "modality", "parameters", "pretraining_examples", "label_smoothing"),
    *("mixup", "distillation", "reference", "licence"),
)


class UsageError(ValueError):
    """The command line asks for something that cannot be."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse_arguments(arguments)
    if options.command == "show":
        return _show(options.folder)
    return _import(options, arguments)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Nothing heavy is imported before this is done."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.importing", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    text = argparse.RawDescriptionHelpFormatter
    importing = commands.add_parser(
        "import",
        help="import files of logits as a run",
        description=_IMPORT,
        epilog=_IMPORT_END,
        formatter_class=text,
    )
    _add_run(importing)
    _add_values(importing)
    _add_names(importing)
    _add_facts(importing)
    show = commands.add_parser("show", help="print what the logits files of runs hold")
    show.add_argument("folder", type=Path, help="a run's folder, or any folder above runs")
    return parser.parse_args(arguments)


def _add_run(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files and run")
    files.add_argument("files", nargs="*", type=Path, metavar="FILE", help="npz, npy, ...")
    files.add_argument("--calibration", type=Path, metavar="FILE", help="holds this split only")
    files.add_argument("--test", type=Path, metavar="FILE", help="holds this split only")
    files.add_argument("--model", required=True, type=_name, metavar="NAME")
    files.add_argument("--dataset", required=True, type=_name, metavar="NAME")
    files.add_argument("--suite", default="imported", type=_name, metavar="NAME")
    files.add_argument("--seed", default=0, type=_seed, help="tells runs of a model apart")
    files.add_argument("--force", action="store_true", help="replace what the run's folder holds")
    files.add_argument("--results", type=as_folder, default=Path("results"))
    files.add_argument("--reports", type=as_folder, default=Path("reports"))
    files.add_argument("--no-report", action="store_true", help="do not write the suite's report")


def _add_values(parser: argparse.ArgumentParser) -> None:
    values = parser.add_argument_group("values")
    values.add_argument(
        "--probabilities", action="store_true", help="the values are softmax outputs: store logs"
    )
    values.add_argument(
        "--probability-floor",
        type=_fraction,
        metavar="P",
        help="smaller probabilities become P (default: 1.2e-38)",
    )
    values.add_argument(
        "--calibration-fraction",
        type=_fraction,
        metavar="F",
        help="hold out this share of the test rows, where there are no calibration rows",
    )
    names = values.add_mutually_exclusive_group()
    names.add_argument("--label-names", type=_names, metavar="A,B,...", help="in class order")
    names.add_argument(
        "--label-names-file", type=Path, metavar="FILE", help="one name a line, in class order"
    )


def _add_names(parser: argparse.ArgumentParser) -> None:
    arrays = parser.add_argument_group("names of arrays (npz, npy, safetensors)")
    for split in ("calibration", "test"):
        for part in ("logits", "labels", "ids"):
            arrays.add_argument(f"--{split}-{part}", metavar="KEY")
    columns = parser.add_argument_group("names of columns (csv, parquet)")
    columns.add_argument("--label-column", metavar="NAME", help="default: label")
    columns.add_argument("--split-column", metavar="NAME", help="default: split, if there is one")
    columns.add_argument("--id-column", metavar="NAME", help="default: id, if there is one")
    columns.add_argument(
        "--logit-columns", type=_names, metavar="A,B,...", help="default: logit_0, ... or classes"
    )
    columns.add_argument("--calibration-value", metavar="TEXT", help="in the split column")
    columns.add_argument("--test-value", metavar="TEXT", help="in the split column")


def _add_facts(parser: argparse.ArgumentParser) -> None:
    facts = parser.add_argument_group("facts on the model (not given: unknown)")
    facts.add_argument("--registry", type=Path, help="take them from its entry of that name")
    facts.add_argument("--mixer", choices=get_args(Mixer))
    facts.add_argument("--family", help="checkpoints of one architecture paper share a family")
    facts.add_argument("--modality", choices=get_args(Modality))
    facts.add_argument("--parameters", type=_positive, metavar="N")
    facts.add_argument("--pretraining-examples", type=_count, metavar="N", help="0: from scratch")
    for flag in ("label-smoothing", "mixup", "distillation"):
        facts.add_argument(f"--{flag}", type=_yes_or_no, metavar="yes|no")
    facts.add_argument("--reference", help="where the model or the logits are published")
    facts.add_argument("--licence", help="of the logits")


# --- import ------------------------------------------------------------------------------------


def _import(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from benchmark.failures import first_line
    from benchmark.importing.facts import FactsError
    from benchmark.importing.importing import ImportRefusedError, import_logits
    from benchmark.importing.source import SourceError
    from benchmark.markup import visible
    from benchmark.records import ResultsError
    from benchmark.registry import RegistryError

    try:
        job = _job(options, arguments)
        result = import_logits(job, options.results, force=options.force)
    except SourceError as error:  # may quote whatever a damaged file holds
        return _fail(visible(str(error)), 2)
    except (UsageError, FactsError, RegistryError, ImportRefusedError) as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"the run cannot be written: {error}", 1)
    except (ResultsError, ValueError) as error:
        return _fail(f"the logits cannot be scored: {first_line(error)}", 1)
    _print_result(result, job.facts)
    return 0 if options.no_report else _report(options)


def _job(options: argparse.Namespace, arguments: Sequence[str]) -> Job:
    from benchmark.importing.checks import PROBABILITY_FLOOR, Reading
    from benchmark.importing.facts import gather_facts
    from benchmark.importing.importing import Job

    if options.probability_floor is not None and not options.probabilities:
        raise UsageError("--probability-floor goes with --probabilities")
    given = {name: getattr(options, name) for name in _FACTS}
    facts, licence = gather_facts(options.model, given, options.registry)
    return Job(
        suite=options.suite,
        model=options.model,
        dataset=options.dataset,
        seed=options.seed,
        files=_files(options),
        layout=_layout(options),
        reading=Reading(
            label_names=_label_names(options),
            probabilities=options.probabilities,
            probability_floor=options.probability_floor or PROBABILITY_FLOOR,
            calibration_fraction=options.calibration_fraction,
        ),
        facts=facts,
        licence=licence,
        arguments=tuple(_without_folders(argument) for argument in arguments),
    )


def _files(options: argparse.Namespace) -> tuple[tuple[SplitName | None, Path], ...]:
    files: list[tuple[SplitName | None, Path]] = [(None, path) for path in options.files]
    if options.calibration is not None:
        files.append(("calibration", options.calibration))
    if options.test is not None:
        files.append(("test", options.test))
    if not files:
        raise UsageError("name a FILE, or --calibration FILE and --test FILE")
    return tuple(files)


def _layout(options: argparse.Namespace) -> Layout:
    from benchmark.importing.layout import PART_NAMES, SPLITS, Layout

    keys = {
        (split, part): name
        for split in SPLITS
        for part in PART_NAMES
        if (name := getattr(options, f"{split}_{part}")) is not None
    }
    values = {
        split: name for split in SPLITS if (name := getattr(options, f"{split}_value")) is not None
    }
    return Layout(
        keys=keys,
        label=options.label_column,
        split=options.split_column,
        row_id=options.id_column,
        logits=options.logit_columns,
        split_values=values,
    )


def _label_names(options: argparse.Namespace) -> tuple[str, ...] | None:
    path: Path | None = options.label_names_file
    if path is None:
        names: tuple[str, ...] | None = options.label_names
        return names
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a list of label names: {error}") from None
    return tuple(line.strip() for line in lines if line.strip())


def _without_folders(argument: str) -> str:
    """Return an argument with the folders of an absolute path left out: they are this machine's."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def _print_result(result: Result, facts: ModelFacts) -> None:
    from benchmark.execution import describe

    for note in result.notes:
        print(f"note: {note}")
    unknown = [name for name in ("mixer", "family", "modality") if getattr(facts, name) is None]
    if unknown:
        print(f"note: {', '.join(unknown)} unknown, so the test of the claim leaves this run out")
    print(f"{result.outcome}: {describe(result.record)}")


def _report(options: argparse.Namespace) -> int:
    from benchmark.claim import declared_claim
    from benchmark.failures import first_line
    from benchmark.records import ResultsError
    from benchmark.registry import RegistryError
    from benchmark.report import ReportError, write_report

    try:
        claim = declared_claim(options.registry)
        folder = write_report(options.results, options.reports, claim, suite=options.suite)
    except (ReportError, RegistryError, ResultsError, OSError) as error:
        return _fail(f"the run is stored, but the report cannot be written: {first_line(error)}", 1)
    print(f"report: {folder / 'README.md'} (and {folder / 'index.html'})")
    return 0


# --- show --------------------------------------------------------------------------------------


def _show(folder: Path) -> int:
    from benchmark.importing.showing import table_of
    from benchmark.records import ResultsError, find_logits

    folders = find_logits(folder)
    if not folders:
        return _fail(f"{folder}: no logits.safetensors here or below", 2)
    damaged = []
    for found in folders:
        try:
            print(table_of(found))
        except (ResultsError, ValueError) as error:
            damaged.append(str(error))
    for problem in damaged:
        _fail(problem, 1)
    return 1 if damaged else 0


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


# --- values of options -------------------------------------------------------------------------


def _name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot name a folder: use letters, digits, '.', '_' and '-'"
        )
    return text


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError("give names with commas between them")
    return names


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _count(text: str) -> int:
    value = _number(text)
    if value < 0 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 25e6")
    return int(value)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not at least 1")
    return _count(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _yes_or_no(text: str) -> Any:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return text == "yes"
