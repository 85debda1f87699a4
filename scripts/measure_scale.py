"""Time commands on finished studies of growing size, and write a table of it.

    python scripts/measure_scale.py [--folder FOLDER] [--divide 10] [--document docs/performance.md]

Each command is a process of its own, as a person starts it. Seconds are those on the clock and, as
other work slows those down, those of all its processes on the cores; memory is the peak of its
largest process. "per run" is the slope: what a further run costs between this size and the one
before, on the cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from document_tables import replace_table
from scale_trees import Size, write_registry, write_tree

MARKERS = "scale"
HEADER = "| command | runs | seconds | on the cores | peak memory | per run |"

WHOLE = (
    Size(7, 2, 2, rows=500, shifts=9, whole=True),
    Size(50, 4, 5, rows=500, shifts=9, whole=True),
)
PLANNED = (Size(25, 4, 1), Size(125, 8, 1), Size(250, 8, 5))
REPORTED = (Size(25, 5, 2), Size(50, 10, 5), Size(250, 10, 10))


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    wall_s: float
    cores_s: float
    peak_mb: float


def measure(arguments: Sequence[str | Path]) -> Cost:
    """Run a command in a new process and return what it took, with all that it started.

    Raises:
        SystemExit: it failed.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, *map(str, arguments)],
            os.environ | {"OMP_NUM_THREADS": "1"},
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), place) for place in (1, 2)],
        )
        _, status, usage = os.wait4(process, 0)
        wall = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status) != 0:
            output.seek(0)
            raise SystemExit(output.read().decode(errors="replace"))
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3)


def line(what: str, runs: int, cost: Cost, before: tuple[int, Cost] | None) -> str:
    """Return a line of the table."""
    slope = "-"
    if before is not None:
        slope = f"{1e3 * (cost.cores_s - before[1].cores_s) / (runs - before[0]):.2f} ms"
    return (
        f"| {what} | {runs:,} | {cost.wall_s:.1f} s | {cost.cores_s:.1f} s | {cost.peak_mb:,.0f} MB"
        f" | {slope} |"
    )


class Table:
    """Lines of the table, each with the slope from the one before of the same command."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}
        self._before: dict[str, tuple[int, Cost]] = {}

    def add(self, what: str, runs: int, arguments: Sequence[str | Path]) -> None:
        """Run a command and note what it took."""
        cost = measure(arguments)
        text = line(what, runs, cost, self._before.get(what))
        self._before[what] = runs, cost
        self.lines.setdefault(what, []).append(text)
        print(text, flush=True)

    def text(self) -> str:
        """Return the whole table."""
        rule = "| --- |" + " ---: |" * (HEADER.count("|") - 2)
        return "\n".join([HEADER, rule, *(one for lines in self.lines.values() for one in lines)])


def run_command(tree: Path) -> list[str | Path]:
    """Return the command that runs a tree's study, to which options can be added."""
    return [
        *("-m", "benchmark.run", "--registry", tree / "registry.yaml"),
        *("--results", tree / "results", "--reports", tree / "reports"),
    ]


def report_command(tree: Path) -> list[str | Path]:
    """Return the command that writes a tree's report."""
    return [
        *("-m", "benchmark.report", "--registry", tree / "registry.yaml"),
        *("--results", tree / "results", "--reports", tree / "reports"),
    ]


def measure_all(folder: Path, scale: int, table: Table) -> None:
    """Measure every command at every size, sizes divided by `scale`; trees that exist are used."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    for size in _divided(WHOLE, scale):
        tree = _tree(folder / f"whole-{size.runs}", size)
        table.add("nothing to do but the report", size.runs, [*run_command(tree), "--redraw"])
        table.add("nothing to do", size.runs, run_command(tree))
        table.add("nothing to do, accelerate launch", size.runs, [*launch, *run_command(tree)])
    for size in _divided(PLANNED, scale):
        tree = folder / f"planned-{size.runs}"
        tree.mkdir(exist_ok=True)
        write_registry(tree / "registry.yaml", size)
        table.add("plan (--dry-run)", size.runs, [*run_command(tree), "--dry-run"])
    for size in _divided(REPORTED, scale):
        tree = _tree(folder / f"reported-{size.runs}", size)
        table.add("report", size.runs, [*report_command(tree), "--redraw"])
        table.add("report, unchanged", size.runs, report_command(tree))


def _tree(tree: Path, size: Size) -> Path:
    if not tree.exists():
        write_tree(tree, size)
    return tree


def _divided(sizes: Sequence[Size], scale: int) -> Iterator[Size]:
    for size in sizes:
        yield Size(
            max(7, size.models // scale), size.datasets, size.seeds, size.rows, size.shifts,
            size.whole,
        )  # fmt: skip


def main() -> None:
    """Measure and print, or write the table into a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where trees are made, and stay")
    parser.add_argument("--divide", type=int, default=1, help="sizes by this, for a quick try")
    parser.add_argument("--document", type=Path, help="write the table between its markers")
    options = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory() as temporary:
        measure_all(options.folder or Path(temporary), options.divide, table)
    if options.document:
        replace_table(options.document, MARKERS, table.text())


if __name__ == "__main__":
    main()
