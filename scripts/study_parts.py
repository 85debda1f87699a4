"""Simulate how often the intervals of class-wise errors, loss parts, sets and selection hold.

    python scripts/study_parts.py [--replications 300] [--document docs/statistics.md]

Populations and truths as in `study_intervals.py`: labels are drawn from softmax(b z) of the logits
z that are scored. Sets are calibrated on a split of their own, and their truth is that of the sets
so made: their coverage and size on a large sample.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from document_tables import replace_table
from scipy.special import log_softmax
from study_intervals import Cell, covers, draw_logits, draw_split, find_raised

from benchmark.statistics import METRICS, Predictions, check_rows, fit_temperature
from benchmark.statistics.classwise import class_sums
from benchmark.statistics.conformal import PredictionSets, prediction_sets
from benchmark.statistics.intervals import ScoredSplit
from benchmark.statistics.resampling import TemperaturePath, refit_temperatures
from benchmark.statistics.selection import rows_kept

REFERENCE_ELEMENTS = 4_000_000
RESAMPLES = 100
MARKERS = "parts"
BEFORE = (
    "debiased_classwise_error",
    "nll_calibration",
    "brier_calibration",
    "accuracy_at_80",
    "accuracy_at_90",
)
AFTER = ("debiased_classwise_error", "nll_calibration", "brier_calibration")
SETS = ("aps_coverage_90", "aps_set_size_90")
HEADER = (
    "| K | accuracy | b | n | m | class-wise | NLL part | Brier part | accuracy at 80% | at 90% "
    "| class-wise, after | NLL part, after | Brier part, after | sets' coverage | sets' size |"
)
CELLS = (
    Cell(2, 0.6, 1.0, "normal", 300, 200),
    Cell(2, 0.9, 0.5, "normal", 1000, 1000),
    Cell(10, 0.6, 0.5, "normal", 300, 200),
    Cell(10, 0.9, 1.0, "normal", 3000, 500),
    Cell(10, 0.9, 2.0, "normal", 1000, 500),
    Cell(10, 0.97, 0.5, "normal", 3000, 1000),
    Cell(100, 0.6, 1.0, "normal", 1000, 500),
    Cell(100, 0.9, 0.5, "normal", 3000, 1000),
)


class Population:
    """A large sample with its probabilities, and every truth that follows from it."""

    def __init__(self, cell: Cell, raised: float) -> None:
        n = REFERENCE_ELEMENTS // cell.n_classes
        self.logits = draw_logits(np.random.default_rng(11), n, cell, raised)
        self.truth = np.exp(log_softmax(cell.inverse * self.logits, axis=1))
        self.cell = cell
        p = np.exp(log_softmax(self.logits, axis=1))
        order = np.argsort(-p, axis=1)
        ranked = np.take_along_axis(p, order, axis=1)
        share = np.random.default_rng(5).random((len(p), 1))
        self.scores = ranked.cumsum(axis=1) - ranked + share * ranked
        self.ranked_truth = np.take_along_axis(self.truth, order, axis=1)

    def truths(self, temperature: float) -> dict[str, float]:
        """Return the metrics at a temperature; the best one is 1/b."""
        said = log_softmax(self.logits / temperature, axis=1)
        p, top = np.exp(said), self.logits.argmax(axis=1)
        losses = self._losses(said, p)
        best = log_softmax(self.cell.inverse * self.logits, axis=1)
        least = self._losses(best, np.exp(best))
        order = np.argsort(-p.max(axis=1))
        right = self.truth[np.arange(len(top)), top][order]
        bins = class_sums(Predictions.from_logits(self.logits, top, temperature)).bins
        gap = np.array(
            [np.bincount(b, d, 15) for b, d in zip(bins, (p - self.truth).T, strict=True)]
        )
        count = np.array([np.bincount(b, minlength=15) for b in bins])
        squared = (gap**2 / np.maximum(count, 1)).sum() / len(top) / len(bins)
        return {
            "debiased_classwise_error": math.sqrt(squared),
            "nll_calibration": losses[0] - least[0],
            "brier_calibration": losses[1] - least[1],
            **{f"accuracy_at_{c}": right[: rows_kept(len(top), c)].mean() for c in (80, 90)},
        }

    def _losses(self, said: np.ndarray, p: np.ndarray) -> tuple[float, float]:
        nll = -(self.truth * said).sum(axis=1).mean()
        return float(nll), float((p**2 - 2 * self.truth * p).sum(axis=1).mean() + 1)

    def of_sets(self, made: PredictionSets) -> tuple[float, float]:
        """Return coverage and size of sets up to a threshold."""
        inside = self.scores <= made.threshold
        held = (self.ranked_truth * inside).sum(axis=1)
        return float(held.mean()), float(inside.sum(axis=1).mean())


def replicate(
    population: Population, raised: float, known: Sequence[dict[str, float]], seed: int
) -> list[float]:
    """Return whether each interval of one simulated run contains its truth."""
    cell = population.cell
    rng = np.random.default_rng([seed, CELLS.index(cell)])
    test, calibration = (draw_split(rng, n, cell, raised) for n in (cell.n, cell.calibration))
    fit = fit_temperature(*calibration)
    refitted = refit_temperatures(*calibration, fit, resamples=RESAMPLES, seed=seed)
    rows, held = check_rows(*test), check_rows(*calibration)
    fixed = TemperaturePath.fixed(Predictions.from_rows(rows, 1.0), RESAMPLES).calibrated_on(held)
    free = TemperaturePath.build(rows, fit.temperature, refitted.resampled)
    before, after = ScoredSplit(fixed, None, seed), ScoredSplit(free, refitted, seed)
    sets = population.of_sets(prediction_sets(fixed.center))
    return [
        *(covers(before.estimate(METRICS[name]), known[0][name]) for name in BEFORE),
        *(covers(after.estimate(METRICS[name]), known[1][name]) for name in AFTER),
        *(covers(before.estimate(METRICS[n]), truth) for n, truth in zip(SETS, sets, strict=True)),
    ]


def line_of(cell: Cell, replications: int) -> str:
    """Simulate one cell and return its line of the table."""
    raised = find_raised(cell)
    population = Population(cell, raised)
    known = [population.truths(temperature) for temperature in (1.0, 1 / cell.inverse)]
    found = [replicate(population, raised, known, seed) for seed in range(replications)]
    facts = [str(cell.n_classes), f"{cell.accuracy:g}", f"{cell.inverse:g}"]
    facts += [f"{cell.n:,}", f"{cell.calibration:,}"]
    return f"| {' | '.join([*facts, *map(_summary, np.array(found).T)])} |"


def _summary(column: np.ndarray) -> str:
    given = column[~np.isnan(column)]
    if len(given) < 0.1 * len(column):
        return "too few"
    text = f"{100 * given.mean():.1f}"
    return text if len(given) == len(column) else f"{text} of {len(given) / len(column):.0%}"


def main() -> None:
    """Parse arguments, simulate, print rows as they come and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=300)
    parser.add_argument("--document", type=Path, help="markdown file with the markers")
    options = parser.parse_args()
    lines = [HEADER, "| --- " * (HEADER.count("|") - 1) + "|"]
    print("\n".join(lines), flush=True)
    for cell in CELLS:
        lines.append(line_of(cell, options.replications))
        print(lines[-1], flush=True)
    if options.document:
        replace_table(options.document, MARKERS, "\n".join(lines))


if __name__ == "__main__":
    main()
