"""A run's cached logits -> fitted maps and scores, as the record stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from threadpoolctl import threadpool_limits

from benchmark.records import (
    MapFacts,
    RunFolder,
    SplitScores,
    Temperature,
    read_split,
    split_names,
)
from benchmark.statistics import (
    Estimate,
    FittedMaps,
    TemperatureFit,
    check_rows,
    fit_maps,
    refit_temperatures,
    score_other_maps,
    score_split,
)


@dataclass(frozen=True)
class RunScores:
    """What a record holds of a run's logits."""

    temperature: Temperature
    maps: dict[str, MapFacts]
    scores: dict[str, SplitScores]


def score_run(folder: RunFolder) -> RunScores:
    """Fit the maps on the calibration split and score every other split.

    Needs only the logits file: no model, no GPU, no torch. The same logits give the same scores,
    bit for bit, however many threads the process has. The maps are always those of the clean
    calibration split, also for shifted test sets.

    Raises:
        ResultsError: the logits file is missing or damaged.
        ValueError: logits or labels are invalid.
    """
    # Sums in BLAS depend on its number of threads in their last digits, and a record must not.
    with threadpool_limits(limits=1):
        return _score(folder)


def _score(folder: RunFolder) -> RunScores:
    calibration = read_split(folder, "calibration")
    maps = fit_maps(check_rows(calibration.logits, calibration.labels))
    fit = maps.temperature
    refitted = refit_temperatures(calibration.logits, calibration.labels, fit)
    scores = {}
    for name in split_names(folder):
        if name == "calibration":
            continue
        split = read_split(folder, name)
        estimates = score_split(
            split.logits, split.labels, calibration.logits, calibration.labels, fit,
            refitted=refitted,
        )  # fmt: skip
        others = score_other_maps(split.logits, split.labels, maps)
        scores[name] = SplitScores(
            n=len(split.labels),
            shifted=name != "test",
            maps={
                "none": _known(estimates.before),
                "temperature": _known(estimates.after),
                **{name: _known(found) for name, found in others.estimates.items()},
            },
            against_temperature={n: _known(found) for n, found in others.differences.items()},
        )
    return RunScores(_temperature(fit, refitted.estimate), _facts(maps), scores)


def _temperature(fit: TemperatureFit, interval: Estimate) -> Temperature:
    return Temperature(
        value=fit.temperature,
        low=interval.low,
        high=interval.high,
        no_interval=interval.no_interval,
        status=fit.status,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
        gradient=fit.gradient,
        iterations=fit.iterations,
        n=fit.n_rows,
    )


def _facts(maps: FittedMaps) -> dict[str, MapFacts]:
    fitted = {
        name: MapFacts(parameters=fit.parameters, cross_validated_nll=fit.cross_validated_nll)
        for name, fit in maps.fits.items()
    }
    left_out = {name: MapFacts(unsuitable=reason) for name, reason in maps.unsuitable.items()}
    return fitted | left_out


def _known(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Leave out a metric that is undefined on this split (NaN), unless it says what is lacking."""
    return {
        name: one
        for name, one in estimates.items()
        if not isnan(one.value) or one.no_interval is not None
    }
