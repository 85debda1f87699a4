"""What a command ends with: how many runs completed, and why the others did not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.plan import RunSpec
from benchmark.records import RecordHead, ResultsError


def _read_records(specs: Sequence[RunSpec], results: Path) -> tuple[list[RecordHead], list[str]]:
    """Return the records that can be read, and what is wrong with those that cannot."""
    records, problems = [], []
    for spec in specs:
        try:
            record = spec.folder(results).read_head()
        except ResultsError as error:
            problems.append(str(error))
            continue
        if record is not None:
            records.append(record)
    return records, problems


def summarise(specs: Sequence[RunSpec], results: Path, *, timed: bool) -> int:
    """Name what did not complete; return the exit code: 1 where anything did not, else 0.

    Args:
        specs: the runs of a command.
        results: the results tree.
        timed: whether the command measures; else an earlier measurement that failed is no matter.
    """
    records, unreadable = _read_records(specs, results)
    bad = [record for record in records if record.status != "completed"]
    missing = len(specs) - len(records)
    print(f"{len(specs) - len(bad) - missing} of {len(specs)} runs completed")
    for record in bad:
        reason = record.failure.message if record.failure else ""
        print(f"  {record.status}: {record.name}: {reason}", file=sys.stderr)
    for problem in unreadable:
        print(f"  unreadable: {problem}", file=sys.stderr)
    untimed = [record for record in records if timed and record.timing_failure is not None]
    for record in untimed:
        reason = record.timing_failure.message if record.timing_failure else ""
        print(f"  not timed: {record.name}: {reason}", file=sys.stderr)
    return 1 if bad or missing or untimed else 0
