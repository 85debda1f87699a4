"""What changed between two result trees: the same runs side by side, with paired intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.markup import Cell, Column, Table, decimals, interval, plural
from benchmark.records import Record, ResultsError, RunFolder, read_split, runs_of_tree
from benchmark.report.data import ReportError
from benchmark.statistics import ModelOutputs, compare, fit_temperature

RESAMPLES = 500


class Compared(NamedTuple):
    """A metric that is compared, and how it is shown."""

    metric: str
    after_scaling: bool
    header: str
    scale: float
    places: int


COMPARED = (
    Compared("accuracy", False, "accuracy (pp)", 100, 2),
    Compared("nll", True, "NLL after", 1, 4),
    Compared("debiased_calibration_error", False, "debiased error before (pp, squares)", 100, 2),
    Compared("debiased_calibration_error", True, "debiased error after (pp, squares)", 100, 2),
)


class Change(NamedTuple):
    """Second minus first on the same test rows, with its 95% interval or why it has none."""

    difference: float
    low: float | None
    high: float | None
    no_interval: str | None = None


@dataclass(frozen=True)
class RunPair:
    """One run that both trees have.

    Attributes:
        name: suite/model/dataset/seed-n.
        first: record in the first tree.
        second: record in the second tree.
        identical: whether test and calibration logits are the same, bit for bit.
        changes: one per entry of `COMPARED`; empty where nothing could be compared.
        problem: why the runs could not be compared row by row; empty when they were.
        settings: what differs in their spec.json, as 'key: before → after'.
    """

    name: str
    first: Record
    second: Record
    identical: bool
    changes: tuple[Change, ...]
    problem: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class TreeComparison:
    """All runs of two result trees.

    Attributes:
        first: the first tree.
        second: the second tree.
        pairs: runs both have, by name.
        only_first: names of runs only the first has.
        only_second: names of runs only the second has.
    """

    first: Path
    second: Path
    pairs: tuple[RunPair, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare_results(first: Path, second: Path) -> TreeComparison:
    """Compare the runs of two result trees on the same test rows.

    Intervals are of the paired rows (see `statistics.compare`); after scaling, with what refits of
    the temperature on resampled calibration rows add. Of debiased errors the difference of squares
    is compared, and shown as its signed root. Runs with identical logits are recognised.

    Raises:
        ReportError: a tree is missing or empty, or they have no run in common.
    """
    folders = [_runs(tree) for tree in (first, second)]
    shared = sorted(folders[0].keys() & folders[1].keys())
    if not shared:
        raise ReportError(
            f"{first} and {second} have no run (suite/model/dataset/seed) in common;"
            " both paths must be results folders that hold suites"
        )
    return TreeComparison(
        first=first,
        second=second,
        pairs=tuple(_pair(name, folders[0][name], folders[1][name]) for name in shared),
        only_first=tuple(sorted(folders[0].keys() - folders[1].keys())),
        only_second=tuple(sorted(folders[1].keys() - folders[0].keys())),
    )


def _runs(tree: Path) -> dict[str, RunFolder]:
    if not tree.is_dir():
        raise ReportError(f"{tree}: no such folder")
    found = {folder.name: folder for folder in runs_of_tree(tree)}
    if not found:
        raise ReportError(f"{tree}: no record.json at <suite>/<model>/<dataset>/seed-<n>/")
    return found


def _pair(name: str, first: RunFolder, second: RunFolder) -> RunPair:
    records = [folder.read_record() for folder in (first, second)]
    one, other = records
    if one is None or other is None:
        raise ReportError(f"{name}: a record vanished while it was read; run the command again")
    identical, problem = False, ""
    changes: tuple[Change, ...] = ()
    if one.status == other.status == "completed":
        try:
            outputs = _outputs(first, f"{name} (first)"), _outputs(second, f"{name} (second)")
            identical = _same(*outputs)
            changes = _no_changes() if identical else tuple(_changes(*outputs))
        except (ResultsError, ValueError) as error:
            problem = str(error)
    return RunPair(
        name=name,
        first=one,
        second=other,
        identical=identical,
        changes=changes,
        problem=problem,
        settings=tuple(_differences(first.read_spec(), second.read_spec())),
    )


def _outputs(folder: RunFolder, name: str) -> ModelOutputs:
    test, calibration = read_split(folder, "test"), read_split(folder, "calibration")
    return ModelOutputs(
        name=name,
        test_logits=test.logits,
        test_labels=test.labels,
        test_ids=test.ids,
        calibration_logits=calibration.logits,
        calibration_labels=calibration.labels,
        calibration_ids=calibration.ids,
        fit=fit_temperature(calibration.logits, calibration.labels),
    )


def _same(first: ModelOutputs, second: ModelOutputs) -> bool:
    fields = ("test_ids", "test_logits", "test_labels", "calibration_ids", "calibration_logits")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)


def _no_changes() -> tuple[Change, ...]:
    return tuple(Change(0.0, 0.0, 0.0) for _ in COMPARED)


def _changes(first: ModelOutputs, second: ModelOutputs) -> Iterator[Change]:
    for compared in COMPARED:
        result = compare(
            second,
            first,
            compared.metric,
            after_scaling=compared.after_scaling,
            resamples=RESAMPLES,
        )
        yield Change(result.difference, result.low, result.high, result.no_interval)


def _differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two JSON values, key by key."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            yield from _differences(first.get(key), second.get(key), f"{path}.{key}".strip("."))
    elif first != second:
        yield f"{path}: {first} → {second}"


def comparison_table(pairs: tuple[RunPair, ...]) -> Table:
    """Return the runs that changed: differences with intervals, temperatures, latency."""
    columns = (
        Column("run", "run", "left"),
        *(
            Column(f"{c.metric}_{'after' if c.after_scaling else 'before'}", c.header)
            for c in COMPARED
        ),
        Column("temperature", "T"),
        Column("latency", "p50 ms"),
    )
    return Table(columns, [_row(pair) for pair in pairs])


def _row(pair: RunPair) -> tuple[Cell, ...]:
    cells = [Cell(pair.name)]
    for compared, change in zip(COMPARED, pair.changes, strict=True):
        value = decimals(compared.scale * change.difference, compared.places)
        sign = "+" if change.difference > 0 else ""
        if change.low is None or change.high is None:
            cells.append(Cell(f"{sign}{value} ({change.no_interval})", change.difference))
            continue
        low, high = compared.scale * change.low, compared.scale * change.high
        text = f"{sign}{value} {interval(low, high, compared.places)}"
        cells.append(Cell(text, change.difference, bold=low > 0 or high < 0))
    cells.append(Cell(_arrow(_temperature(pair.first), _temperature(pair.second))))
    cells.append(Cell(_arrow(_latency(pair.first), _latency(pair.second))))
    return tuple(cells)


def _arrow(first: float | None, second: float | None) -> str:
    return f"{decimals(first, 2)} → {decimals(second, 2)}"


def _temperature(record: Record) -> float | None:
    return None if record.temperature is None else record.temperature.value


def _latency(record: Record) -> float | None:
    return None if record.timing is None else record.timing.latency_ms(50)


def comparison_summary(comparison: TreeComparison) -> str:
    """Return one sentence that says how much is the same."""
    pairs = comparison.pairs
    same = sum(pair.identical for pair in pairs)
    changed = sum(bool(pair.changes) and not pair.identical for pair in pairs)
    return (
        f"{plural(len(pairs), 'run')} in both: {same:,} with identical logits, "
        f"{changed:,} changed, {len(pairs) - same - changed:,} that could not be compared; "
        f"{len(comparison.only_first):,} only in the first tree, "
        f"{len(comparison.only_second):,} only in the second."
    )
