"""Simulate comparisons of two models: rejections without a difference, coverage, power.

    python scripts/study_pairs.py [--replications 1000] [--document docs/statistics.md]

Each model sees one noisy picture of a row's class, the pictures of a row being alike, and says what
follows from it, which is calibrated; its logits are then divided by b. Both are scored on the same
rows, before and after temperature scaling.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from document_tables import replace_table
from scipy.optimize import brentq

from benchmark.statistics import ModelOutputs, Predictions, compare, fit_temperature
from benchmark.statistics.calibration_error import assign_bins

METRIC = "debiased_calibration_error"
ALIKE = 0.7
"""Correlation of the noise of the two pictures of a row."""
REFERENCE_ROWS = 50_000
RESAMPLES = 200
MARKERS = "pairs"
HEADER = "| K | accuracies | true errors | n | m | rejected before | covered before "
HEADER_AFTER = "| rejected after | covered after "


class Model(NamedTuple):
    """How far a picture tells the classes apart, and by what its logits are divided."""

    signal: float
    inverse: float


class Cell(NamedTuple):
    """Accuracies and root mean squared errors of two models, and sizes of the splits."""

    n_classes: int
    accuracies: tuple[float, float]
    errors: tuple[float, float]
    n: int
    calibration: int


EQUAL = [
    Cell(k, accuracies, errors, n, 500)
    for k, accuracies, errors in (
        (2, (0.9, 0.9), (0.0, 0.0)),
        (10, (0.85, 0.85), (0.0, 0.0)),
        (10, (0.9, 0.75), (0.0, 0.0)),
        (10, (0.85, 0.85), (0.05, 0.05)),
        (10, (0.9, 0.75), (0.05, 0.05)),
    )
    for n in (300, 1500, 8000)
]
DIFFERENT = [
    Cell(10, (0.85, 0.85), errors, n, 500)
    for errors in ((0.0, 0.03), (0.03, 0.06))
    for n in (300, 1500, 8000)
]
CELLS = (*EQUAL, *DIFFERENT)


def pictures(
    rng: np.random.Generator, n: int, n_classes: int, models: tuple[Model, Model]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels [n] and the logits [n, K] of both models."""
    labels = rng.integers(0, n_classes, n)
    common = rng.normal(size=(n, n_classes)) * math.sqrt(ALIKE)
    logits = []
    for model in models:
        seen = common + rng.normal(size=common.shape) * math.sqrt(1 - ALIKE)
        seen[np.arange(n), labels] += model.signal
        logits.append(model.signal * seen / model.inverse)
    return labels, logits


def find_model(n_classes: int, accuracy: float, error: float) -> Model:
    """The model of an accuracy whose root mean squared error in 15 bins is `error`."""

    def one(model: Model) -> Predictions:
        rng = np.random.default_rng(5)
        labels, logits = pictures(rng, REFERENCE_ROWS, n_classes, (model, model))
        return Predictions.from_logits(logits[0], labels)

    signal = brentq(
        lambda s: float(one(Model(s, 1.0)).correct.mean()) - accuracy, 0.1, 6, xtol=1e-3
    )
    if error == 0:
        return Model(signal, 1.0)
    calibrated = one(Model(signal, 1.0)).confidence

    def excess(inverse: float) -> float:
        # Scaling keeps the order of confidences of two classes, and nearly that of more.
        confidence = one(Model(signal, inverse)).confidence
        index = assign_bins(confidence, 15, "equal_mass")
        gap = np.bincount(index, confidence - calibrated) / np.bincount(index)
        return math.sqrt(float((gap**2).mean())) - error

    return Model(signal, float(brentq(excess, 0.2, 0.999, xtol=1e-4)))


def replicate(cell: Cell, models: tuple[Model, Model], seed: int, stages: int) -> list[float]:
    """Whether no difference is rejected, and whether the truth is covered, before and after."""
    rng = np.random.default_rng([seed, CELLS.index(cell)])
    test = pictures(rng, cell.n, cell.n_classes, models)
    calibration = pictures(rng, cell.calibration, cell.n_classes, models)
    outputs = [
        ModelOutputs(
            name=str(which),
            test_logits=test[1][which],
            test_labels=test[0],
            test_ids=np.arange(cell.n),
            calibration_logits=calibration[1][which],
            calibration_labels=calibration[0],
            calibration_ids=np.arange(cell.calibration),
            fit=fit_temperature(calibration[1][which], calibration[0]),
        )
        for which in (0, 1)
    ]
    found = []
    for after, errors in ((False, cell.errors), (True, (0.0, 0.0)))[:stages]:
        result = compare(
            *outputs, f"{METRIC}_squared", after_scaling=after, resamples=RESAMPLES, seed=seed
        )
        truth = errors[0] ** 2 - errors[1] ** 2
        if result.p_value is None or result.low is None or result.high is None:
            found += [math.nan, math.nan]
        else:
            found += [result.p_value <= 0.05, result.low <= truth <= result.high]
    return found


def row_of(cell: Cell, replications: int, stages: int) -> str:
    """Simulate one cell and return its line of the table."""
    first, second = (
        find_model(cell.n_classes, accuracy, error)
        for accuracy, error in zip(cell.accuracies, cell.errors, strict=True)
    )
    found = [replicate(cell, (first, second), seed, stages) for seed in range(replications)]
    shares = np.nanmean(np.array(found, float), axis=0)
    facts = [
        str(cell.n_classes),
        " and ".join(f"{value:g}" for value in cell.accuracies),
        " and ".join(f"{value:g}" for value in cell.errors),
        f"{cell.n:,}",
        f"{cell.calibration:,}",
    ]
    return f"| {' | '.join([*facts, *(f'{100 * share:.1f}%' for share in shares)])} |"


def main() -> None:
    """Parse arguments, simulate, print rows as they come and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--cells", help="numbers of cells, such as 3,17; all by default")
    parser.add_argument("--before", action="store_true", help="before scaling only, in a third")
    parser.add_argument("--document", type=Path, help="markdown file with the pairs markers")
    arguments = parser.parse_args()
    header = HEADER + ("" if arguments.before else HEADER_AFTER) + "|"
    lines = [header, "| --- " * (header.count("|") - 1) + "|"]
    print("\n".join(lines), flush=True)
    chosen = range(len(CELLS)) if arguments.cells is None else map(int, arguments.cells.split(","))
    for number in chosen:
        lines.append(row_of(CELLS[number], arguments.replications, 1 if arguments.before else 2))
        print(lines[-1], flush=True)
    if arguments.document:
        replace_table(arguments.document, MARKERS, "\n".join(lines))


if __name__ == "__main__":
    main()
