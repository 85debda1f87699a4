"""A run's cached logits -> fitted temperature and scores, as the record stores them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from benchmark.records import (
    RunFolder,
    SplitScores,
    Temperature,
    read_split,
    split_names,
)
from benchmark.statistics import (
    Estimate,
    fit_temperature,
    refit_temperatures,
    score_split,
)


def score_run(folder: RunFolder) -> tuple[Temperature, dict[str, SplitScores]]:
    """Fit the temperature on the calibration split and score every other split.

    Needs only the logits file: no model, no GPU, no torch. The temperature is always that
    of the clean calibration split, also for shifted test sets.

    Raises:
        ResultsError: the logits file is missing or damaged.
        ValueError: logits or labels are invalid.
    """
    calibration = read_split(folder, "calibration")
    fit = fit_temperature(calibration.logits, calibration.labels)
    refitted = refit_temperatures(calibration.logits, calibration.labels, fit)
    results = {}
    scores = {}
    for name in split_names(folder):
        if name == "calibration":
            continue
        split = read_split(folder, name)
        results[name] = score_split(
            split.logits,
            split.labels,
            calibration.logits,
            calibration.labels,
            fit,
            refitted=refitted,
        )
        scores[name] = SplitScores(
            n=len(split.labels),
            shifted=name != "test",
            before=_stored(results[name].before),
            after=_stored(results[name].after),
        )
    interval = results["test"].temperature
    temperature = Temperature(
        value=fit.temperature,
        low=interval.low,
        high=interval.high,
        status=fit.status,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
        gradient=fit.gradient,
        iterations=fit.iterations,
        n=len(calibration.labels),
    )
    return temperature, scores


def _stored(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Leave out a metric that is undefined on this split (NaN)."""
    return {name: one for name, one in estimates.items() if not isnan(one.value)}
