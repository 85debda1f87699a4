"""`accelerate launch benchmark/run.py --models all`: arguments, ranks, progress, exit code.

Exit codes: 0 all runs completed; 1 some did not (named at the end); 2 the command or the
registry is wrong; 129, 130, 143 ended by SIGHUP, Ctrl-C, SIGTERM (the same command continues).
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__" and sys.path[0] == str(Path(__file__).resolve().parent):
    # Started as a file: sys.path[0] is this folder, where our modules would shadow others'.
    sys.path[0] = str(ROOT)

from benchmark.execution import parse_run_options  # noqa: E402
from benchmark.shell import (  # noqa: E402
    command,
    end_with_launcher,
    heed_signals,
    patiently,
    progress_apart,
)

if TYPE_CHECKING:
    import argparse

    from benchmark.plan import RunSpec, Selection
    from benchmark.records import SuiteMembers
    from benchmark.registry import Registry
    from benchmark.report import Summary


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = parse_run_options(arguments)
    with progress_apart(options.json):
        code, summary = _main(options)
    if summary is not None:
        _show(summary, code, options)
    return code


def _main(options: argparse.Namespace) -> tuple[int, Summary | None]:
    """Do what is asked; return the exit code and, where a report was written, what it says."""
    from benchmark.execution import (
        LaunchError,
        ProcessesPartedError,
        choose_trackers,
        preview,
        quiet_libraries,
        use_device,
    )
    from benchmark.hub import allow_remote_code
    from benchmark.plan import SelectionError
    from benchmark.records import ResultsError
    from benchmark.registry import Registry, RegistryError
    from benchmark.report import ReportError

    quiet_libraries()
    heed_signals(options.grace)
    end_with_launcher()
    allow_remote_code(options.allow_remote_code)
    try:
        registry = Registry.load(options.registry)
        if options.list:
            _print_registry(registry)
            return 0, None
        selection = _select(registry, options)
        use_device(options.device)
        _check_backend(options)
        choose_trackers(options.log_with)
        if options.dry_run:
            print(preview(selection, options.results, options.timing, force=options.force))
            return 0, None
        return _run(selection, options)
    except ProcessesPartedError as error:
        return _part(error), None
    except (RegistryError, SelectionError, LaunchError, ResultsError, ReportError) as error:
        print(error, file=sys.stderr)
        return 2, None


def _select(registry: Registry, options: argparse.Namespace) -> Selection:
    from benchmark.plan import select
    from benchmark.registry import parse_settings

    return select(
        registry,
        suite=options.suite,
        models=options.models,
        datasets=options.datasets,
        seeds=options.seeds,
        limit=options.limit,
        settings=parse_settings(options.set),
    )


def _check_backend(options: argparse.Namespace) -> None:
    from benchmark.execution import LaunchError

    if options.timing_backend == "loadgen":
        from benchmark.timing import is_installed

        if not is_installed():
            raise LaunchError(
                "--timing-backend loadgen needs the extra: pip install -e '.[loadgen]'"
            )


def _print_registry(registry: Registry) -> None:
    from tabulate import tabulate

    models = [
        (m.name, m.modality, m.mixer, m.family, m.parameters, m.recipe)
        for m in registry.models.values()
    ]
    datasets = [
        (
            d.name,
            d.modality,
            d.class_count,
            d.all_rows,
            ", ".join(d.shifts),
        )
        for d in registry.datasets.values()
    ]
    suites = [
        (s.name, len(s.models), ", ".join(s.datasets), s.seeds) for s in registry.suites.values()
    ]
    of_models = ("model", "modality", "mixer", "family", "parameters", "recipe")
    of_datasets = ("dataset", "modality", "classes", "rows", "shifted tests")
    for rows, headers in ((models, of_models), (datasets, of_datasets)):
        print(tabulate(rows, headers=headers, intfmt=",", missingval="-"), end="\n\n")
    print(tabulate(suites, headers=("suite", "models", "datasets", "seeds")))


def _run(selection: Selection, options: argparse.Namespace) -> tuple[int, Summary | None]:
    from benchmark.execution import (
        busy,
        check_launch,
        launched_processes,
        make_accelerator,
        process_index,
        shared,
        summarise,
    )

    with shared():
        pass  # a launch that starts while something is timed waits here
    notes = check_launch()
    if launched_processes() > 1:
        make_accelerator()  # refuse a misunderstood launch before anything is written
    if process_index() == 0:
        print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
        print(selection.note, end="\n" if selection.note else "")
        for members in selection.members:
            members.write(options.results)
            _stamp(selection, members, options.results)
    specs = selection.specs
    if launched_processes() > 1:
        _execute_together(specs, options)
        if process_index() > 0:
            return _leave_launch(), None
    else:
        _execute_in_workers(selection, options)
    if options.timing != "off":
        _time(specs, options)
    with shared(), busy("writing the report"):
        summary = _report(selection, options)
    return summarise(specs, options.results, timed=options.timing != "off"), summary


def _stamp(selection: Selection, members: SuiteMembers, results: Path) -> None:
    """Record what a suite's claim is at its first run, so that a later change can be told."""
    from benchmark.records import ResultsError, stamp_claim

    registry = selection.registry
    if members.declared:
        registry = registry.declaring(members.base)
    # One that cannot be used is left as it is, and the report says so.
    with suppress(ResultsError):
        stamp_claim(results, members.suite, registry.claim)


