"""Time our statistics against other libraries: `python scripts/compare_libraries.py`.

Everything runs in one process and one thread, so ratios within a run are fair even where absolute
times are not. Peers come from the optional extra `peers`; those not installed are left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from document_tables import markers, replace_table

from benchmark.arrays import BoolArray, Float32Array, Float64Array, IntArray
from benchmark.statistics.bin_resampling import bootstrap_interval
from benchmark.statistics.calibration_error import expected_calibration_error
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.smooth_ece import smooth_ece
from benchmark.statistics.temperature import fit_temperature

SIZES = ((10_000, 2), (10_000, 100), (50_000, 1000), (1_000_000, 2))
MARKERS = "peers"
BEGIN, END = markers(MARKERS)
RESAMPLES = 1000
# One resample at a time is what an exact bootstrap costs; a thousand would take a quarter of an
# hour.
PEER_RESAMPLES = 10
OURS = "ours"
HEADER = (
    "| task | size | library | median | times ours | result |",
    "| --- | --- | --- | --- | --- | --- |",
)

Logits = Float32Array
Labels = IntArray
Task = Callable[[], Any]


class Timing(NamedTuple):
    """Median seconds of a task and what it last returned."""

    seconds: float
    result: Any


class Row(NamedTuple):
    """One line of the table."""

    task: str
    size: str
    library: str
    seconds: float
    ratio: float
    note: str


def main() -> None:
    """Parse arguments, time everything and print the table as it grows."""
    parser = argparse.ArgumentParser(description="Time our statistics against other libraries.")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, median (5)")
    parser.add_argument("--document", type=Path, help="markdown file with the markers to fill")
    arguments = parser.parse_args()
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(1)
    with threadpool_limits(1):
        print("\n".join(HEADER))
        rows = time_everything(arguments.repeats)
    if arguments.document:
        replace_table(arguments.document, MARKERS, "\n".join([*HEADER, *map(to_markdown, rows)]))


def draw(n: int, n_classes: int) -> tuple[Logits, Labels]:
    """Logits [n, K] in float32 whose best temperature is about 1.7."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(n, n_classes)).astype(np.float32)
    noise = rng.gumbel(size=(n, n_classes)).astype(np.float32)
    return logits, (logits / np.float32(1.7) + noise).argmax(axis=1)


def time_everything(repeats: int) -> list[Row]:
    """Return the rows of all tasks at all sizes."""
    rows: list[Row] = []
    for n, n_classes in SIZES:
        logits, labels = draw(n, n_classes)
        size = f"{n:,} x {n_classes:,}"
        for compare in (compare_temperatures, compare_errors):
            added = compare(logits, labels, size, repeats)
            print("\n".join(map(to_markdown, added)), flush=True)
            rows += added
    return rows


def measure(task: Task, repeats: int) -> Timing:
    """Run once to warm up, then `repeats` times."""
    result = task()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = task()
        seconds.append(time.perf_counter() - start)
    return Timing(statistics.median(seconds), result)


def run_all(tasks: dict[str, Task], repeats: int) -> dict[str, Timing]:
    """Time each library; one that is not installed raised ImportError when its task was made."""
    return {library: measure(task, repeats) for library, task in tasks.items()}


def as_rows(
    task: str, size: str, timings: dict[str, Timing], notes: Callable[[Any], str]
) -> list[Row]:
    """One row a library, ours first, with the ratio to ours."""
    ours = timings[OURS].seconds
    return [
        Row(task, size, library, timing.seconds, timing.seconds / ours, notes(timing.result))
        for library, timing in timings.items()
    ]


# --- Temperature --------------------------------------------------------------------------------


def compare_temperatures(logits: Logits, labels: Labels, size: str, repeats: int) -> list[Row]:
    """Time temperature fits and measure how far above the float64 optimum each ends."""
    tasks = temperature_tasks(logits, labels)
    timings = run_all(tasks, repeats)
    best = optimal_nll(logits, labels, timings[OURS].result)
    peak = peak_memory(tasks[OURS])
    rows = as_rows(
        "temperature",
        size,
        timings,
        lambda temperature: (
            f"T {temperature:.6f}, gap {mean_nll(logits, labels, temperature) - best:.1e} nats"
        ),
    )
    return [rows[0]._replace(note=f"{rows[0].note}, {peak / 1e6:.0f} MB extra"), *rows[1:]]


