"""Test the claim: are models that mix by attention better calibrated than by convolution?

`python -m benchmark.claim results/<suite>` prints the result, `--table` tests a published table
instead. `scripts/study_claim.py` shows that the test keeps its promises.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.arguments import Parser, parse, program
from benchmark.markup import ascii_json
from benchmark.shell import as_folder, command

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.claim.passage import Passage
    from benchmark.claim.result import ClaimResult
    from benchmark.registry import Claim

PRIMARY_METRIC = "debiased_calibration_error"


def evaluate_claim(
    frame: pd.DataFrame, claim: Claim | None = None, *, metric: str = PRIMARY_METRIC
) -> ClaimResult:
    """Test the claim on a frame from `results.load_results`.

    Args:
        frame: one row per run and scored split; runs without a result are listed, not imputed.
        claim: what is tested; the defaults of the registry when None.
        metric: the primary outcome; only published tables need another one.

    Raises:
        ClaimError: the frame has no run with the metric.
    """
    # Imported late, as everything below: --help and mistakes must not wait for scipy.
    from benchmark.claim.evaluation import evaluate
    from benchmark.registry import Claim

    return evaluate(frame, claim or Claim(), metric)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 when the input cannot be used."""
    options = parse(_parser(), arguments)
    if (options.table is None) != (options.columns is None):
        _parser().error("--table and --columns go together: the map explains the table's columns")
    from benchmark.claim.data import ClaimError
    from benchmark.records import ResultsError
    from benchmark.registry import RegistryError

    try:
        print(_output(options), end="")
    except (ClaimError, RegistryError, ResultsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=program("claim", "python -m benchmark.claim"),
        description="Test whether attention models are better calibrated than convolution models.",
    )
    parser.add_argument(
        "results",
        nargs="?",
        type=as_folder,
        default=Path("results"),
        help="folder of a suite's results (default: results)",
    )
    parser.add_argument("--registry", type=Path, help="where the claim is declared")
    parser.add_argument("--table", type=Path, metavar="FILE.csv", help="test a published table")
    parser.add_argument(
        "--columns", type=Path, metavar="MAP.yaml", help="where the table's columns are explained"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of markdown")
    return parser


def _output(options: argparse.Namespace) -> str:
    claim = declared_claim(options.registry)
    about: tuple[Passage, ...] = ()
    if options.table is None:
        result, title = _from_records(options.results, claim)
    else:
        from benchmark.claim.published_table import read_table

        table = read_table(options.table, options.columns)
        result = evaluate_claim(table.frame, table.tested(claim), metric=table.metric)
        title, about = table.title, (table.passage,)
    if options.json:
        return ascii_json(result.model_dump_json(indent=1)) + "\n"
    from benchmark.claim.text import render_markdown

    return render_markdown(result, title, about)


def _from_records(results: Path, claim: Claim) -> tuple[ClaimResult, str]:
    from benchmark.claim.data import ClaimError
    from benchmark.records import load_results

    frame = load_results(results)
    if frame.empty:
        raise ClaimError(f"{results}: no records here; run the benchmark first")
    note = _incomplete(results, frame)
    if note:
        print(f"note: {note}", file=sys.stderr)
    from benchmark.claim.declaration import declaration_of

    declared = declaration_of(*_place(results, frame), claim)
    result = evaluate_claim(frame, claim).model_copy(update={"declaration": declared})
    return result, str(results)


def _place(results: Path, frame: pd.DataFrame) -> tuple[Path, str]:
    """Return the tree that a frame's suite lies in, and the suite's name."""
    suite, place = str(frame["suite"].iloc[0]), results.resolve()
    return (place.parent if place.name == suite else place), suite


def _incomplete(results: Path, frame: pd.DataFrame) -> str:
    """Say how many declared runs of the suite in a frame have no result; empty where all have."""
    from benchmark.records import suite_members

    members = suite_members(*_place(results, frame))
    done = frame[frame["status"] == "completed"].drop_duplicates(["model", "dataset", "seed"])
    return "" if members is None else members.incomplete(len(done))


def declared_claim(path: Path | None) -> Claim:
    """Return the claim of a registry: the one given, else the default one if it exists.

    Raises:
        RegistryError: the registry cannot be read.
    """
    from benchmark.registry import DEFAULT_REGISTRY, Claim, Registry

    if path is None and not DEFAULT_REGISTRY.exists():
        return Claim()
    return Registry.load(path or DEFAULT_REGISTRY).claim


if __name__ == "__main__":
    raise SystemExit(main())