def _execute_in_workers(selection: Selection, options: argparse.Namespace) -> None:
    """Execute what is stale in worker processes."""
    from benchmark.execution import Finished, RunDisplay, needs_work, run_apart

    specs = selection.specs
    pending = [spec for spec in specs if options.force or needs_work(spec, options.results)]
    print(f"suite {selection.suite}: {len(specs)} runs, {len(pending)} to do")
    if not pending:
        return
    from benchmark.execution import gpu_count
    from benchmark.records import available_cores

    gpus = gpu_count()
    events = run_apart(
        pending,
        options.results,
        workers=options.workers or gpus or available_cores(),
        force=options.force,
        gpus=gpus,
        retries=options.retries,
    )
    with patiently(), closing(events), RunDisplay(len(pending)) as display:
        for event in events:
            if isinstance(event, Finished):
                display.finished(event.record)
            else:
                display.progress(event)


def _execute_together(specs: Sequence[RunSpec], options: argparse.Namespace) -> None:
    """Execute the runs one after the other, each by all processes of this launch."""
    from benchmark.execution import (
        RETRY_S,
        DisplayProgress,
        RunDisplay,
        process_index,
        try_execute,
    )

    waiting = deque(specs)
    with patiently(), RunDisplay(len(specs), silent=process_index() > 0) as display:
        put_off = 0
        while waiting:
            spec = waiting.popleft()
            progress = DisplayProgress(display, spec.name)
            record = try_execute(spec, options.results, force=options.force, progress=progress)
            if record is not None:
                display.finished(record)
                put_off = 0
                continue
            waiting.append(spec)  # another launch works on it, or times something
            put_off += 1
            if put_off >= len(waiting):
                time.sleep(RETRY_S)


def _part(error: Exception) -> int:
    """End a process that has lost the others of its launch; the launcher then ends those."""
    print(f"error: {error}. Run the same command again to continue.", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)  # what libraries do at an exit would wait for the others


def _leave_launch() -> int:
    """End a process that has no part in timing and reporting, so that the device is idle.

    Its exit code is 0: another would make the launcher end the process that goes on.
    """
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def _time(specs: Sequence[RunSpec], options: argparse.Namespace) -> None:
    """Measure latency and throughput, now that nothing else runs."""
    from benchmark.execution import TimingDisplay, alone, models_to_time, time_groups

    cross_check = options.timing_backend == "loadgen"

    def to_time() -> list[list[RunSpec]]:
        return models_to_time(
            specs, options.results, options.timing, force=options.force, cross_check=cross_check
        )

    if not to_time():
        return
    with alone(lambda: print("waiting to time: other commands of ours are at work here")):
        groups = to_time()  # another launch may have timed some meanwhile
        if not groups:
            return
        print(f"timing {len(groups)} models, one after the other ({options.timing})")
        if options.timing == "quick":
            print("first the peak memory of each, side by side")
        timed = time_groups(groups, options.results, options.timing, cross_check=cross_check)
        with TimingDisplay([group[0].name for group in groups]) as display:
            for group, result in timed:
                display.finished(group[0].name, result)


def _report(selection: Selection, options: argparse.Namespace) -> Summary:
    from benchmark.records import available_cores
    from benchmark.report import RowSources, declared_published, write_report

    registry, suite = selection.registry, selection.suite
    return write_report(
        options.results,
        options.reports,
        registry.claim,
        suite=suite,
        published=declared_published(registry, suite),
        row_sources=RowSources.named_by(registry),
        redraw=options.redraw,
        processes=available_cores(),
    )


def _show(summary: Summary, code: int, options: argparse.Namespace) -> None:
    from benchmark.report import json_document, print_summary

    if options.json:
        print(json_document([summary], exit_code=code))
    else:
        print_summary(summary)


if __name__ == "__main__":
    sys.exit(main())
