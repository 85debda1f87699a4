"""The timing stage: each model is measured once, alone on the machine, for all its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.data import load_corpus
from benchmark.execution.launch import gpu_count
from benchmark.execution.machine import alone
from benchmark.execution.measurer import Measurer
from benchmark.execution.resolution import resolve, usable_head
from benchmark.execution.trackers import RunTracker
from benchmark.execution.trained_model import find_trained_model
from benchmark.failures import UnavailableError, outcome
from benchmark.plan import RunSpec
from benchmark.records import (
    DamagedError,
    Failure,
    Record,
    ResultsError,
    Timing,
    available_cores,
    claimed,
    set_aside,
    shared_cache,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from benchmark.data import Rows
    from benchmark.models import LoadedPreprocessor
    from benchmark.timing import Level, TimingJob, TimingSample, TimingSubject

_SAMPLE_ROWS = 128
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class TimingOrders:
    """How a command wants models timed; see `models_to_time`."""

    level: Level
    force: bool = False
    cross_check: bool = False

    def groups(self, specs: Sequence[RunSpec], results: Path) -> list[list[RunSpec]]:
        """Return what `models_to_time` says of these orders."""
        return models_to_time(
            specs, results, self.level, force=self.force, cross_check=self.cross_check
        )


def needs_timing(spec: RunSpec, results: Path, level: Level, *, cross_check: bool = False) -> bool:
    """Say whether a resolved run's record lacks a measurement at `level` or better.

    With `cross_check`, one without LoadGen's figures beside ours is lacking too.
    """
    record = usable_head(spec.folder(results))
    return _lacks_timing(spec, record, level, cross_check=cross_check)


def _lacks_timing(spec: RunSpec, record: Record | None, level: Level, *, cross_check: bool) -> bool:
    if record is None or record.timing is None or record.keys.get("timing") != spec.key("timing"):
        return True
    if cross_check and not record.timing.cross_checks:
        return True
    return level == "full" and record.timing.level != "full"


def models_to_time(
    specs: Sequence[RunSpec],
    results: Path,
    level: Level,
    *,
    force: bool = False,
    cross_check: bool = False,
) -> list[list[RunSpec]]:
    """Return the completed runs that need timing, grouped: seeds of a suite share one measurement.

    Args:
        specs: runs; those without a completed record are passed over.
        results: the results tree.
        level: `quick` or `full`.
        force: measure again what has been measured.
        cross_check: LoadGen's figures are wanted too (see `needs_timing`).
    """
    # Of each suite by itself: seeds that another one adds must not have its runs timed anew.
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    to_do: set[tuple[str, str]] = set()
    for spec in specs:
        record = usable_head(spec.folder(results))
        if record is None or record.status != "completed":
            continue
        try:
            resolved = resolve(spec, results)
        except UnavailableError:
            continue  # a run of other settings; executing this one has said why
        key = (resolved.suite, resolved.key("timing"))
        groups.setdefault(key, []).append(resolved)
        if force or _lacks_timing(resolved, record, level, cross_check=cross_check):
            to_do.add(key)
    return [group for key, group in groups.items() if key in to_do]


def time_groups(
    groups: Sequence[list[RunSpec]], results: Path, level: Level, *, cross_check: bool = False
) -> Iterator[tuple[list[RunSpec], Timing | Failure]]:
    """Measure the first run of each group and enter the result in the group's records.

    `quick` measures in one process for all, `full` in several fresh ones, interleaved; with
    `cross_check` LoadGen then measures the same model in one more. Yields each group with its
    timing, or with the reason why there is none.
    """
    whole = []
    for group in groups:
        problem = _model_problem(group[0], results)
        if problem is None:
            whole.append(group)
        else:
            yield group, _entered(group, results, problem)
    measured = _quick(whole, results) if level == "quick" else _full(whole, results)
    for group, result in measured:
        if cross_check and isinstance(result, Timing):
            result = _with_cross_checks(group[0], results, result)
        yield group, _entered(group, results, result)


def time_alone(
    specs: Sequence[RunSpec], results: Path, orders: TimingOrders
) -> Iterator[tuple[str, Timing | Failure]]:
    """Time what needs it, alone on this machine; yield the run that was measured, and its result.

    Args:
        specs: runs, as `models_to_time` takes them.
        results: the results tree.
        orders: what needs it, and how.
    """
    with alone(lambda: print("waiting to time: other commands of ours are at work here")):
        groups = orders.groups(specs, results)
        for group, result in time_groups(
            groups, results, orders.level, cross_check=orders.cross_check
        ):
            yield group[0].name, result


def _model_problem(spec: RunSpec, results: Path) -> Failure | None:
    """Return why a run's model cannot be measured; a damaged one is set aside."""
    try:
        find_trained_model(spec.folder(results))
    except DamagedError as error:
        set_aside(error)
        return outcome(error, "timing")[1]
    except ResultsError as error:
        return outcome(error, "timing")[1]
    return None


def _entered(group: list[RunSpec], results: Path, result: Timing | Failure) -> Timing | Failure:
    """Enter a result in the records of all seeds; return it, or why that cannot be done."""
    try:
        for spec in group:
            _enter(spec, results, group[0], result)
    except (OSError, ResultsError) as error:
        return outcome(error, "timing")[1]
    return result


