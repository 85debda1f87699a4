"""What a report needs of a result tree: the tidy frame, its mean over seeds, what is missing."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.markup import visible
from benchmark.records import (
    PARTS,
    Record,
    ResultsError,
    RunFolder,
    average_seeds,
    read_split,
    runs_of_suite,
    suites_of,
    tidy_rows,
    verify_logits,
)
from benchmark.report.machines import describe_machine
from benchmark.report.row_sources import RowSources

if TYPE_CHECKING:
    import pandas as pd

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
_TEXTS = ("model", "dataset", "family", "suite")
UNKNOWN = "unknown"
"""Shown for a mixer, family or modality that a record does not have."""

TIMING = ("latency_p50_ms", "latency_p90_ms", "throughput", "peak_memory_mb")
_CHUNK_ROWS = 5_000
PARALLEL_RECORDS = 2_000
"""More records than this are read by several processes."""

MAX_LOGITS_FILES = 400
"""With more runs than this a report does not read, and so not verify, the logits of each."""

_BLOCK = 500


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
        weights: how those of each model's checkpoint were read, where a record says so.
        label_names: class names by dataset.
        notes: by dataset, what its runs say of the rows: left out, held out, masked.
        finished: first and last time a run finished, ISO 8601.
        majority: by dataset, the share of its test rows that are of their most frequent class.
    """

    suite: str
    root: Path
    frame: pd.DataFrame
    problems: tuple[Problem, ...] = ()
    timing_problems: tuple[Problem, ...] = ()
    runs: Counter[str] = field(default_factory=Counter)
    machines: tuple[str, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    label_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    finished: tuple[str, str] = ("", "")
    row_sources: RowSources = field(default_factory=RowSources)
    majority: dict[str, float] = field(default_factory=dict)

    @property
    def reads_logits(self) -> bool:
        """Whether there are so few runs that the logits of each are read."""
        return len(self.in_distribution) <= MAX_LOGITS_FILES

    def relative(self, folder: str) -> str:
        """Return a run's folder as seen from the suite's folder."""
        return str(Path(folder).relative_to(self.root))

    @property
    def scored(self) -> pd.DataFrame:
        """The rows on test splits: completed runs only, their gaps in facts named."""
        frame = self.frame
        return name_unknown(frame[frame["split"].notna() & (frame["status"] == "completed")])

    @property
    def in_distribution(self) -> pd.DataFrame:
        """The scored rows of unshifted test splits."""
        scored = self.scored
        return scored[scored["split"] == "test"]


def suite_names(results: Path) -> list[str]:
    """Return the names of the suites below `results`, sorted.

    Raises:
        ReportError: the folder is missing or holds no suite.
    """
    if not results.is_dir():
        raise ReportError(f"{results}: no such folder; run benchmark/run.py first")
    names = suites_of(results)
    if not names:
        raise ReportError(
            f"{results}: no record.json at <suite>/<model>/<dataset>/seed-<n>/;"
            " run benchmark/run.py first, or point --results at the folder that holds the suites"
        )
    return names


def read_suite(results: Path, suite: str, expected: Iterable[str] = ()) -> ReportData:
    """Read the records of `results/suite`, one at a time, so that memory stays small.

    Args:
        results: folder that holds one folder per suite.
        suite: the suite's name.
        expected: names (model/dataset/seed-n) of planned runs; those without a record are
            listed as missing.

    Raises:
        ReportError: there is no such suite, or it has no record.
    """
    known = suite_names(results)
    if suite not in known:
        raise ReportError(f"{results}: no suite '{suite}'; there are: {', '.join(known)}")
    root = results / suite
    folders = runs_of_suite(results, suite)
    if len(folders) <= PARALLEL_RECORDS:
        verifies = len(folders) <= MAX_LOGITS_FILES
        parts = [_read_folders(root, folders, verifies=verifies)]
    else:
        parts = _read_in_processes(root, folders)
    return _combine(parts, suite, root, expected)


def _read_in_processes(root: Path, folders: list[RunFolder]) -> list[_Reader]:
    """Read with one process per core: records take a millisecond or two each to check."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    blocks = [folders[i : i + _BLOCK] for i in range(0, len(folders), _BLOCK)]
    workers = min(len(os.sched_getaffinity(0)), 8) if hasattr(os, "sched_getaffinity") else 2
    # A forked copy of a process with running threads can hang; a fresh one cannot.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(partial(_read_folders, root), blocks))


def _read_folders(root: Path, folders: list[RunFolder], *, verifies: bool = False) -> _Reader:
    reader = _Reader(root, verifies=verifies)
    for folder in folders:
        reader.add(folder)
    reader.flush()
    return reader


class _Reader:
    """Collects what the report needs of each record, and lets the record go."""

    def __init__(self, root: Path, *, verifies: bool) -> None:
        self.root, self.verifies = root, verifies
        self.rows: list[dict[str, Any]] = []
        self.chunks: list[pd.DataFrame] = []
        self.problems: list[Problem] = []
        self.timing_problems: list[Problem] = []
        self.runs: Counter[str] = Counter()
        self.machines: Counter[str] = Counter()
        self.weights: dict[str, str] = {}
        self.label_names: dict[str, tuple[str, ...]] = {}
        self.notes: dict[str, dict[str, None]] = defaultdict(dict)
        self.finished: list[str] = []
        self.names: set[str] = set()
        self.majority: dict[str, float] = {}

    def add(self, folder: RunFolder) -> None:
        name = folder.name.partition("/")[2]
        try:
            record = folder.read_record()
        except ResultsError as error:
            self._leave_out(name, "unreadable", "record", error)
            return
        if record is None:  # removed since the folder was listed
            return
        if self.verifies and record.status == "completed":
            try:
                verify_logits(folder)
            except FileNotFoundError:
                pass  # what needs them says so
            except ResultsError as error:
                self._leave_out(name, "damaged", "logits", error)
                return
        self._note(record)
        self._count_classes(folder, record)
        for row in tidy_rows(folder, record, is_shown):
            # Names of a tree from elsewhere can be any text, and reach figures and file names.
            row |= {name: visible(row[name]) for name in _TEXTS if isinstance(row[name], str)}
            row["timing_reasons"] = "; ".join(record.timing.unstable) if record.timing else ""
            self.rows.append(row)
        if len(self.rows) >= _CHUNK_ROWS:
            self.flush()

    def _count_classes(self, folder: RunFolder, record: Record) -> None:
        """Find how often the most frequent class is right, of a dataset's first test rows."""
        dataset = visible(record.dataset)
        if dataset in self.majority or "test" not in record.scores:
            return
        try:
            labels = read_split(folder, "test").labels
        except (OSError, ResultsError):
            return  # another run may have them; without them nothing is said of chance
        self.majority[dataset] = float(np.bincount(labels).max() / len(labels))

    def _leave_out(self, name: str, status: str, stage: str, error: ResultsError) -> None:
        reason = str(error).replace(f"{self.root}/", "")
        self.problems.append(Problem(name, status, stage, reason))
        self.runs[status] += 1
        self.names.add(name)

    def _note(self, record: Record) -> None:
        self.names.add(record.name)
        self.runs[record.status] += 1
        self.machines[describe_machine(record.provenance)] += 1
        if record.provenance.get("weights"):
            self.weights.setdefault(record.model, str(record.provenance["weights"]))
        self.finished.append(record.finished_at.isoformat(timespec="seconds"))
        if record.data is not None:
            self.label_names.setdefault(visible(record.dataset), record.data.label_names)
            self.notes[visible(record.dataset)] |= dict.fromkeys(record.data.notes)
        imported = record.provenance.get("imported", {})
        self.notes[visible(record.dataset)] |= dict.fromkeys(imported.get("notes", ()))
        if record.status != "completed":
            failure = record.failure
            stage, reason = (failure.stage, failure.message) if failure else ("", "no reason given")
            self.problems.append(Problem(record.name, record.status, stage, reason))
        elif record.timing_failure is not None:
            message = record.timing_failure.message
            self.timing_problems.append(Problem(record.name, "not timed", "timing", message))

    def flush(self) -> None:
        """Turn the rows held so far into a frame, which takes a tenth of the memory."""
        import pandas as pd

        if self.rows:
            self.chunks.append(pd.DataFrame(self.rows))
            self.rows = []


def _combine(parts: list[_Reader], suite: str, root: Path, expected: Iterable[str]) -> ReportData:
    import pandas as pd

    chunks = [chunk for part in parts for chunk in part.chunks]
    names = set().union(*(part.names for part in parts))
    missing = [name for name in dict.fromkeys(expected) if name not in names]
    runs: Counter[str] = sum((part.runs for part in parts), Counter())
    machines: Counter[str] = sum((part.machines for part in parts), Counter())
    runs["missing"] = len(missing)
    problems = [problem for part in parts for problem in part.problems]
    problems += [
        Problem(name, "missing", "", "planned, but there is no record yet") for name in missing
    ]
    labels: dict[str, tuple[str, ...]] = {}
    notes: dict[str, dict[str, None]] = defaultdict(dict)
    majority: dict[str, float] = {}
    for part in parts:
        labels = part.label_names | labels
        majority = part.majority | majority
        for dataset, some in part.notes.items():
            notes[dataset] |= some
    times = sorted(time for part in parts for time in part.finished)
    return ReportData(
        suite=suite,
        root=root,
        frame=_with_columns(pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()),
        problems=tuple(problems),
        timing_problems=tuple(problem for part in parts for problem in part.timing_problems),
        runs=runs,
        machines=tuple(name for name, _ in machines.most_common()),
        weights={model: text for part in parts for model, text in part.weights.items()},
        label_names=labels,
        notes={dataset: tuple(some) for dataset, some in notes.items() if some},
        finished=(times[0], times[-1]) if times else ("", ""),
        majority=majority,
    )


def _with_columns(frame: pd.DataFrame) -> pd.DataFrame:
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
    return averaged.merge(extra, on=["dataset", "split", "model"], validate="one_to_one")


def _any_reason(reasons: Iterable[str]) -> str:
    """Join the seeds' distinct reasons for mistrusting their timing; '' when there is none."""
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
