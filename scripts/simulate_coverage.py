"""Simulate how often the intervals contain the truth, and write the table of docs/statistics.md.

    python scripts/simulate_coverage.py [--replications 1000] [--document docs/statistics.md]

Logits are normal and labels are drawn from softmax(b z), so the true temperature is 1/b and the
true calibration error of softmax(z) is known from a very large sample; b is chosen to make it .015
or .06.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

from benchmark.statistics.bin_resampling import bootstrap_interval
from benchmark.statistics.calibration_error import (
    assign_bins,
    debiased_calibration_error,
    debiased_sums,
)
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import TemperaturePath, percentiles, refit_temperatures
from benchmark.statistics.temperature import fit_temperature

TRUTHS = (0.0, 0.015, 0.06)
ROWS = (500, 2000, 10_000)
CLASSES = (2, 10)
LOGIT_SCALE = 3.0
REFERENCE_ROWS = 400_000
REFERENCE_BINS = 1000
RESAMPLES = 300
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"


class Scenario(NamedTuple):
    """One cell of the simulation, with its population values."""

    n_classes: int
    truth: float
    inverse: float
    ece: float


class Coverage(NamedTuple):
    """Shares of replications whose interval held the truth, and mean values."""

    debiased: float
    debiased_after: float
    temperature: float
    ece: float
    mean_ece: float
    mean_debiased: float


def draw_logits(rng: np.random.Generator, n: int, n_classes: int) -> np.ndarray:
    """Normal logits [n, K]."""
    return rng.normal(scale=LOGIT_SCALE, size=(n, n_classes))


def population_gaps(logits: np.ndarray, inverse: float) -> np.ndarray:
    """Gap between confidence and the true chance to be right, averaged at equal confidence."""
    top = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    confidence = np.exp(log_softmax(logits, axis=1)[rows, top])
    chance = np.exp(log_softmax(inverse * logits, axis=1)[rows, top])
    index = assign_bins(confidence, REFERENCE_BINS, "equal_mass")
    total = np.bincount(index, confidence - chance, minlength=REFERENCE_BINS)
    return total / np.bincount(index, minlength=REFERENCE_BINS)


def scenario(n_classes: int, truth: float) -> Scenario:
    """Find b < 1 (an over-confident model) whose root-mean-square gap is `truth`."""
    logits = draw_logits(np.random.default_rng(n_classes), REFERENCE_ROWS, n_classes)
    if truth == 0:
        return Scenario(n_classes, 0.0, 1.0, 0.0)

    def excess(inverse: float) -> float:
        return math.sqrt(float((population_gaps(logits, inverse) ** 2).mean())) - truth

    inverse = float(brentq(excess, 0.3, 0.999, xtol=1e-6))
    return Scenario(
        n_classes, truth, inverse, float(np.abs(population_gaps(logits, inverse)).mean())
    )


def draw_split(
    rng: np.random.Generator, n: int, setting: Scenario
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of one split."""
    logits = draw_logits(rng, n, setting.n_classes)
    labels = (setting.inverse * logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def replicate(setting: Scenario, n: int, seed: int) -> tuple[float, ...]:
    """Whether each interval of one simulated run contains its truth, and the two errors."""
    rng = np.random.default_rng([seed, n, setting.n_classes, round(1000 * setting.truth)])
    test, calibration = draw_split(rng, n, setting), draw_split(rng, n, setting)
    before = Predictions.from_logits(*test)
    debiased = debiased_calibration_error(before.confidence, before.correct)
    ece = bootstrap_interval(before.confidence, before.correct, resamples=RESAMPLES, seed=seed)
    fit = fit_temperature(*calibration)
    refitted = refit_temperatures(*calibration, fit, resamples=RESAMPLES, seed=seed)
    low, high = percentiles(refitted)
    path = TemperaturePath.build(before.rows, fit.temperature, refitted)
    after = path.center
    index = assign_bins(after.confidence, 15, "equal_mass")
    sums = debiased_sums(after.confidence - after.correct, index, 15)
    scaled = sums.interval(extra_variance=path.debiased_variance())
    return (
        debiased.squared_low <= setting.truth**2 <= debiased.squared_high,
        scaled.squared_low <= 0 <= scaled.squared_high,
        low <= 1 / setting.inverse <= high,
        ece.low <= setting.ece <= ece.high,
        ece.value,
        debiased.root,
    )


def simulate(setting: Scenario, n: int, replications: int) -> Coverage:
    """Average over replications."""
    results = np.array([replicate(setting, n, seed) for seed in range(replications)], float)
    return Coverage(*(float(value) for value in results.mean(axis=0)))


def to_row(setting: Scenario, n: int, coverage: Coverage) -> str:
    """Format one line of the table."""
    shares = [coverage.debiased, coverage.debiased_after, coverage.temperature, coverage.ece]
    means = [setting.ece, coverage.mean_ece, coverage.mean_debiased]
    columns = [
        f"{setting.n_classes}",
        f"{setting.truth:g}",
        f"{n:,}",
        *(f"{100 * share:.1f}%" for share in shares),
        *(f"{mean:.4f}" for mean in means),
    ]
    return f"| {' | '.join(columns)} |"


def table(replications: int, processes: int) -> str:
    """Simulate every cell and return the markdown table."""
    settings = [scenario(k, truth) for k, truth in product(CLASSES, TRUTHS)]
    cells = list(product(settings, ROWS))
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(simulate, *cell, replications) for cell in cells]
        rows = []
        for cell, future in zip(cells, futures, strict=True):
            rows.append(to_row(*cell, future.result()))
            print(rows[-1], flush=True)
    header = (
        "| K | truth | n | debiased L2 | debiased L2 after scaling | temperature "
        "| bare ECE-15 | true ECE | mean ECE-15 | mean debiased root |"
    )
    return "\n".join([header, "| --- " * 10 + "|", *rows])


def replace_table(document: Path, text: str) -> None:
    """Put the table between the markers of a document."""
    content = document.read_text(encoding="utf-8")
    before, rest = content.split(BEGIN)
    _, after = rest.split(END)
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Parse arguments, simulate, print rows as they come and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--document", type=Path, help="markdown file with the coverage markers")
    arguments = parser.parse_args()
    text = table(arguments.replications, arguments.processes)
    if arguments.document:
        replace_table(arguments.document, text)


if __name__ == "__main__":
    main()