def _quick(
    groups: Sequence[list[RunSpec]], results: Path
) -> Iterator[tuple[list[RunSpec], Timing | Failure]]:
    """Measure in one process for all; peak memory comes from a clean process of its own."""
    from benchmark.timing import measure_memory

    at_once = 1 if gpu_count() else available_cores()
    memories = measure_memory([_job(group[0], results) for group in groups], at_once=at_once)
    with closing(Measurer(results)) as measurer:
        for group, memory in zip(groups, memories, strict=True):
            own_code = group[0].model.trust_remote_code  # stays out of a process of others
            if own_code:
                timing = _in_fresh_process(group[0], results)
            else:
                timing = measurer.measure(group[0])
            has_memory = isinstance(timing, Failure) or timing.memory is not None
            if not has_memory and not isinstance(memory, Exception):
                timing = timing.model_copy(update={"memory": memory})
            yield group, timing


def _in_fresh_process(spec: RunSpec, results: Path) -> Timing | Failure:
    from benchmark.timing import time_jobs

    answer = time_jobs([_job(spec, results)], level="quick", processes=1)[0]
    return outcome(answer, "timing")[1] if isinstance(answer, Exception) else answer


def _full(
    groups: Sequence[list[RunSpec]], results: Path
) -> Iterator[tuple[list[RunSpec], Timing | Failure]]:
    from benchmark.timing import time_jobs

    answers = time_jobs([_job(group[0], results) for group in groups])
    for group, answer in zip(groups, answers, strict=True):
        if isinstance(answer, Exception):
            yield group, outcome(answer, "timing")[1]
        else:
            yield group, answer


def _with_cross_checks(spec: RunSpec, results: Path, timing: Timing) -> Timing | Failure:
    from benchmark.timing import cross_check

    try:
        return timing.model_copy(update={"cross_checks": cross_check(_job(spec, results))})
    except Exception as error:
        return outcome(error, "timing")[1]


def _enter(spec: RunSpec, results: Path, measured: RunSpec, result: Timing | Failure) -> None:
    """Put a measurement into a run's record, as it is now, while nobody else writes there.

    A run that another command is redoing goes without: that one waits for us until all is timed.
    """
    folder = spec.folder(results)
    with suppress(TimeoutError), claimed(folder, timeout_s=2):
        record = folder.read_record()
        if record is None or record.status != "completed":
            return
        if record.keys.get("training") != spec.key("training"):
            return
        folder.write_record(_with_timing(record, spec, measured, result))
        if isinstance(result, Timing):
            tracker = RunTracker(spec, results)
            tracker.timing(result, record.training)
            tracker.finish()


def _with_timing(
    record: Record, spec: RunSpec, measured: RunSpec, result: Timing | Failure
) -> Record:
    if isinstance(result, Failure):
        update: dict[str, object] = {"timing_failure": result}
    else:
        update = {
            "timing": result,
            "timing_failure": None,
            "timed_run": measured.name,
            "keys": record.keys | {"timing": spec.key("timing")},
        }
    return record.model_copy(update=update)


def _job(spec: RunSpec, results: Path) -> TimingJob:
    from benchmark.timing import TimingJob

    return TimingJob(
        name=spec.name,
        loader=f"{__name__}:load_subject",
        arguments={"spec": spec.model_dump_json(), "results": str(results)},
        own_code=spec.model.trust_remote_code,
    )


def measure_subject(spec: RunSpec, results: Path) -> Timing | Failure:
    """Measure a finished run's model in this process, or return why that is not possible."""
    from benchmark.timing import time_model

    try:
        subject = _subject(spec, results)
        return time_model(subject.model, subject.sample, temperature=subject.temperature)
    except Exception as error:
        return outcome(error, "timing")[1]


def load_subject(spec: str, results: str) -> TimingSubject:
    """Load a finished run's model for timing, in whichever process measures it.

    Args:
        spec: the resolved `RunSpec` as JSON.
        results: the results tree.
    """
    return _subject(RunSpec.model_validate_json(spec), Path(results))


def _subject(spec: RunSpec, results: Path) -> TimingSubject:
    import torch

    from benchmark.execution.launch import device_for_timing, set_tf32
    from benchmark.models import fit_to_model, load_preprocessor, load_trained_model
    from benchmark.timing import TimingSubject

    corpus = load_corpus(spec.dataset, revision=spec.data_revision, limit=spec.limit)
    preprocessor = load_preprocessor(spec, corpus, shared_cache(results))
    model = load_trained_model(spec.folder(results).model, spec.model)
    torch.nn.Module.to(model, device_for_timing())
    set_tf32(spec.recipe is not None and spec.recipe.tf32)
    preprocessor = fit_to_model(preprocessor, model, spec.dataset.max_length)
    record = usable_head(spec.folder(results))
    temperature = 1.0 if record is None or record.temperature is None else record.temperature.value
    return TimingSubject(
        model=model,
        sample=_sample(corpus.test, preprocessor, model),
        temperature=temperature if 0 < temperature < math.inf else 1.0,
    )


def _sample(test: Rows, preprocessor: LoadedPreprocessor, model: PreTrainedModel) -> TimingSample:
    """Return the same seeded test rows for every model of a dataset."""
    from benchmark.models import choose_padding, collate, encode_rows
    from benchmark.timing import TimingSample

    size = min(_SAMPLE_ROWS, len(test))
    chosen = np.random.default_rng(_SAMPLE_SEED).choice(len(test), size=size, replace=False)
    rows = test.take(chosen)
    whole = encode_rows(rows, preprocessor)
    padding = choose_padding(model, preprocessor, whole)

    def encode(some: Rows) -> dict[str, Tensor]:
        encoded = encode_rows(some, preprocessor)
        tensors = collate(encoded, np.arange(len(encoded)), padding)
        tensors.pop("labels")
        return tensors

    return TimingSample(rows, encode, None if whole.lengths is None else whole.lengths.tolist())
