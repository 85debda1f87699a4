"""Commands that start in a moment: forked from a process that has imported everything.

A command spends seconds importing libraries and, with tiny models, little time at work. Here it
starts at work, and so do its workers, which are forked too; all else is as the command does it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from faults import HOOK, STALLED_S, command, environment, traces

STANDARD = (0, 1, 2)
FORK = multiprocessing.get_context("fork")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *("benchmark.run", "benchmark.claim", "benchmark.report.pages", "benchmark.report.figures"),
        *(f"benchmark.execution.{name}" for name in ("stages", "workers", "training", "forward")),
        *("benchmark.execution.scoring", "benchmark.execution.timing_stage"),
        *("benchmark.models.encoding", "benchmark.models.scratch"),
        *("transformers.models.vit.modeling_vit", "transformers.trainer_utils"),
        *("datasets", "ruamel.yaml", "sklearn.datasets"),
    ]
)


def start(
    folder: Path, *arguments: str, faults: Sequence[dict[str, Any]] = (), **extra: str
) -> BaseProcess:
    """Start a command as `faults.launch` does; what it prints goes to `folder`/output."""
    line = command(folder, *arguments)
    variables = environment(faults, folder, **extra)
    process = CONTEXT.Process(
        target=_run, args=(line[2:], variables, str(folder / "output")), daemon=False
    )
    process.start()
    return process


def end(process: BaseProcess, folder: Path) -> int:
    """Wait for a command's end, for as long as it gets on; return its exit code."""
    before = None
    while process.exitcode is None:
        process.join(timeout=STALLED_S)
        if process.exitcode is None:
            now = traces(folder)
            if now == before:
                process.kill()
                raise AssertionError(f"it hangs: {printed(folder)}")
            before = now
    return process.exitcode


def launch(folder: Path, *arguments: str, **options: Any) -> int:
    """Run a command to its end and return its exit code."""
    return end(start(folder, *arguments, **options), folder)


def printed(folder: Path) -> str:
    """Return what all commands in `folder` have printed."""
    return (folder / "output").read_text(encoding="utf-8")


def _run(arguments: list[str], variables: dict[str, str], output: str) -> None:
    os.environ.update(variables)
    os.environ["CHAOS_MAIN"] = str(os.getpid())
    descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for standard in STANDARD[1:]:
        os.dup2(descriptor, standard)
    _install_hook()

    from benchmark.execution import measurer, workers
    from benchmark.run import main

    for module in (workers, measurer):
        module.SPAWN = _Forking  # type: ignore[assignment]
    raise SystemExit(main(arguments))


class _Forking:
    """Starts a command's own processes, in place of the context that spawns them."""

    Pipe = FORK.Pipe

    @staticmethod
    def Process(target: Any, args: tuple[Any, ...], daemon: bool) -> BaseProcess:  # noqa: N802
        return FORK.Process(target=_serve, args=(target, args), daemon=daemon)


def _serve(target: Any, args: tuple[Any, ...]) -> None:
    """Do as a spawned process does, which has none of its parent's files and pipes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    own = {*STANDARD, parent.sentinel, args[0].fileno()}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in own:
            with contextlib.suppress(OSError):
                os.close(int(name))
    target(*args)


def _install_hook() -> None:
    spec = importlib.util.spec_from_file_location("chaos_hook", HOOK / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def kill(process: BaseProcess, after_s: float) -> bool:
    """Kill a command `after_s` seconds from now; say whether it was still at work."""
    process.join(timeout=after_s)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL
