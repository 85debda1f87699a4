"""What a person sees of an import, and what went wrong as an exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.failures import first_line
from benchmark.importing.arguments import UsageError
from benchmark.importing.errors import SourceError
from benchmark.importing.facts import FactsError
from benchmark.importing.importing import ImportRefusedError
from benchmark.importing.layout import some
from benchmark.markup import visible
from benchmark.records import ModelFacts, ResultsError
from benchmark.registry import RegistryError

if TYPE_CHECKING:
    from benchmark.importing.importing import Result


def fail(message: str, code: int) -> int:
    """Print an error and return its exit code."""
    print(f"error: {message}", file=sys.stderr)
    return code


def fail_with(error: Exception) -> int:
    """Print what ended an import and return the exit code."""
    if isinstance(error, SourceError):  # may quote whatever a damaged file holds
        return fail(visible(str(error)), 2)
    if isinstance(error, UsageError | FactsError | RegistryError | ImportRefusedError):
        return fail(str(error), 2)
    if isinstance(error, OSError):
        return fail(f"the run cannot be written: {error}", 1)
    if isinstance(error, ResultsError | ValueError):
        return fail(f"the logits cannot be scored: {first_line(error)}", 1)
    raise error


def print_unknown(facts: ModelFacts, run: str = "this run") -> None:
    """Print which facts are missing that the test of the claim needs."""
    unknown = [name for name in ("mixer", "family", "modality") if getattr(facts, name) is None]
    if unknown:
        print(f"note: {', '.join(unknown)} unknown, so the test of the claim leaves {run} out")


def print_result(result: Result) -> None:
    """Print what was taken for classes, what a person should know, and what was done."""
    from benchmark.execution import describe

    for note in result.notes:
        print(f"note: {visible(note)}")
    if result.record.data is not None:
        names = result.record.data.label_names
        print(f"classes: {len(names):,} ({visible(some(names))})")
    print(f"{result.outcome}: {describe(result.record)}")


def write_suite_report(options: argparse.Namespace, registry: Path | None) -> int:
    """Write the report of the suite and return the exit code."""
    from benchmark.claim import declared_claim
    from benchmark.report import ReportError, print_summary, write_report

    try:
        claim = declared_claim(registry)
        summary = write_report(options.results, options.reports, claim, suite=options.suite)
    except (ReportError, RegistryError, ResultsError, OSError) as error:
        return fail(f"the run is stored, but the report cannot be written: {first_line(error)}", 1)
    print_summary(summary)
    return 0
