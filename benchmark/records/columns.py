"""What every column of the tidy frame is: those of the run here, scores by their metric and map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from benchmark.statistics import MAPS, METRICS, Influence, Metric, Share

Kind = Literal["text", "number", "whole number", "truth value"]


@dataclass(frozen=True)
class ColumnFacts:
    """One column, or those of one pattern.

    Attributes:
        name: of the column; `<map>` stands for any map's name.
        meaning: what it holds, for people.
        kind: of its values.
        unit: of what it holds; shares and probabilities have none.
        bounds: least and greatest value; None: of text.
        better: which way is better; empty: neither.
        missing: when it has no value; empty: never.
    """

    name: str
    meaning: str
    kind: Kind
    unit: str = ""
    bounds: tuple[float, float] | None = None
    better: str = ""
    missing: str = ""


def _text(name: str, meaning: str, missing: str = "") -> ColumnFacts:
    return ColumnFacts(name, meaning, "text", missing=missing)


def _number(
    name: str, meaning: str, missing: str = "", unit: str = "", better: str = ""
) -> ColumnFacts:
    return ColumnFacts(name, meaning, "number", unit, (0, math.inf), better, missing)


def _count(name: str, meaning: str, missing: str = "", unit: str = "") -> ColumnFacts:
    return ColumnFacts(name, meaning, "whole number", unit, (0, math.inf), "", missing)


def _truth(name: str, meaning: str, missing: str = "") -> ColumnFacts:
    return ColumnFacts(name, meaning, "truth value", missing=missing)


_UNKNOWN = "not known"
_NO_FIT = "the run has no fitted temperature"
_NO_TIMING = "not timed"

RUN_COLUMNS = (
    _text("suite", "suite that the run was loaded as part of"),
    _text("model", "the model's name"),
    _text("dataset", "the dataset's name"),
    _count("seed", "seed of the training"),
    _text("status", "completed, failed, skipped or unavailable"),
    _text("reason", "why the run has no result", "it has one"),
    _text("folder", "where its record and logits lie"),
    _text("split", "test, or a shifted test set such as noise-2", "the run has no scores"),
    _truth("shifted", "whether the split was corrupted on purpose", "the run has no scores"),
    _count("n", "rows of the split; 0 without scores", unit="rows"),
    _text("mixer", "how tokens or pixels exchange information", _UNKNOWN),
    _text("family", "checkpoints of one architecture paper share one", _UNKNOWN),
    _text("modality", "image or text", _UNKNOWN),
    _count("parameters", "parameters of the model", "no model was built"),
    _number("pretraining_examples", "distinct examples; 0: from scratch", _UNKNOWN, "examples"),
    _text("loss", "of the last stage with labels; none: it saw none", _UNKNOWN),
    _truth("label_smoothing", "whether labels were smoothed", _UNKNOWN),
    _truth("mixup", "whether images were added to each other", _UNKNOWN),
    _truth("cutmix", "whether parts of images were pasted into each other", _UNKNOWN),
    _truth("distillation", "whether it was distilled from another model", _UNKNOWN),
    _text("teacher_mixer", "mixer of what it was distilled from", "not distilled, or not known"),
    _count("evaluation_resolution", "at which its authors evaluate it", _UNKNOWN, "pixels a side"),
    _text("twin", "the model that differs in the mixer and little else", "it has none"),
    _number("temperature", "fitted on the calibration rows; may be infinite", _NO_FIT),
    _number("temperature_low", "lower end of its 95% interval", "it has none"),
    _number("temperature_high", "upper end of its 95% interval", "it has none"),
    _text("temperature_no_interval", "why it has no interval", "it has one"),
    _text("temperature_status", "converged, at_zero, at_infinity or flat", _NO_FIT),
    _count("calibration_rows", "rows it was fitted on", _NO_FIT, "rows"),
    _number("latency_p50_ms", "median time of one row, one at a time", _NO_TIMING, "ms", "lower"),
    _number(
        "latency_p90_ms", "90th percentile of the same", "too few queries, or not timed", "ms",
        "lower",
    ),
    _number("throughput", "at the best batch size", _NO_TIMING, "rows/s", "higher"),
    _number("peak_memory_mb", "of the process or device", "not measured", "MB", "lower"),
    _truth("timing_unstable", "whether anything disturbed the timing", _NO_TIMING),
    _number(
        "cross_validated_nll_<map>",
        "negative log-likelihood of held-out calibration rows after the map",
        "the map was not fitted", "nats", "lower",
    ),
)  # fmt: skip
"""Columns of the run and its split."""

ENDINGS = {
    "low": "lower end of the 95% interval",
    "high": "upper end of the 95% interval",
    "no_interval": "why it has no interval, in words",
    "floor_mean": "mean of the metric if the model were calibrated",
    "floor_q95": "95% quantile of the same",
    "null_variance": "variance of the estimate if the truth were 0",
    "variance_slope": "by how much that variance grows with the truth",
}
"""What is appended to the name of a score's column; see `statistics.Estimate`."""


