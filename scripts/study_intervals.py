"""Simulate how often every printed interval contains the truth, and write a table of it.

    python scripts/study_intervals.py [--replications 500] [--document docs/statistics.md]

Labels are drawn from softmax(b z) of the logits z that are scored, so that the true temperature is
1/b and every other truth follows from a large reference sample with its probabilities, without
drawing labels. b below 1 is an over-confident model, above 1 an under-confident one. Logits are
normal with a random class raised; `levels` has four confidences only; in `saturated` six rows of
ten are right with confidence 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from document_tables import replace_table
from scipy.optimize import brentq
from scipy.special import log_softmax

from benchmark.statistics import METRICS, Predictions, check_rows, fit_temperature
from benchmark.statistics.calibration_error import assign_bins
from benchmark.statistics.estimate import Estimate
from benchmark.statistics.intervals import ScoredSplit
from benchmark.statistics.resampling import TemperaturePath, refit_temperatures

REFERENCE_ELEMENTS = 4_000_000
RESAMPLES = 200
MARKERS = "coverage"
DEBIASED = "debiased_calibration_error_squared"
BEFORE = ("accuracy", "macro_f1", "nll", "brier", "signed_gap", "aurc", "augrc", DEBIASED)
AFTER = ("nll", "brier", "signed_gap", "aurc", DEBIASED)
HEADER = (
    "| K | accuracy | b | confidences | n | m | accuracy | F1 | NLL | Brier | gap | AURC | AUGRC "
    "| debiased | NLL, after | Brier, after | gap, after | AURC, after | debiased, after | T |"
)


class Cell(NamedTuple):
    """One population and the sizes of the splits drawn from it."""

    n_classes: int
    accuracy: float
    inverse: float
    shape: str
    n: int
    calibration: int


CELLS = (
    Cell(2, 0.6, 1.0, "normal", 300, 200),
    Cell(10, 0.6, 0.5, "normal", 300, 200),
    Cell(10, 0.6, 2.0, "normal", 10_000, 200),
    Cell(100, 0.6, 1.0, "normal", 1000, 500),
    Cell(100, 0.6, 0.5, "normal", 3000, 1000),
    Cell(2, 0.9, 1.0, "normal", 300, 200),
    Cell(2, 0.9, 0.5, "normal", 1000, 1000),
    Cell(2, 0.9, 2.0, "normal", 3000, 500),
    Cell(10, 0.9, 1.0, "normal", 10_000, 200),
    Cell(10, 0.9, 0.5, "normal", 300, 1000),
    Cell(100, 0.9, 2.0, "normal", 1000, 1000),
    Cell(2, 0.97, 1.0, "normal", 300, 300),
    Cell(2, 0.97, 0.5, "normal", 1000, 1000),
    Cell(10, 0.97, 1.0, "normal", 3000, 3000),
    Cell(10, 0.97, 2.0, "normal", 1000, 300),
    Cell(2, 0.99, 1.0, "normal", 300, 300),
    Cell(2, 0.99, 1.0, "normal", 3000, 1000),
    Cell(10, 0.99, 0.5, "normal", 1000, 1000),
    Cell(10, 0.99, 2.0, "normal", 10_000, 3000),
    Cell(2, 0.996, 1.0, "normal", 300, 300),
    Cell(2, 0.996, 1.0, "normal", 3000, 3000),
    Cell(2, 0.996, 0.5, "normal", 10_000, 10_000),
    Cell(10, 0.996, 1.0, "normal", 10_000, 3000),
    Cell(2, 0.9, 1.0, "levels", 300, 200),
    Cell(10, 0.9, 0.5, "levels", 1000, 500),
    Cell(2, 0.97, 2.0, "levels", 3000, 1000),
    Cell(10, 0.99, 1.0, "levels", 3000, 1000),
    Cell(2, 0.9, 1.0, "saturated", 300, 200),
    Cell(2, 0.97, 1.0, "saturated", 1000, 200),
    Cell(10, 0.9, 1.0, "saturated", 1000, 200),
    Cell(10, 0.97, 0.5, "saturated", 3000, 1000),
    Cell(2, 0.99, 1.0, "saturated", 3000, 1000),
)


def draw_logits(rng: np.random.Generator, n: int, cell: Cell, raised: float) -> np.ndarray:
    """Logits [n, K] whose softmax(b z) are the true probabilities."""
    k = cell.n_classes
    own = rng.integers(0, k, n)
    truth = np.zeros((n, k))
    if cell.shape == "levels":
        errors = (1 - cell.accuracy) * np.array([0.1, 0.5, 1.0, 2.4])[rng.integers(0, 4, n)]
        truth[np.arange(n), own] = np.log((1 - errors) / (errors / (k - 1)))
    else:
        truth = rng.normal(size=(n, k)) * _scale(cell)
        truth[np.arange(n), own] += raised
    logits = truth / cell.inverse
    if cell.shape == "saturated":
        sure = np.flatnonzero(rng.random(n) < 0.6)
        logits[sure] = 0.0
        logits[sure, own[sure]] = 90.0
    return logits


def _scale(cell: Cell) -> float:
    """Standard deviation of the logits, small enough that the accuracy can be reached."""
    accuracy = 1 - (1 - cell.accuracy) / 0.4 if cell.shape == "saturated" else cell.accuracy
    if accuracy > 0.85:
        return 2.0
    return 0.3 if cell.n_classes == 2 else 0.8


def find_raised(cell: Cell) -> float:
    """How much a random class is raised for the accuracy of the cell."""
    if cell.shape == "levels":
        return 0.0
    n = REFERENCE_ELEMENTS // (10 * cell.n_classes)

    def excess(raised: float) -> float:
        logits = draw_logits(np.random.default_rng(7), n, cell, raised)
        chance = np.exp(log_softmax(cell.inverse * logits, axis=1)).max(axis=1)
        return float(chance.mean()) - cell.accuracy

    return float(brentq(excess, 0, 40, xtol=1e-3))


def truths(cell: Cell, raised: float, temperature: float) -> dict[str, float]:
    """Return every metric of the population at a temperature."""
    n = REFERENCE_ELEMENTS // cell.n_classes
    logits = draw_logits(np.random.default_rng(11), n, cell, raised)
    truth = np.exp(log_softmax(cell.inverse * logits, axis=1))
    said = log_softmax(logits / temperature, axis=1)
    rows = np.arange(n)
    top = logits.argmax(axis=1)
    right, confidence = truth[rows, top], np.exp(said[rows, top])
    scored = Predictions.from_logits(logits, top, temperature)
    order, first, size, _ = scored.ranking
    rate = np.add.reduceat(1 - right[order], first) / size
    errors = np.cumsum(np.repeat(rate, size))
    index = assign_bins(scored.confidence, 15, "equal_mass")
    gap = np.bincount(index, confidence - right, minlength=15)
    counts = np.maximum(np.bincount(index, minlength=15), 1)
    hits = np.bincount(top, right, minlength=cell.n_classes)
    claimed = np.bincount(top, minlength=cell.n_classes)
    probabilities = np.exp(said)
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float((2 * hits / (claimed + truth.sum(axis=0))).mean()),
        "nll": -float((truth * said).sum(axis=1).mean()),
        "brier": float((probabilities**2 - 2 * truth * probabilities).sum(axis=1).mean()) + 1,
        "signed_gap": float((confidence - right).mean()),
        "aurc": float((errors / np.arange(1, n + 1)).mean()),
        "augrc": float(errors.mean() / n - errors[-1] / (2 * n * n)),
        DEBIASED: float((gap**2 / counts).sum() / n),
    }


def draw_split(
    rng: np.random.Generator, n: int, cell: Cell, raised: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of one split."""
    logits = draw_logits(rng, n, cell, raised)
    labels = (cell.inverse * logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def covers(estimate: Estimate, truth: float) -> float:
    """1 or 0 for whether the interval contains the truth; NaN where it says there is none."""
    if estimate.low is None or estimate.high is None:
        if estimate.no_interval is None:
            raise ValueError(f"an interval is missing without a word: {estimate}")
        return math.nan
    return float(estimate.low <= truth <= estimate.high)


def replicate(
    cell: Cell, raised: float, known: Sequence[dict[str, float]], seed: int
) -> list[float]:
    """Whether each interval of one simulated run contains its truth."""
    rng = np.random.default_rng([seed, CELLS.index(cell)])
    test, calibration = (draw_split(rng, n, cell, raised) for n in (cell.n, cell.calibration))
    fit = fit_temperature(*calibration)
    refitted = refit_temperatures(*calibration, fit, resamples=RESAMPLES, seed=seed)
    rows = check_rows(*test)
    fixed = TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), RESAMPLES)
    free = TemperaturePath.build(rows, fit.temperature, refitted.resampled)
    before = ScoredSplit(fixed, None, seed)
    after = ScoredSplit(free, refitted, seed)
    return [
        *(covers(before.estimate(METRICS[name]), known[0][name]) for name in BEFORE),
        *(covers(after.estimate(METRICS[name]), known[1][name]) for name in AFTER),
        covers(refitted.estimate, 1 / cell.inverse),
    ]


