"""`python -m benchmark.importing lm-eval`: a folder of samples becomes one run for each file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.arguments import Parser
from benchmark.importing import arguments
from benchmark.registry import did_you_mean

if TYPE_CHECKING:
    from benchmark.importing.lm_eval import Reference
    from benchmark.importing.samples import SampleFile
    from benchmark.records import RunFolder
    from benchmark.registry import Registry

_DESCRIPTION = """\
Import the per-sample files of lm-evaluation-harness: every multiple-choice task of every model
below a folder becomes a run, so that language models are compared without running them. The
choices' log-likelihoods are the logits."""
_END = """\
Evaluate with --log_samples --output_path FOLDER; the harness then writes
FOLDER/<model>/samples_<task>_<time>.jsonl. docs/logits.md says how they are read and checked."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "lm-eval",
        help="import a folder of lm-evaluation-harness samples, a run for each model and task",
        description=_DESCRIPTION,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="holds a folder for each model")
    parser.add_argument("--tasks", type=arguments.names, metavar="A,B,...", help="default: all")
    parser.add_argument(
        "--normalise",
        choices=("none", "characters", "bytes"),
        default="none",
        help="divide each log-likelihood by its choice's length, as acc_norm does (characters)",
    )
    parser.add_argument(
        "--calibration-fraction",
        type=arguments.fraction,
        default=0.2,
        metavar="F",
        help="share of the documents to hold out for calibration (default: 0.2)",
    )
    parser.add_argument(
        "--target-field", metavar="NAME", help="field of 'doc' with the right choice"
    )
    parser.add_argument("--registry", type=Path, help="take facts on the models from its entries")
    arguments.add_places(parser.add_argument_group("runs"))


# --- the runs -----------------------------------------------------------------------------------


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Import the folder and return the exit code: the worst of all files."""
    from benchmark.importing import outcome
    from benchmark.importing.facts import facts_of
    from benchmark.importing.samples import NotMultipleChoiceError, find_sample_files
    from benchmark.registry import Registry

    try:
        files, notes = find_sample_files(options.folder)
        files = _chosen(files, options.tasks)
        registry = None if options.registry is None else Registry.load(options.registry)
    except (ValueError, OSError) as error:
        return outcome.fail_with(error)
    for note in notes:
        print(f"note: {note}")
    references: dict[str, Reference] = {}
    codes = []
    for file in files:
        print(f"\n{file.model}, {file.task} ({file.path.name})")
        try:
            codes.append(_import_file(file, options, words, registry, references))
        except NotMultipleChoiceError as error:
            print(f"left out: {error}")
        except (ValueError, OSError) as error:
            codes.append(outcome.fail_with(error))
    if not codes:
        return outcome.fail(f"{options.folder}: no multiple-choice task", 2)
    for model in sorted({file.model for file in files}):
        outcome.print_unknown(facts_of(model, registry)[0], model)
    if not options.no_report and 0 in codes:
        codes.append(outcome.write_suite_report(options, options.registry))
    return max(codes)


def _chosen(files: Sequence[SampleFile], tasks: Sequence[str] | None) -> list[SampleFile]:
    """Return the files of the tasks that are asked for, task by task.

    Raises:
        UsageError: there is no such task.
    """
    present = sorted({file.task for file in files})
    for task in tasks or ():
        if task not in present:
            raise arguments.UsageError(
                f"--tasks: no samples of '{task}'{did_you_mean(task, present)}"
            )
    chosen = [file for file in files if tasks is None or file.task in tasks]
    return sorted(chosen, key=lambda file: (file.task, file.model))


def _import_file(
    file: SampleFile,
    options: argparse.Namespace,
    words: Sequence[str],
    registry: Registry | None,
    references: dict[str, Reference],
) -> int:
    """Import one file; the first of a task becomes the reference of the others."""
    from benchmark.importing import outcome
    from benchmark.importing.facts import facts_of
    from benchmark.importing.importing import Job, import_logits
    from benchmark.importing.lm_eval import SamplesSource

    facts, licence = facts_of(file.model, registry)
    source = SamplesSource(
        file=file,
        normalisation=options.normalise,
        target_field=options.target_field,
        calibration_fraction=options.calibration_fraction,
        reference=references.get(file.task),
    )
    job = Job(
        suite=options.suite,
        model=_folder_name(file.model),
        dataset=_folder_name(file.task),
        seed=options.seed,
        source=source,
        facts=facts,
        licence=licence,
        arguments=tuple(arguments.without_folders(word) for word in words),
    )
    result = import_logits(job, options.results, force=options.force)
    outcome.print_result(result)
    if file.task not in references:
        references[file.task] = _reference(file.model, job.folder(options.results))
    return 0


def _reference(model: str, folder: RunFolder) -> Reference:
    from benchmark.importing.lm_eval import Reference
    from benchmark.records import read_split

    splits = [read_split(folder, name) for name in ("calibration", "test")]
    pairs = [zip(s.ids.tolist(), s.labels.tolist(), strict=True) for s in splits]
    return Reference(model, {row_id: label for pair in pairs for row_id, label in pair})


def _folder_name(name: str) -> str:
    """Return a name with what no folder of a run may be called replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "unnamed"
