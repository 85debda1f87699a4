"""Measure how seconds and memory grow with models, rows, classes and processes.

    python scripts/measure_scaling.py [--curves rows classes] [--document docs/scaling.md]

Every point is a process of its own on one thread, at least four a curve. Seconds are those of all
its processes on the cores, which other work slows down least; memory is the peak of the largest
one. The slope is that of a least-squares line through the logarithms: 1 is growth in proportion.
"last" is the slope between the two largest sizes, where what a start costs weighs least.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from document_tables import replace_table
from measure_scale import measure, report_command, run_command
from scale_trees import Size, write_tree
from tabulate import tabulate

from benchmark.execution import score_run
from benchmark.records import LogitsSplit, RunFolder, write_logits

MARKERS = "growth"
ROOT = Path(__file__).parents[1]
MODELS = (8, 16, 32, 64)
ROWS = (1_000, 4_000, 16_000, 64_000, 256_000)
CLASSES = (10, 40, 160, 640, 2_560)
LIMITS = (250, 500, 1_000, 2_000)
PROCESSES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Point:
    """What one size took."""

    size: int
    cores_s: float
    peak_mb: float


def slopes(points: Sequence[Point], what: Callable[[Point], float]) -> tuple[float, float]:
    """Return the slope of all points and of the last two, both in logarithms."""
    x = np.log([point.size for point in points])
    y = np.log([what(point) for point in points])
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def of_command(size: int, arguments: Sequence[str | Path]) -> Point:
    """Return what a command takes."""
    cost = measure(arguments)
    return Point(size, cost.cores_s, cost.peak_mb)


def claim_command(tree: Path) -> list[str | Path]:
    """Return the command that tests the claim on a tree."""
    registry = tree / "registry.yaml"
    return ["-m", "benchmark.claim", tree / "results" / "scale", "--registry", registry]


def models(folder: Path) -> dict[str, Iterator[Point]]:
    """Return the curves of commands on suites of more and more models."""
    trees = {}
    for count in MODELS:
        trees[count] = folder / f"models-{count}"
        write_tree(trees[count], Size(count, 4, 2, rows=500))
    return {
        "the claim's test, models (x 4 data sets x 2 seeds)": (
            of_command(count, claim_command(tree)) for count, tree in trees.items()
        ),
        "the report, models (x 4 data sets x 2 seeds)": (
            of_command(count, [*report_command(tree), "--redraw"]) for count, tree in trees.items()
        ),
        "what is to do (--dry-run), models (x 4 data sets x 2 seeds)": (
            of_command(count, [*run_command(tree), "--dry-run"]) for count, tree in trees.items()
        ),
    }


def write_random_logits(folder: Path, rows: int, classes: int) -> None:
    """Write a run's logits: as many rows to calibrate on as to test on."""
    random = np.random.default_rng(0)
    splits = {}
    for name in ("calibration", "test"):
        labels = random.integers(0, classes, rows)
        logits = random.normal(size=(rows, classes)).astype(np.float32)
        logits[np.arange(rows), labels] += 2
        splits[name] = LogitsSplit(np.arange(rows), 1.7 * logits, labels)
    write_logits(RunFolder(folder), splits, key="k")


def scoring(folder: Path, size: int, rows: int, classes: int) -> Point:
    """Return what all maps and metrics of a run take, in a process of its own."""
    place = folder / f"logits-{rows}-{classes}"
    place.mkdir()
    write_random_logits(place, rows, classes)
    line = [sys.executable, __file__, "--score", str(place)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(  # nosec B603 - this script itself
        line, env=variables, stdout=subprocess.PIPE, text=True, check=True
    )
    return Point(size, *json.loads(output.stdout))


def score(place: Path) -> None:
    """Score and print the seconds on a core and the peak memory in MB."""
    started = time.process_time()
    score_run(RunFolder(place))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps([time.process_time() - started, peak]))


def whole_run(folder: Path, limit: int) -> Point:
    """Return what a run takes, from the command's start to its report's end."""
    place = folder / f"run-{limit}"
    return of_command(
        limit,
        [
            *("-m", "benchmark.run", "--registry", ROOT / "registry.yaml"),
            *("--models", "vit-tiny", "--datasets", "mnist-5k", "--seeds", "1"),
            *("--limit", str(limit), "--timing", "off", "--workers", "1"),
            *("--results", place / "results", "--reports", place / "reports"),
        ],
    )  # fmt: skip


def processes(number: int) -> Point:
    """Return what a step of bert-tiny takes on all cores, and one process's memory."""
    # Not above: torch in this process would count as memory of the commands that it starts.
    from measure_parallel import ask

    model = ("--model", "bert-tiny", "--ways", "ours")
    _, cores = ask(number, "time", *model)["ours"]
    return Point(number, cores, ask(number, "memory", *model))


def curves(folder: Path) -> dict[str, Callable[[], dict[str, Iterator[Point]]]]:
    """Return what can be measured, by the names that the command takes."""
    return {
        "models": lambda: models(folder),
        "rows": lambda: {
            "scores, rows (x 10 classes)": (scoring(folder, n, n, 10) for n in ROWS),
            "a run of vit-tiny, rows of each split": (whole_run(folder, n) for n in LIMITS),
        },
        "classes": lambda: {
            "scores, classes (x 5,000 rows)": (scoring(folder, n, 5_000, n) for n in CLASSES)
        },
        "processes": lambda: {
            "a step of bert-tiny, processes": (processes(n) for n in PROCESSES)
        },
    }  # fmt: skip


def lines_of(name: str, points: Sequence[Point]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a curve; the last has its slopes."""
    time_slopes = slopes(points, lambda point: point.cores_s)
    memory_slopes = slopes(points, lambda point: point.peak_mb)
    for point in points:
        last = point is points[-1]
        yield (
            name, f"{point.size:,}", _seconds(point.cores_s), f"{point.peak_mb:,.0f} MB",
            "{:.2f} / {:.2f}".format(*time_slopes) if last else "",
            "{:.2f} / {:.2f}".format(*memory_slopes) if last else "",
        )  # fmt: skip


def _seconds(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f} s"


def main() -> None:
    """Measure and print, or write the table into a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--curves", nargs="+", default=["models", "rows", "classes", "processes"])
    parser.add_argument("--document", type=Path, help="write the table between its markers")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments.score)
        return
    lines: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as temporary:
        known = curves(Path(temporary))
        for chosen in arguments.curves:
            for name, points in known[chosen]().items():
                for line in lines_of(name, list(points)):
                    print(*line, sep=" | ", flush=True)
                    lines.append(line)
    headers = ("what, and what grows", "size", "on the cores", "peak memory",
               "slope of seconds, all / last", "slope of memory")  # fmt: skip
    text = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    if arguments.document:
        replace_table(arguments.document, MARKERS, text)


if __name__ == "__main__":
    main()
