"""A run's cached logits -> fitted temperature and scores, as the record stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from benchmark import intervals
from benchmark.logits_store import read_split, split_names
from benchmark.results import Estimate, SplitScores, Temperature
from benchmark.temperature import fit_temperature


def score_run(folder: Path) -> tuple[Temperature, dict[str, SplitScores]]:
    """Fit the temperature on the calibration split and score every other split.

    Needs only the logits file: no model, no GPU, no torch. The temperature is always that
    of the clean calibration split, also for shifted test sets.

    Raises:
        ResultsError: the logits file is missing or damaged.
        ValueError: logits or labels are invalid.
    """
    calibration = read_split(folder, "calibration")
    fit = fit_temperature(calibration.logits, calibration.labels)
    temperature: intervals.Estimate | None = None
    scores = {}
    for name in split_names(folder):
        if name == "calibration":
            continue
        split = read_split(folder, name)
        result = intervals.score_split(
            split.logits, split.labels, calibration.logits, calibration.labels, fit
        )
        temperature = temperature or result.temperature
        scores[name] = SplitScores(
            n=len(split.labels),
            shifted=name != "test",
            before=_stored(result.before),
            after=_stored(result.after),
        )
    return (
        Temperature(
            value=fit.temperature,
            low=None if temperature is None else temperature.low,
            high=None if temperature is None else temperature.high,
            status=fit.status,
            nll_before=fit.nll_before,
            nll_after=fit.nll_after,
            gradient=fit.gradient,
            iterations=fit.iterations,
            n=len(calibration.labels),
        ),
        scores,
    )


def _stored(estimates: Mapping[str, intervals.Estimate]) -> dict[str, Estimate]:
    """Convert estimates; a metric that is undefined on this split (NaN) is left out."""
    return {
        name: Estimate(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            floor_mean=estimate.noise_floor_mean,
            floor_q95=estimate.noise_floor_q95,
        )
        for name, estimate in estimates.items()
        if not math.isnan(estimate.value)
    }
