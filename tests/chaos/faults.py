"""Commands with faults on order (see hook/sitecustomize.py), and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HOOK = Path(__file__).parent / "hook"
RUN = ROOT / "benchmark" / "run.py"
STALLED_S = 600
"""A command hangs that has changed no file for so long; it may take longer to its end."""


def registry_text() -> str:
    """Return the registry of all tests, with a model that trains for long and other suites."""
    import yaml
    from conftest import REGISTRY

    content = yaml.safe_load(REGISTRY)
    content["recipes"]["long"] = {"epochs": 400, "batch_size": 8, "learning_rate": 3.0e-3}
    content["models"]["long"] = {**content["models"]["vit"], "recipe": "long"}
    content["suites"] = {
        "seeds": {"models": ["vit"], "datasets": ["digits"], "seeds": 24},
        "mixers": {"models": ["vit", "resnet"], "datasets": ["digits"]},
        "long": {"models": ["long"], "datasets": ["digits"]},
    }
    return yaml.safe_dump(content, sort_keys=False)


def environment(
    faults: Sequence[dict[str, Any]] = (), place: Path | None = None, **extra: str
) -> dict[str, str]:
    """Return the variables of a process: the hook, its faults, one thread, locks of its own."""
    own = {"BENCHMARK_MACHINE_LOCKS": str(place)} if place is not None else {}
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HOOK), str(ROOT)]),
        "FAULTS": json.dumps(list(faults)),
        **own,
        **extra,
    }


def command(folder: Path, *arguments: str, ranks: int = 1) -> list[str]:
    """Return a launch of the runner in `folder`, which gets a registry."""
    registry = folder / "registry.yaml"
    if not registry.exists():
        registry.write_text(registry_text(), encoding="utf-8")
    launcher = []
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [
        sys.executable, *launcher, str(RUN), "--registry", str(registry),
        "--results", str(folder / "results"), "--reports", str(folder / "reports"), *arguments,
    ]  # fmt: skip


def launch(
    folder: Path,
    *arguments: str,
    ranks: int = 1,
    faults: Sequence[dict[str, Any]] = (),
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """Run a launch to its end; one that hangs fails the test."""
    cpu = {"ACCELERATE_USE_CPU": "true"} if ranks > 1 else {}
    return finish(
        start(
            command(folder, *arguments, ranks=ranks), environment(faults, folder, **cpu, **extra)
        ),
        folder,
    )


def start(line: Sequence[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    """Start a command in a session of its own; what it prints is kept."""
    return subprocess.Popen(
        line, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], *folders: Path) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end, for as long as files below `folders` change.

    How long an import or an epoch takes on a machine with other work says nothing.
    """
    before = None
    while True:
        try:
            output, errors = process.communicate(timeout=STALLED_S)
        except subprocess.TimeoutExpired:
            now = traces(*folders)
            if now != before:
                before = now
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            raise AssertionError(f"it hangs: {output}\n{errors}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def traces(*folders: Path) -> list[tuple[str, float]]:
    """Return files below `folders` and their times, which change while something is done."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.name.startswith(".claim"):  # its owner's sign of life is no progress
            continue
        with contextlib.suppress(FileNotFoundError):
            found.append((str(path), path.stat().st_mtime))
    return found


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until a command has come to a point, for as long as it gets on."""
    before, looked = None, time.monotonic()
    while not condition():
        assert process.poll() is None, f"it has ended before: {process.communicate()}"
        if time.monotonic() - looked > STALLED_S:
            now = traces(folder)
            assert now != before, "it did not come to that"
            before, looked = now, time.monotonic()
        time.sleep(0.05)