def temperature_tasks(logits: Logits, labels: Labels) -> dict[str, Task]:
    """Functions that return a temperature, of every installed library."""
    tasks: dict[str, Task] = {OURS: lambda: fit_temperature(logits, labels).temperature}
    makers = (_scikit_learn_temperature, _calibstats_temperature, _probmetrics_temperature)
    # Netcal takes minutes and many gigabytes beyond this size.
    small = (_netcal_temperature,) if logits.size <= 2_000_000 else ()
    for maker in (*makers, *small):
        try:
            library, task = maker(logits, labels)
        except ImportError as error:
            print(f"left out: {error}")
            continue
        tasks[library] = task
    return tasks


def _scikit_learn_temperature(logits: Logits, labels: Labels) -> tuple[str, Task]:
    from sklearn.calibration import _TemperatureScaling

    return "scikit-learn", lambda: 1 / float(_TemperatureScaling().fit(logits, labels).beta_)


def _calibstats_temperature(logits: Logits, labels: Labels) -> tuple[str, Task]:
    from calibstats.recalibration import TemperatureScaler

    return "calibstats", lambda: TemperatureScaler().fit(logits, labels).temperature_


def _probmetrics_temperature(logits: Logits, labels: Labels) -> tuple[str, Task]:
    import torch
    from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    scores, answers = CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(labels)

    def fit() -> float:
        calibrator = TemperatureScalingCalibrator()
        calibrator.fit_torch(scores, answers)
        return 1 / float(calibrator.invtemp_)

    return "probmetrics", fit


def _netcal_temperature(logits: Logits, labels: Labels) -> tuple[str, Task]:
    from netcal.scaling import TemperatureScaling
    from scipy.special import softmax

    def fit() -> float:
        # Netcal takes probabilities, of class 1 alone if there are two classes.
        probabilities = softmax(logits.astype(np.float64), axis=1)
        features = probabilities[:, 1] if logits.shape[1] == 2 else probabilities
        return float(1 / np.squeeze(TemperatureScaling().fit(features, labels).temperature))

    return "netcal", fit


def mean_nll(logits: Logits, labels: Labels, temperature: float) -> float:
    """NLL in float64, independent of the code under test."""
    from scipy.special import logsumexp

    total = 0.0
    for start in range(0, len(labels), 1 << 14):
        scaled = logits[start : start + (1 << 14)].astype(np.float64) / temperature
        answers = labels[start : start + (1 << 14)]
        total += float((logsumexp(scaled, axis=1) - scaled[np.arange(len(answers)), answers]).sum())
    return total / len(labels)


