"""`python -m benchmark.export export | push | push-results`: what is asked for, exit code.

Exit codes: 0 done; 1 the hub refuses or cannot be reached, or the upload was not confirmed; 2 the
command or a file is wrong, or an export is not what was scored; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.arguments import Parser, parse, program
from benchmark.export.errors import ExportError
from benchmark.shell import as_folder, command

_DESCRIPTION = "Take a finished run along: as a checkpoint, an ONNX graph, or to the hub."
_FORMS = ("transformers", "onnx")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else list(arguments))
    from benchmark.execution import quiet_libraries
    from benchmark.failures import RunError
    from benchmark.records import ResultsError

    quiet_libraries()
    try:
        if options.command == "export":
            return _export(options)
        return _push(options)
    except (ExportError, ResultsError) as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Nothing heavy is imported before this is done."""
    parser = Parser(prog=program("", "python -m benchmark.export"), description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_export(commands)
    push = commands.add_parser("push", help="an export's folder, as a model of the hub")
    push.add_argument("folder", type=Path, help="what `export` wrote")
    results = commands.add_parser(
        "push-results", help="a suite's records, as a data set of the hub"
    )
    results.add_argument("suite", help="name of the suite")
    results.add_argument("--results", type=as_folder, default=Path("results"))
    results.add_argument("--with-logits", action="store_true", help="upload the logits as well")
    for one in (push, results):
        _add_repository(one)
    return parse(parser, arguments)


def _add_export(commands: argparse._SubParsersAction[Parser]) -> None:
    export = commands.add_parser("export", help="a run's fine-tuned model with its calibration")
    export.add_argument("run", help="<suite>/<model>/<dataset>/seed-<n>, or the run's folder")
    export.add_argument(
        "--to", type=as_folder, required=True, metavar="FOLDER", help="new or empty"
    )
    export.add_argument("--results", type=as_folder, default=Path("results"))
    export.add_argument(
        "--format",
        choices=_FORMS,
        default="transformers",
        help="transformers: a checkpoint; onnx: one graph with the temperature inside",
    )
    export.add_argument(
        "--tolerance",
        type=_share,
        metavar="P",
        help="largest difference of a probability between export and run (default: 1e-5; against "
        "logits of a GPU or of mixed precision 0.02)",
    )
    export.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="let a checkpoint that comes with code of its own run it, to try the export",
    )


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", help="only its owner may read it (default)")
    seen.add_argument("--public", action="store_true", help="everybody may read it")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")
    parser.add_argument("--yes", action="store_true", help="do not ask before the upload")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _export(options: argparse.Namespace) -> int:
    from benchmark.export.calibration import notes
    from benchmark.export.checking import Check
    from benchmark.export.finding import find_run
    from benchmark.export.writing import export_run
    from benchmark.hub import allow_remote_code
    from benchmark.markup import estimate

    allow_remote_code(options.allow_remote_code)
    run = find_run(options.run, options.results)
    written = export_run(run, options.to, options.format, options.tolerance)
    fit = run.temperature
    temperature = estimate(fit.value, fit.low, fit.high, 3, why=fit.no_interval)
    print(f"{run.name}: T = {temperature}, exported to {written.folder}")
    for note in notes(run):
        print(note)
    if isinstance(written.check, Check):
        print(
            f"Tried on {written.check.rows} test rows: probabilities are those of the cached "
            f"logits to {written.check.largest_difference:.1e}"
        )
    else:
        print(f"Not tried on rows of the run: {written.check}", file=sys.stderr)
    if written.graph_check is not None:
        print(f"ONNX against torch: {written.graph_check.largest_difference:.1e}")
    return 0


def _push(options: argparse.Namespace) -> int:
    from benchmark.export.publishing import confirm, model_upload, results_upload, send

    if options.command == "push":
        upload = model_upload(options.folder, options.repo, private=not options.public)
    else:
        upload = results_upload(
            options.results, options.suite, options.repo,
            private=not options.public, with_logits=options.with_logits,
        )  # fmt: skip
    print(upload.described())
    if options.dry_run:
        print("Nothing was uploaded (--dry-run).")
        return 0
    if not options.yes and not confirm():
        return _fail("nothing was uploaded: answer yes, or use --yes", 1)
    print(f"Uploaded: {send(upload)}")
    return 0


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