def row_of(cell: Cell, replications: int) -> str:
    """Simulate one cell and return its line of the table."""
    raised = find_raised(cell)
    known = [truths(cell, raised, temperature) for temperature in (1.0, 1 / cell.inverse)]
    found = np.array([replicate(cell, raised, known, seed) for seed in range(replications)])
    facts = [
        str(cell.n_classes),
        f"{cell.accuracy:g}",
        f"{cell.inverse:g}",
        cell.shape,
        f"{cell.n:,}",
        f"{cell.calibration:,}",
    ]
    return f"| {' | '.join([*facts, *(_summary(column) for column in found.T)])} |"


def _summary(column: np.ndarray) -> str:
    """Coverage where an interval was given; and how often it was, unless always."""
    given = column[~np.isnan(column)]
    share = len(given) / len(column)
    if share < 0.1:
        return "too few"
    text = f"{100 * given.mean():.1f}"
    return text if share == 1 else f"{text} of {100 * share:.0f}%"


def main() -> None:
    """Parse arguments, simulate, print rows as they come and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=500)
    parser.add_argument("--cells", help="numbers of cells, such as 3,17; all by default")
    parser.add_argument("--document", type=Path, help="markdown file with the coverage markers")
    arguments = parser.parse_args()
    chosen = range(len(CELLS)) if arguments.cells is None else map(int, arguments.cells.split(","))
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    print("\n".join(lines), flush=True)
    for number in chosen:
        lines.append(row_of(CELLS[number], arguments.replications))
        print(lines[-1], flush=True)
    if arguments.document:
        replace_table(arguments.document, MARKERS, "\n".join(lines))


if __name__ == "__main__":
    main()