def optimal_nll(logits: Logits, labels: Labels, near: float) -> float:
    """Least NLL by a bounded search in float64 within 1% of a temperature."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda offset: mean_nll(logits, labels, near * math.exp(offset)),
        bounds=(-0.01, 0.01),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return min(float(found.fun), mean_nll(logits, labels, near))


def peak_memory(task: Task) -> int:
    """Bytes allocated at most while a task ran; numpy reports its arrays."""
    tracemalloc.start()
    task()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# --- Errors and intervals -----------------------------------------------------------------------


def compare_errors(logits: Logits, labels: Labels, size: str, repeats: int) -> list[Row]:
    """Time ECE from logits, smooth ECE and the bootstrap of ECE from confidences."""
    scored = Predictions.from_logits(logits, labels)
    confidence, correct = scored.confidence, scored.correct
    rows: list[Row] = []
    for task, tasks in (
        ("ECE-15 from logits", ece_tasks(logits, labels)),
        ("smooth ECE", smooth_ece_tasks(confidence, correct)),
    ):
        rows += as_rows(task, size, run_all(tasks, repeats), lambda value: f"{float(value):.6f}")
    rows += compare_intervals(logits, labels, size, repeats)
    return rows


def ece_tasks(logits: Logits, labels: Labels) -> dict[str, Task]:
    """Functions that return ECE-15, each starting from the logits in the form its library takes."""
    import torch

    tensor, answers = torch.from_numpy(logits), torch.from_numpy(labels)
    tasks: dict[str, Task] = {OURS: lambda: _our_ece(logits, labels)}
    n_classes = logits.shape[1]
    try:
        from torchmetrics.functional.classification import multiclass_calibration_error

        tasks["torchmetrics"] = lambda: multiclass_calibration_error(
            tensor, answers, n_classes, n_bins=15
        )
    except ImportError as error:
        print(f"left out: {error}")
    try:
        from netcal.metrics import ECE

        # For two classes netcal takes the probability of class 1, another quantity.
        if n_classes > 2:
            tasks["netcal"] = lambda: ECE(15).measure(torch.softmax(tensor, dim=1).numpy(), labels)
    except ImportError as error:
        print(f"left out: {error}")
    try:
        import calibstats

        tasks["calibstats"] = lambda: calibstats.ece(torch.softmax(tensor, dim=1).numpy(), labels)
    except ImportError as error:
        print(f"left out: {error}")
    return tasks


def _our_ece(logits: Logits, labels: Labels) -> float:
    scored = Predictions.from_logits(logits, labels)
    return expected_calibration_error(scored.confidence, scored.correct)


def smooth_ece_tasks(confidence: Float64Array, correct: BoolArray) -> dict[str, Task]:
    """Functions that return the smooth ECE."""
    tasks: dict[str, Task] = {OURS: lambda: smooth_ece(confidence, correct)}
    try:
        import relplot

        outcome = correct.astype(np.float64)
        tasks["relplot"] = lambda: relplot.smECE(confidence, outcome)
    except ImportError as error:
        print(f"left out: {error}")
    return tasks


def compare_intervals(logits: Logits, labels: Labels, size: str, repeats: int) -> list[Row]:
    """Time 1,000 resamples of ECE-15 against one ECE and against calibstats, all from logits."""
    task = f"{RESAMPLES:,}-resample interval of ECE-15"

    def ours() -> tuple[float, float]:
        scored = Predictions.from_logits(logits, labels)
        interval = bootstrap_interval(scored.confidence, scored.correct, resamples=RESAMPLES)
        return interval.low, interval.high

    one_ece = measure(lambda: _our_ece(logits, labels), repeats).seconds
    timings = {OURS: measure(ours, repeats)}
    try:
        import calibstats
        import torch

        def prepare() -> tuple[np.ndarray, np.ndarray]:
            probabilities = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
            correct = probabilities.argmax(axis=1) == labels
            return probabilities.max(axis=1), correct.astype(np.int64)

        def theirs() -> tuple[float, float]:
            found = calibstats.bootstrap_ci(*prepared, calibstats.ece, n_boot=PEER_RESAMPLES)
            return found.low, found.high

        prepared = prepare()
        # Only the bootstrap grows with the resamples; the softmax is paid for once.
        once = measure(prepare, repeats).seconds
        timing = measure(theirs, repeats)
        scale = RESAMPLES / PEER_RESAMPLES
        timings["calibstats"] = timing._replace(seconds=once + timing.seconds * scale)
    except ImportError as error:
        print(f"left out: {error}")
    rows = as_rows(task, size, timings, lambda ends: f"[{ends[0]:.6f}, {ends[1]:.6f}]")
    multiple = timings[OURS].seconds / one_ece
    rows[0] = rows[0]._replace(note=f"{rows[0].note}, {multiple:.1f} times one ECE")
    return rows[:1] + [
        row._replace(note=f"bootstrap timed at {PEER_RESAMPLES} resamples, scaled up; one softmax")
        for row in rows[1:]
    ]


# --- Table --------------------------------------------------------------------------------------


def to_markdown(row: Row) -> str:
    """Format one line of the table."""
    return (
        f"| {row.task} | {row.size} | {row.library} | {_seconds(row.seconds)} "
        f"| {row.ratio:.3g} | {row.note} |"
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


if __name__ == "__main__":
    main()
