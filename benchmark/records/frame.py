"""Records as one tidy frame: a row per run and scored split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.records.folder import RunFolder, find_records
from benchmark.records.record import Record, SplitScores, Temperature
from benchmark.records.timing import Timing

if TYPE_CHECKING:
    import pandas as pd


def load_results(results: Path | str = "results") -> pd.DataFrame:
    """Return one tidy frame: a row per run and scored split.

    Columns: `suite model dataset seed status`; the facts `mixer family modality parameters
    pretraining_examples label_smoothing mixup distillation`; `split shifted n`; for each
    metric `<metric>_before`, `<metric>_after` and, where they exist, the same with `_low`,
    `_high`, `_floor_mean`, `_floor_q95` appended; `temperature`, `temperature_low`,
    `temperature_high`, `temperature_status`; `latency_p50_ms`, `latency_p90_ms`,
    `throughput` (samples/s), `peak_memory_mb`, `timing_unstable`; `folder`, where the record
    and the logits lie; `reason`, why a run has no result. A run without scores has one row
    with an empty split, so that it can be listed; never imputed.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for folder, record in find_records(Path(results)):
        rows.extend(tidy_rows(folder, record))
    return pd.DataFrame(rows)


def tidy_rows(folder: RunFolder, record: Record) -> list[dict[str, Any]]:
    """Return one record's rows of the frame that `load_results` describes."""
    common: dict[str, Any] = {
        **record.model_dump(include={"suite", "model", "dataset", "seed", "status"}),
        **record.facts.model_dump(exclude={"source", "reference"}),
        **_temperature_columns(record.temperature),
        **_timing_columns(record.timing),
        "reason": None if record.failure is None else record.failure.message,
        "folder": str(folder.path),
    }
    if not record.scores:
        return [{**common, "split": None, "shifted": None, "n": 0}]
    return [
        {**common, "split": split, "shifted": scores.shifted, "n": scores.n}
        | _metric_columns(scores)
        for split, scores in record.scores.items()
    ]


def _temperature_columns(temperature: Temperature | None) -> dict[str, Any]:
    if temperature is None:
        return {"temperature": None}
    return {
        "temperature": temperature.value,
        "temperature_low": temperature.low,
        "temperature_high": temperature.high,
        "temperature_status": temperature.status,
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


def _metric_columns(scores: SplitScores) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for moment, estimates in (("before", scores.before), ("after", scores.after)):
        for metric, estimate in estimates.items():
            columns[f"{metric}_{moment}"] = estimate.value
            for part in ("low", "high", "floor_mean", "floor_q95"):
                bound = getattr(estimate, part)
                if bound is not None:
                    columns[f"{metric}_{moment}_{part}"] = bound
    return columns
