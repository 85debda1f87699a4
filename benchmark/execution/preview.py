"""What a command would do, for `--dry-run`. Nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tabulate import tabulate

from benchmark.execution.estimates import cost_table, training_time
from benchmark.execution.own_code import note_on_code
from benchmark.execution.resolution import resolve, stale_stages
from benchmark.execution.stages import SCORED_STAGES
from benchmark.execution.timing_stage import needs_timing
from benchmark.failures import RunError
from benchmark.plan import RunSpec, Selection
from benchmark.records import ResultsError


def preview(
    selection: Selection,
    results: Path,
    timing: Literal["quick", "full", "off"],
    *,
    force: bool,
    workers: int | None,
) -> str:
    """Return a table of the runs with what is to do of each, and what that costs."""
    rows, to_do, to_train = [], [], []
    for spec in selection.specs:
        stages = _stages_to_do(spec, results, timing, force=force)
        name = spec.name if spec.suite == selection.suite else f"{spec.name} (of {spec.suite})"
        rows.append((name, ", ".join(stages) if stages else "nothing"))
        to_do += [spec] if stages else []
        to_train += [spec] if "training" in stages else []
    parts = [
        tabulate(rows, headers=("run", "to do")),
        f"{len(rows)} runs of suite {selection.suite}; {len(to_do)} have something to do.",
        training_time(to_train, selection.specs, results, workers),
        cost_table([_resolved(spec, results) for spec in to_do]),
    ]
    return "\n\n".join(part for part in parts if part)


def _resolved(spec: RunSpec, results: Path) -> RunSpec:
    """Return the run with its inputs' identities, or as it is where they are not to be had."""
    try:
        return resolve(spec, results)
    except RunError:
        return spec


def _stages_to_do(
    spec: RunSpec, results: Path, timing: Literal["quick", "full", "off"], *, force: bool
) -> list[str]:
    try:
        resolved = resolve(spec, results)
    except RunError as error:
        return [f"unavailable: {error}"]
    stages: list[str] = list(SCORED_STAGES if force else ())
    try:
        stages = stages or list(stale_stages(resolved, results))
    except ResultsError as error:
        return [f"refused: {error}"]
    if timing != "off":
        timed = not needs_timing(resolved, results, timing)
        stages += [] if timed and not force else ["timing"]
    note = note_on_code(spec)
    return [*stages, *([f"({note})"] if note and stages else [])]