def score_columns() -> tuple[ColumnFacts, ...]:
    """Return the columns `<metric>_<map>`, a pattern for each metric."""
    return tuple(_score(metric) for metric in METRICS.values())


def gain_columns() -> tuple[ColumnFacts, ...]:
    """Return the columns `<metric>_<map>_gain`, a pattern for each metric that has them."""
    found = (metric for metric in METRICS.values() if _has_gain(metric))
    return tuple(
        ColumnFacts(
            f"{metric.name}_<map>_gain",
            f"{metric.title}: after the map minus after the temperature, on the same rows",
            "number",
            _unit(metric),
            (metric.bounds[0] - metric.bounds[1], metric.bounds[1] - metric.bounds[0]),
            metric.better if metric.better in ("lower", "higher") else "",
            "the map was not fitted",
        )
        for metric in found
    )


def _has_gain(metric: Metric) -> bool:
    return isinstance(metric.interval, Share | Influence) and not metric.scaling_only


def _score(metric: Metric) -> ColumnFacts:
    absent = ["the run has no scores, or the map was not fitted"]
    absent += ["there are more than two classes"] if metric.two_classes else []
    absent += ["the map is another than none or temperature"] if metric.scaling_only else []
    absent += ["it is undefined on these rows"]
    better = {"zero": "nearer to 0", None: ""}.get(metric.better, metric.better) or ""
    return ColumnFacts(
        f"{metric.name}_<map>", metric.title, "number", _unit(metric), metric.bounds, better,
        "; ".join(absent),
    )  # fmt: skip


def _unit(metric: Metric) -> str:
    """Return the unit of what records hold: shares, which pages show as percentages."""
    return "" if metric.unit.scale == 100 else metric.unit.name


def column_facts(name: str) -> ColumnFacts | None:
    """Return what a column of the tidy frame is; None: there is no such column.

    >>> column_facts("accuracy_none_low").meaning
    'accuracy: lower end of the 95% interval'
    >>> column_facts("ece_15_nothing") is None
    True
    """
    exact = {facts.name: facts for facts in RUN_COLUMNS}
    if name in exact:
        return exact[name]
    for facts in (*RUN_COLUMNS, *gain_columns(), *score_columns()):
        for map_name in MAPS if "<map>" in facts.name else ():
            whole = facts.name.replace("<map>", map_name)
            ending = name.removeprefix(whole).removeprefix("_")
            if name == whole or (name == f"{whole}_{ending}" and ending in ENDINGS):
                return _named(facts, name, ending)
    return None


def _named(facts: ColumnFacts, name: str, ending: str) -> ColumnFacts:
    if not ending:
        return ColumnFacts(name, *_rest(facts))
    kind: Kind = "text" if ending == "no_interval" else "number"
    bounds = None if kind == "text" else facts.bounds
    if ending in ("null_variance", "variance_slope"):
        bounds = (0, math.inf)
    return ColumnFacts(
        name, f"{facts.meaning}: {ENDINGS[ending]}", kind, facts.unit, bounds,
        missing="there is none",
    )  # fmt: skip


def _rest(facts: ColumnFacts) -> tuple[str, Kind, str, tuple[float, float] | None, str, str]:
    return facts.meaning, facts.kind, facts.unit, facts.bounds, facts.better, facts.missing
