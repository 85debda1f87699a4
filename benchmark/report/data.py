"""What a report needs of a result tree: the tidy frame, its mean over seeds, what is missing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.records import (
    PARTS,
    SuiteMembers,
    average_seeds,
)
from benchmark.report.row_sources import RowSources
from benchmark.report.run_method import RunMethod

if TYPE_CHECKING:
    import pandas as pd

MARKER = "report.json"
"""A file every report folder has; a folder without it is never replaced."""

SHOWN = (
    "accuracy",
    "nll",
    "brier",
    "ece_15",
    "debiased_calibration_error",
    "signed_gap",
)
"""The metrics that cross-model tables and figures show; the records hold more."""

MAPS = ("none", "temperature")
"""The calibration maps of cross-model tables; what others gain has a table of its own."""

MAP_METRICS = ("nll", "brier", "debiased_calibration_error")
"""The metrics of that table."""


def is_shown(metric: str, map_name: str) -> bool:
    """Say whether a report has a use for a metric after a calibration map."""
    return map_name in MAPS or metric in MAP_METRICS


FACTS = ("mixer", "family", "modality", "parameters", "pretraining_examples")
UNKNOWN = "unknown"
"""Shown for a mixer, family or modality that a record does not have."""

TIMING = ("latency_p50_ms", "latency_p90_ms", "throughput", "peak_memory_mb")

MAX_LOGITS_FILES = 400
"""With more runs than this a report does not read, and so not verify, the logits of each."""


class ReportError(ValueError):
    """The report cannot be written; the message says why and what to do."""


@dataclass(frozen=True)
class Problem:
    """A run without a result, and why."""

    run: str
    status: str
    stage: str
    reason: str


@dataclass(frozen=True)
class ReportData:
    """One suite's results as the report uses them.

    Attributes:
        suite: name of the suite.
        root: folder of the suite below results/.
        frame: one row per run and scored split (see `results.load_results`).
        problems: runs that failed, were skipped, or are expected and not there.
        timing_problems: runs that have scores but no timing, with the reason.
        runs: number of runs that were completed, failed, ...
        machines: hardware and software the runs were made on, most frequent first.
        timed_on: dataset, machine and model of each timing there is, sorted.
        weights: how those of each model's checkpoint were read, where a record says so.
        label_names: class names by dataset.
        notes: by dataset, what its runs say of the rows: left out, held out, masked.
        finished: first and last time a run finished, ISO 8601.
        majority: by dataset, the share of its test rows that are of their most frequent class.
        members: the runs that the suite consists of; None: whatever is there.
        methods: how each run was made.
    """

    suite: str
    root: Path
    frame: pd.DataFrame
    problems: tuple[Problem, ...] = ()
    timing_problems: tuple[Problem, ...] = ()
    runs: Counter[str] = field(default_factory=Counter)
    machines: tuple[str, ...] = ()
    timed_on: tuple[tuple[str, str, str], ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    label_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    finished: tuple[str, str] = ("", "")
    row_sources: RowSources = field(default_factory=RowSources)
    majority: dict[str, float] = field(default_factory=dict)
    members: SuiteMembers | None = None
    methods: tuple[RunMethod, ...] = ()

    @property
    def incomplete(self) -> str:
        """Say how many declared runs have no result; empty where all have."""
        return "" if self.members is None else self.members.incomplete(self.runs["completed"])

    @property
    def reads_logits(self) -> bool:
        """Whether there are so few runs that the logits of each are read."""
        return len(self.in_distribution) <= MAX_LOGITS_FILES

    def relative(self, folder: str) -> str:
        """Return a run's folder as seen from the suite's, which may hold runs of another one."""
        return os.path.relpath(folder, self.root)

    @cached_property
    def scored(self) -> pd.DataFrame:
        """The rows on test splits: completed runs only, their gaps in facts named."""
        frame = self.frame
        return name_unknown(frame[frame["split"].notna() & (frame["status"] == "completed")])

    @cached_property
    def in_distribution(self) -> pd.DataFrame:
        """The scored rows of unshifted test splits."""
        scored = self.scored
        return scored[scored["split"] == "test"]


def with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that no record had, empty, so that callers need not ask for each."""
    wanted = ["suite", "model", "dataset", "seed", "status", "split", "shifted", "n", "folder"]
    wanted += [*FACTS, *TIMING, "timing_reasons", "temperature_status"]
    wanted += [f"temperature{end}" for end in ("", "_low", "_high", "_no_interval")]
    for metric in SHOWN:
        for map_name in MAPS:
            wanted += [f"{metric}_{map_name}", *(f"{metric}_{map_name}_{part}" for part in PARTS)]
    absent = [column for column in wanted if column not in frame]
    return frame.reindex(columns=[*frame.columns, *absent])


def name_unknown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `UNKNOWN` for what imported logits do not say of their model."""
    names = ["mixer", "family", "modality"]
    known = frame[names].astype(object)
    return frame.assign(**known.where(known.notna(), UNKNOWN))


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples; their fields are the frame's columns."""
    return list(frame.itertuples(index=False))


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average each model's runs over seeds: one row per (dataset, split, model).

    To what `records.average_seeds` says of every column `c` are added `c_least` and `c_most`
    (lowest and highest bound of any seed, used to decide what may stand out as best) and `c_sd`
    (standard deviation over seeds, missing with one seed).
    """
    import pandas as pd

    values = [f"{metric}_{map_name}" for metric in SHOWN for map_name in MAPS]
    values += ["temperature", *TIMING]
    bounds = [value + end for value in values for end in ("_low", "_high") if value + end in rows]
    numbers = dict.fromkeys([*values, *bounds], float)
    rows = rows.astype(numbers)
    groups = rows.groupby(["dataset", "split", "model"], sort=True, observed=True)
    lows = [name for name in bounds if name.endswith("_low")]
    highs = [name for name in bounds if name.endswith("_high")]
    parts = [
        groups[values].std().add_suffix("_sd"),
        groups[lows].min().rename(columns=lambda name: name.replace("_low", "_least")),
        groups[highs].max().rename(columns=lambda name: name.replace("_high", "_most")),
        groups["timing_reasons"].agg(_any_reason),
    ]
    averaged = average_seeds(rows.drop(columns="timing_reasons"))
    extra = pd.concat(parts, axis=1).reset_index()
    merged = averaged.merge(extra, on=["dataset", "split", "model"], validate="one_to_one")
    return merged.copy()  # in one piece: pandas warns of each column added to one of many


def _any_reason(reasons: Iterable[str]) -> str:
    """Join the seeds' distinct reasons for mistrusting their timing; '' when there is none."""
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
