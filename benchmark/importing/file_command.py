"""`python -m benchmark.importing import`: files of logits become one run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from benchmark.arguments import Parser
from benchmark.importing import arguments
from benchmark.importing.arguments import UsageError
from benchmark.importing.errors import require_file
from benchmark.importing.values import PROBABILITY_FLOOR, VALUES
from benchmark.registry import Mixer, Modality

if TYPE_CHECKING:
    from benchmark.importing.importing import Job
    from benchmark.importing.layout import Layout, SplitName

_IMPORT = """\
Import logits as a run: they are checked, stored, calibrated, scored and reported like any other.
Formats, told by content: npz, npy, safetensors, csv, parquet. Pickles are refused."""
_IMPORT_END = """\
One file may hold both splits (arrays val_logits, val_labels, test_logits, test_labels; or a table
with a split column), or each split has a file: --calibration FILE --test FILE.
Where values look like no logits, or columns like no classes, the command asks, names an option for
each answer, writes nothing and ends with exit code 2. docs/logits.md has the conventions and the
checks."""
_FACTS = (
    *("mixer", "family", "modality", "parameters", "pretraining_examples", "label_smoothing"),
    *("mixup", "distillation", "reference", "licence"),
)


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "import",
        help="import files of logits as a run",
        description=_IMPORT,
        epilog=_IMPORT_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_run(parser)
    _add_values(parser)
    _add_names(parser)
    _add_facts(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files and run")
    files.add_argument("files", nargs="*", type=Path, metavar="FILE", help="npz, npy, ...")
    for split in ("calibration", "test"):
        files.add_argument(
            f"--{split}",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="holds this split only; may be given again",
        )
    files.add_argument("--model", required=True, type=arguments.name, metavar="NAME")
    files.add_argument("--dataset", required=True, type=arguments.name, metavar="NAME")
    arguments.add_places(files)


def _add_values(parser: argparse.ArgumentParser) -> None:
    values = parser.add_argument_group("values")
    values.add_argument("--values", choices=VALUES, help="what they are (default: logits)")
    values.add_argument(
        "--probabilities",
        dest="values",
        action="store_const",
        const="probabilities",
        help="--values probabilities: softmax outputs, of which the logarithms are stored",
    )
    values.add_argument(
        "--probability-floor",
        type=arguments.fraction,
        metavar="P",
        help="smaller probabilities become P (default: 1.2e-38)",
    )
    values.add_argument(
        "--calibration-fraction",
        type=arguments.fraction,
        metavar="F",
        help="hold out this share of the test rows, where there are no calibration rows",
    )
    values.add_argument(
        "--keep-class-order",
        action="store_true",
        help="columns and labels are in one order, although another fits the rows much better",
    )
    names = values.add_mutually_exclusive_group()
    names.add_argument(
        "--label-names", type=arguments.names, metavar="A,B,...", help="in class order"
    )
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
        "--logit-columns",
        type=arguments.names,
        metavar="A,B,...",
        help="default: logit_0, ... or classes",
    )
    columns.add_argument(
        "--ignore-columns",
        type=arguments.names_or_none,
        metavar="A,B,...|none",
        help="no classes; all other columns are",
    )
    columns.add_argument("--calibration-value", metavar="TEXT", help="in the split column")
    columns.add_argument("--test-value", metavar="TEXT", help="in the split column")


def _add_facts(parser: argparse.ArgumentParser) -> None:
    facts = parser.add_argument_group("facts on the model (not given: unknown)")
    facts.add_argument("--registry", type=Path, help="take them from its entry of that name")
    facts.add_argument("--mixer", choices=get_args(Mixer))
    facts.add_argument("--family", help="checkpoints of one architecture paper share a family")
    facts.add_argument("--modality", choices=get_args(Modality))
    facts.add_argument("--parameters", type=arguments.positive, metavar="N")
    facts.add_argument(
        "--pretraining-examples", type=arguments.count, metavar="N", help="0: from scratch"
    )
    for flag in ("label-smoothing", "mixup", "distillation"):
        facts.add_argument(f"--{flag}", type=arguments.yes_or_no, metavar="yes|no")
    facts.add_argument("--reference", help="where the model or the logits are published")
    facts.add_argument("--licence", help="of the logits")


# --- the run ------------------------------------------------------------------------------------


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Import the files and return the exit code."""
    from benchmark.importing import outcome
    from benchmark.importing.importing import import_logits

    try:
        job = _job(options, words)
        result = import_logits(job, options.results, force=options.force)
    except (ValueError, OSError) as error:
        return outcome.fail_with(error)
    outcome.print_unknown(job.facts)
    outcome.print_result(result)
    return 0 if options.no_report else outcome.write_suite_report(options, options.registry)


def _job(options: argparse.Namespace, words: Sequence[str]) -> Job:
    from benchmark.importing.checks import Reading
    from benchmark.importing.facts import gather_facts
    from benchmark.importing.file_source import FileSource
    from benchmark.importing.importing import Job

    given = {name: getattr(options, name) for name in _FACTS}
    facts, licence = gather_facts(options.model, given, options.registry)
    reading = Reading(
        label_names=_label_names(options),
        values=options.values,
        probability_floor=_floor(options),
        calibration_fraction=options.calibration_fraction,
        keep_class_order=options.keep_class_order,
    )
    return Job(
        suite=options.suite,
        model=options.model,
        dataset=options.dataset,
        seed=options.seed,
        source=FileSource(_files(options), _layout(options), reading),
        facts=facts,
        licence=licence,
        arguments=tuple(arguments.without_folders(word) for word in words),
    )


def _floor(options: argparse.Namespace) -> float:
    floor: float | None = options.probability_floor
    if floor is None:
        return PROBABILITY_FLOOR
    if options.values not in ("probabilities", "percentages", "shares", "sigmoids", "odds"):
        raise UsageError("--probability-floor goes with --probabilities, or --values that are such")
    return floor


def _files(options: argparse.Namespace) -> tuple[tuple[SplitName | None, Path], ...]:
    files: list[tuple[SplitName | None, Path]] = [(None, path) for path in options.files]
    files += [("calibration", path) for path in options.calibration]
    files += [("test", path) for path in options.test]
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
        ignored=options.ignore_columns,
        split_values=values,
    )


def _label_names(options: argparse.Namespace) -> tuple[str, ...] | None:
    path: Path | None = options.label_names_file
    if path is None:
        names: tuple[str, ...] | None = options.label_names
        return names
    require_file(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a list of label names: {error}") from None
    return tuple(line.strip() for line in lines if line.strip())
