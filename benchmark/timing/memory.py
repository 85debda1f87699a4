"""Peak memory of one pass over a timing sample, in a process that did nothing else."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.records import Memory
from benchmark.shell import end_with_parent
from benchmark.timing import device as timing_device
from benchmark.timing.job import (
    TimingError,
    TimingJob,
    TimingSubject,
    load,
    read_answer,
    read_request,
    run_module,
    write_answer,
)

# One batch size for every model, so that their peaks compare.
BATCH_SIZE = 32

_LIBRARIES = ("torch", "transformers")


def pass_peak(
    subject: TimingSubject, *, fresh_process: bool, baseline_bytes: int | None = None
) -> Memory:
    """Run one forward pass over the sample in batches of 32 and read the peak.

    Args:
        subject: model and sample.
        fresh_process: whether this process was started for this. Only then is its resident set
            recorded: its peak covers the whole life of the process.
        baseline_bytes: resident set before the model was loaded.
    """
    import torch

    device = next(subject.model.parameters()).device
    loaded = current_rss_bytes()
    with torch.inference_mode():
        batches = [
            subject.sample.encode_on(device, rows) for rows in subject.sample.chunks(BATCH_SIZE)
        ]
        peak = timing_device.pass_peak(device, timing_device.forward_call(subject.model), batches)
    return Memory(
        fresh_process=fresh_process,
        batch_size=min(BATCH_SIZE, len(subject.sample.rows)),
        cpu_baseline_rss_bytes=baseline_bytes,
        cpu_loaded_rss_bytes=loaded if fresh_process else None,
        cpu_peak_rss_bytes=peak_rss_bytes() if fresh_process else None,
        cuda_peak_allocated_bytes=None if peak is None else peak.allocated,
        cuda_peak_reserved_bytes=None if peak is None else peak.reserved,
    )


def measure_memory(
    jobs: Sequence[TimingJob], *, at_once: int = 1, timeout_s: float | None = None
) -> list[Memory | TimingError]:
    """Measure every job's peak memory in a clean copy of a process with the libraries loaded.

    One helper process imports the libraries once and forks off a copy of itself for each job,
    which saves seconds a model. A fork does not map the library files' pages that only the import
    touched, so what it grows by is added to the helper's own size (see docs/timing.md for how
    close this comes to a process started from nothing). The load of the machine does not matter
    here, so this may run beside other work.

    Args:
        jobs: how to load each model and sample.
        at_once: copies side by side, which does not matter to a resident set; 1 on a GPU, whose
            memory they would share.
        timeout_s: for all jobs together; None: ten minutes, and half a minute for each.

    Returns:
        One entry per job, in order: its memory, or the error that kept us from it.
    """
    if not jobs:
        return []
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "jobs": [job.model_dump() for job in jobs],
            "folder": folder,
            "at_once": at_once,
        }
        timeout_s = 600 + 30 * len(jobs) if timeout_s is None else timeout_s
        own_code = any(job.own_code for job in jobs)
        log = run_module("benchmark.timing.memory", request, timeout_s, own_code=own_code)
        return [_answer(Path(folder) / f"{i}.json", job, log) for i, job in enumerate(jobs)]


def _answer(path: Path, job: TimingJob, log: str) -> Memory | TimingError:
    try:
        return Memory.model_validate(read_answer(path, job, log))
    except TimingError as error:
        return error


def current_rss_bytes() -> int:
    """Resident set of this process now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    # Linux' ru_maxrss can start at the size of the process that started this one; VmHWM cannot.
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _serve(request: dict[str, Any]) -> None:
    """Import everything once, then measure each job in a fork."""
    helper = os.getpid()
    jobs = [TimingJob.model_validate(job) for job in request["jobs"]]
    for name in (*_LIBRARIES, *dict.fromkeys(job.loader.partition(":")[0] for job in jobs)):
        with suppress(ImportError):  # a loader that cannot be imported fails in its own fork
            importlib.import_module(name)
    _touch_libraries()
    baseline = current_rss_bytes()
    for position, job in enumerate(jobs):
        if position >= request["at_once"]:
            os.wait()
        if os.fork() == 0:
            end_with_parent(helper)  # threads are not forked
            _measure_in_fork(job, baseline, Path(request["folder"]) / f"{position}.json")
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _measure_in_fork(job: TimingJob, baseline: int, path: Path) -> None:
    """Measure and leave, whatever happens: past this call the fork would go on as the parent."""
    try:
        _touch_libraries()
        unmapped = baseline - current_rss_bytes()
        write_answer(path, lambda: _shifted(load(job), baseline, unmapped))
    finally:
        os._exit(0)


def _shifted(subject: TimingSubject, baseline: int, unmapped: int) -> Memory:
    """Measure in a fork and add what the fork had not mapped of its parent."""
    seen = pass_peak(subject, fresh_process=True, baseline_bytes=baseline)
    loaded, peak = seen.cpu_loaded_rss_bytes or 0, seen.cpu_peak_rss_bytes or 0
    return seen.model_copy(
        update={
            "fresh_process": False,
            "cpu_loaded_rss_bytes": loaded + unmapped,
            "cpu_peak_rss_bytes": peak + unmapped,
        }
    )


def _touch_libraries() -> None:
    """Run the commonest operations once, on one thread, so that their code is in memory."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    with torch.inference_mode():
        image = nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 16, 16)).flatten(2)
        nn.TransformerEncoderLayer(196, 4, 16, batch_first=True).eval()(image)


if __name__ == "__main__":
    _serve(read_request())
