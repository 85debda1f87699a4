"""A suite's records -> what a report needs of them, one record at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.markup import visible
from benchmark.records import (
    Record,
    ResultsError,
    RunFolder,
    SuiteMembers,
    available_cores,
    read_split,
    runs_of_suite,
    runs_outside,
    suite_members,
    suites_of,
    tidy_rows,
    verify_logits,
)
from benchmark.report.data import (
    MAX_LOGITS_FILES,
    Problem,
    ReportData,
    ReportError,
    is_shown,
    with_columns,
)
from benchmark.report.machines import describe_machine, describe_timer
from benchmark.report.run_method import RunMethod, run_method

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("model", "dataset", "family", "suite")
NOT_DECLARED = "it lies in the suite's folder, but the suite does not declare it"
PARALLEL_RECORDS = 2_000
"""More records than this are read by several processes."""
_CHUNK_ROWS = 5_000
_BLOCK = 500


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


def require_suite(results: Path, suite: str) -> None:
    """Refuse a name that no suite below `results` has.

    Raises:
        ReportError: naming those that there are.
    """
    known = suite_names(results)
    if suite not in known:
        raise ReportError(f"{results}: no suite '{suite}'; there are: {', '.join(known)}")


def read_suite(results: Path, suite: str) -> ReportData:
    """Read the records of a suite, one at a time, so that memory stays small.

    Runs that the suite consists of (see `records.SuiteMembers`) and that have no record are listed
    as missing, and those that lie in its folder beside them as not declared.

    Args:
        results: folder that holds one folder per suite.
        suite: the suite's name.

    Raises:
        ReportError: there is no such suite, or it has no record.
        ResultsError: the list of the suite's runs cannot be used.
    """
    require_suite(results, suite)
    root = results / suite
    folders = runs_of_suite(results, suite)
    if len(folders) <= PARALLEL_RECORDS:
        verifies = len(folders) <= MAX_LOGITS_FILES
        parts = [_read_folders(root, folders, verifies=verifies)]
    else:
        parts = _read_in_processes(root, folders)
    return _combine(parts, suite, root, suite_members(results, suite))


def _read_in_processes(root: Path, folders: list[RunFolder]) -> list[_Reader]:
    """Read with one process per core: records take a millisecond or two each to check."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    blocks = [folders[i : i + _BLOCK] for i in range(0, len(folders), _BLOCK)]
    workers = min(available_cores(), 8)
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
        self.timed_on: set[tuple[str, str, str]] = set()
        self.weights: dict[str, str] = {}
        self.label_names: dict[str, tuple[str, ...]] = {}
        self.notes: dict[str, dict[str, None]] = defaultdict(dict)
        self.finished: list[str] = []
        self.names: set[str] = set()
        self.majority: dict[str, float] = {}
        self.methods: list[RunMethod] = []

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
        self.methods.append(run_method(folder, record))
        self._count_classes(folder, record)
        for row in tidy_rows(folder, record, is_shown):
            # Names of a tree from elsewhere can be any text, and reach figures and file names.
            row["suite"] = self.root.name  # a run that another suite declares can be chosen, too
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
        if record.timing is not None:
            timer = describe_timer(record.timing.setting)
            self.timed_on.add((visible(record.dataset), timer, visible(record.model)))
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


def _combine(
    parts: list[_Reader], suite: str, root: Path, members: SuiteMembers | None
) -> ReportData:
    import pandas as pd

    chunks = [chunk for part in parts for chunk in part.chunks]
    names = set().union(*(part.names for part in parts))
    missing = [name for name in (members.runs if members else ()) if name not in names]
    runs: Counter[str] = sum((part.runs for part in parts), Counter())
    machines: Counter[str] = sum((part.machines for part in parts), Counter())
    runs["missing"] = len(missing)
    problems = [problem for part in parts for problem in part.problems]
    problems += [
        Problem(name, "missing", "", "planned, but there is no record yet") for name in missing
    ]
    outside = [run.name.partition("/")[2] for run in runs_outside(root.parent, suite)]
    problems += [Problem(name, "left out", "", NOT_DECLARED) for name in outside]
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
        frame=with_columns(pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()),
        problems=tuple(problems),
        timing_problems=tuple(problem for part in parts for problem in part.timing_problems),
        runs=runs,
        machines=tuple(name for name, _ in machines.most_common()),
        timed_on=tuple(sorted(set().union(*(part.timed_on for part in parts)))),
        weights={model: text for part in parts for model, text in part.weights.items()},
        label_names=labels,
        notes={dataset: tuple(some) for dataset, some in notes.items() if some},
        finished=(times[0], times[-1]) if times else ("", ""),
        majority=majority,
        members=members,
        methods=tuple(method for part in parts for method in part.methods),
    )
