"""Records as one tidy frame: a row per run and scored split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.records.files import ResultsError
from benchmark.records.folder import RunFolder, find_runs, read_records, suites_of
from benchmark.records.record import MapFacts, Record, SplitScores, Temperature
from benchmark.records.suite_members import runs_of_suite, suite_members
from benchmark.records.timing import Timing
from benchmark.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("low", "high", "floor_mean", "floor_q95", "null_variance", "variance_slope", "no_interval")
"""What may be appended to the name of a metric's column."""

_RUN_KEYS = ("suite", "dataset", "split", "model")


def load_results(
    results: Path | str = "results", suite: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Return one tidy frame of a suite: a row per run and scored split.

    Args:
        results: A results tree, the folder of a suite, or that of a run.
        suite: Whose runs, of a tree; several names for several suites, told apart by the column
            `suite`. A suite holds what its registry declares, whatever else was run.

    Columns: `suite model dataset seed status`; the facts `mixer family modality parameters
    pretraining_examples loss label_smoothing mixup cutmix distillation teacher_mixer
    evaluation_resolution twin`; `split shifted n`; for each metric
    and each calibration map `<metric>_<map>`, such as `ece_15_none` and `ece_15_temperature`, and,
    where they exist, the same with `_low`, `_high`, `_floor_mean`, `_floor_q95` appended, and, of
    the debiased squared error, `_null_variance` and `_variance_slope`; where rows do not carry an
    interval, `_no_interval` says in words why;
    `<metric>_<map>_gain` with `_low` and `_high`, the metric minus that after temperature scaling;
    `cross_validated_nll_<map>` on the calibration split; `temperature`, `temperature_low`,
    `temperature_high`, `temperature_status`, `calibration_rows`; `latency_p50_ms`,
    `latency_p90_ms`, `throughput` (samples/s), `peak_memory_mb`, `timing_unstable`; `folder`,
    where the record and the logits lie; `reason`, why a run has no result. A run without scores
    has one row with an empty split, so that it can be listed; never imputed. Each is described in
    docs/columns.md, and by `column_facts`.

    Raises:
        ResultsError: the tree holds several suites and none is named, or not the one that is.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for name, folders in _chosen(Path(results), suite):
        for folder, record in read_records(folders):
            rows.extend(row | {"suite": name or row["suite"]} for row in tidy_rows(folder, record))
    return pd.DataFrame(rows)


def _chosen(
    place: Path, suite: str | Sequence[str] | None
) -> list[tuple[str | None, list[RunFolder]]]:
    """Return the runs to load by suite; without a name where the place is within a suite."""
    suites = suites_of(place) if place.is_dir() else []
    if suite is not None:
        wanted = [suite] if isinstance(suite, str) else list(suite)
        unknown = [name for name in wanted if name not in suites]
        if unknown:
            there = f"there are: {', '.join(suites)}" if suites else "it holds no suite"
            raise ResultsError(f"{place}: no suite '{unknown[0]}'; {there}")
        return [(name, runs_of_suite(place, name)) for name in wanted]
    if len(suites) > 1:
        raise ResultsError(
            f"{place} holds several suites: {', '.join(suites)}. Choose one: {place / suites[0]}, "
            f"or load_results({str(place)!r}, suite={suites[0]!r}), which takes a list, too"
        )
    if suites:
        return [(suites[0], runs_of_suite(place, suites[0]))]
    whole = place.resolve()
    if suite_members(whole.parent, whole.name) is not None:
        return [(whole.name, runs_of_suite(whole.parent, whole.name))]
    runs = find_runs(place)
    above = sorted({str(run.path.parents[2]) for run in runs})
    if len(above) > 1:
        raise ResultsError(f"{place} holds several suites, choose one: {', '.join(above)}")
    return [(None, runs)]


def tidy_rows(
    folder: RunFolder, record: Record, wanted: Callable[[str, str], bool] | None = None
) -> list[dict[str, Any]]:
    """Return one record's rows of the frame that `load_results` describes.

    Args:
        folder: where the record lies.
        record: what it says.
        wanted: says of a metric and a calibration map whether its columns are; None: all are.
    """
    common: dict[str, Any] = {
        **record.model_dump(include={"suite", "model", "dataset", "seed", "status"}),
        **record.facts.model_dump(exclude={"source", "reference"}),
        **_temperature_columns(record.temperature),
        **_cross_validation_columns(record.maps),
        **_timing_columns(record.timing),
        "reason": None if record.failure is None else record.failure.message,
        "folder": str(folder.path),
    }
    if not record.scores:
        return [{**common, "split": None, "shifted": None, "n": 0}]
    return [
        {**common, "split": split, "shifted": scores.shifted, "n": scores.n}
        | _metric_columns(scores, wanted or _everything)
        for split, scores in record.scores.items()
    ]


def _temperature_columns(temperature: Temperature | None) -> dict[str, Any]:
    if temperature is None:
        return {"temperature": None}
    return {
        "temperature": temperature.value,
        "temperature_low": temperature.low,
        "temperature_high": temperature.high,
        "temperature_no_interval": temperature.no_interval,
        "temperature_status": temperature.status,
        "calibration_rows": temperature.n,
    }


def _timing_columns(timing: Timing | None) -> dict[str, Any]:
    if timing is None:
        return {"latency_p50_ms": None}
    return {
        "latency_p50_ms": timing.latency_ms(50),
        "latency_p90_ms": timing.latency_ms(90),
        "throughput": None if timing.best_offline is None else timing.best_offline.samples_per_s,
        "peak_memory_mb": timing.peak_memory_mb,
        "timing_unstable": bool(timing.unstable),
    }


def _cross_validation_columns(maps: Mapping[str, MapFacts]) -> dict[str, Any]:
    return {
        f"cross_validated_nll_{name}": facts.cross_validated_nll
        for name, facts in maps.items()
        if facts.cross_validated_nll is not None
    }


def _everything(metric: str, map_name: str) -> bool:
    return True


def _metric_columns(scores: SplitScores, wanted: Callable[[str, str], bool]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for ending, by_map in (("", scores.maps), ("_gain", scores.against_temperature)):
        for map_name, estimates in by_map.items():
            for metric, estimate in estimates.items():
                if wanted(metric, map_name):
                    columns |= _estimate_columns(f"{metric}_{map_name}{ending}", estimate)
    return columns


def _estimate_columns(name: str, estimate: Estimate) -> dict[str, float]:
    parts = {f"{name}_{part}": getattr(estimate, part) for part in PARTS}
    known = {part: value for part, value in parts.items() if value is not None}
    return {name: estimate.value, **known}


def average_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Average completed runs over seeds: one row per (suite, dataset, split, model).

    The one averaging that tables, figures and the test of the claim share. Numbers are averaged as
    their metric says (`Metric.over_seeds`): most by their mean, the debiased calibration error by
    the signed root of the mean of its signed squares, for the squares are what is unbiased. Bounds
    of intervals are averaged in the same way, which takes the seeds' errors as fully correlated
    and so is conservative; where a seed has none, and a reason, so has the average. `seeds` counts
    the runs; of what is no number the first value is kept.

    Args:
        frame: From `load_results`; runs without scores are left out.
    """
    import numpy as np
    import pandas as pd

    done = frame[(frame["status"] == "completed") & frame["split"].notna()].copy()
    keys = [name for name in _RUN_KEYS if name in done]
    numbers = [
        name
        for name in done.columns
        if name not in (*keys, "seed", "shifted")
        and pd.api.types.is_numeric_dtype(done[name])
        and not pd.api.types.is_bool_dtype(done[name])
    ]
    rooted = [name for name in numbers if _is_rooted(name)]
    done[rooted] = np.sign(done[rooted]) * done[rooted] ** 2
    groups = done.groupby(keys, sort=True, observed=True)
    means = groups[numbers].mean()
    for reason in (name for name in done.columns if name.endswith("_no_interval")):
        # A mean over the seeds that have an interval would say more than is known.
        bounds = [reason.replace("_no_interval", end) for end in ("_low", "_high")]
        lacking = groups[reason].count() > 0
        means.loc[lacking, [name for name in bounds if name in means]] = np.nan
    means[rooted] = np.sign(means[rooted]) * np.sqrt(means[rooted].abs())
    rest = [name for name in done.columns if name not in (*keys, *numbers, "seed")]
    parts = [means, groups[rest].first(), groups["seed"].nunique().rename("seeds")]
    return pd.concat(parts, axis=1).reset_index()


def _is_rooted(column: str) -> bool:
    """Say whether a column holds a metric, or a bound of it, that is averaged by its squares."""
    from benchmark.statistics import METRICS  # slow to import, and not needed to read records

    return any(
        column.startswith(f"{metric.name}_")
        and not column.startswith(f"{metric.name}_squared_")
        and "_gain" not in column
        for metric in METRICS.values()
        if metric.over_seeds == "root_mean_square"
    )
