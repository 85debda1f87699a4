"""What this machine has for a run, and what is amiss: `calibration-benchmark doctor`.

Exit codes: 0 nothing is amiss; 1 something is, and the line says what to do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from benchmark.arguments import PREFIX, PROGRAM, Parser, parse, program
from benchmark.execution.launch import LaunchError, check_launch, gpu_count
from benchmark.hub import access_token, hub_state
from benchmark.records import available_cores, processor_name
from benchmark.registry import DEFAULT_REGISTRY, Registry, RegistryError
from benchmark.shell import as_folder, command

_LEAST_FREE_GB = 5
_MARKS = {"good": "ok", "told": "--", "amiss": "!!"}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether it is good, only told, or amiss."""

    what: str
    found: str
    state: Literal["good", "told", "amiss"] = "good"


@command
def doctor(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = Parser(prog=program("doctor", "doctor"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--registry", type=Path, default=DEFAULT_REGISTRY)
    parser.add_argument("--results", type=as_folder, default=Path("results"))
    options = parse(parser, arguments)
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _packages,
        _machine,
        _devices,
        lambda: _registry(options.registry),
        lambda: _results(options.results),
        _hub,
        _environment,
    )
    amiss = 0
    for look in looks:
        for finding in look():
            print(f"{_MARKS[finding.state]}  {finding.what:<12} {finding.found}")
            amiss += finding.state == "amiss"
    print(f"\n{amiss} amiss" if amiss else "\nnothing amiss")
    return 1 if amiss else 0


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what this package asks for."""
    from packaging.requirements import Requirement

    yield Finding(PROGRAM, metadata.version(PROGRAM))
    extras: dict[str, list[str]] = {}
    wrong = []
    for text in metadata.requires(PROGRAM) or ():
        needed = Requirement(text)
        extra = str(needed.marker).partition("extra == ")[2].strip("\"'") if needed.marker else ""
        try:
            fits = needed.specifier.contains(metadata.version(needed.name), prereleases=True)
        except metadata.PackageNotFoundError:
            fits = False
        if extra:
            extras.setdefault(extra, []).extend([] if fits else [needed.name])
        elif not fits:
            wrong.append(f"{needed.name}{needed.specifier}")
    if wrong:
        yield Finding("packages", f"install {', '.join(wrong)}", "amiss")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    yield Finding("packages", versions)
    there = [extra for extra, lacking in extras.items() if not lacking]
    others = [extra for extra in extras if extra not in there]
    yield Finding("extras", f"{', '.join(there) or 'none'}; not here: {', '.join(others)}", "told")


def _machine() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield Finding("processor", f"{processor_name()}, {available_cores()} cores to use")
    free = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    yield Finding("memory", free, "good" if memory.available > 1e9 else "amiss")
    load = psutil.getloadavg()[0]
    if load > available_cores():
        busy = f"load {load:.1f}: other programs are at work, so latencies would be flagged"
        yield Finding("load", busy, "told")


def _devices() -> Iterator[Finding]:
    import torch

    if not gpu_count():
        yield Finding("device", "CPU (no CUDA device to use)", "told")
    for index in range(gpu_count()):
        properties = torch.cuda.get_device_properties(index)
        size = properties.total_memory / 1e9
        yield Finding("device", f"cuda:{index} {properties.name}, {size:.0f} GB")
    if torch.version.cuda and not torch.cuda.is_available():
        text = f"torch is built for CUDA {torch.version.cuda}, and finds no device: see nvidia-smi"
        yield Finding("device", text, "told")


def _registry(path: Path) -> Iterator[Finding]:
    try:
        registry = Registry.load(path)
    except RegistryError as error:
        yield Finding("registry", str(error), "amiss")
        return
    suite = registry.default_suite().name
    counts = f"{len(registry.models)} models, {len(registry.datasets)} data sets"
    yield Finding("registry", f"{path}: {counts}; the default suite is {suite}")


def _results(folder: Path) -> Iterator[Finding]:
    """See whether results can be written: in the folder, or the nearest above it that exists."""
    place = next(one for one in (folder, *folder.resolve().parents) if one.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Finding("results", f"{place} cannot be written: {error.strerror}", "amiss")
        return
    free = shutil.disk_usage(place).free / 1e9
    state: Literal["good", "amiss"] = "good" if free > _LEAST_FREE_GB else "amiss"
    yield Finding("results", f"{folder.resolve()}, {free:,.0f} GB free", state)


def _hub() -> Iterator[Finding]:
    token = "with the token of HF_TOKEN" if access_token() else "without a token (HF_TOKEN)"
    address, trouble = hub_state()
    if trouble:
        # Embedded data and models from scratch need no hub.
        yield Finding("hub", f"{address}: {trouble}", "told")
    else:
        yield Finding("hub", f"{address} answers, {token}")


def _environment() -> Iterator[Finding]:
    told = sorted(name for name in os.environ if name.startswith(PREFIX))
    if told:
        yield Finding("environment", f"options are set: {', '.join(told)}", "told")
    try:
        notes = check_launch()
    except LaunchError as error:
        yield Finding("environment", str(error), "amiss")
        return
    for note in notes:
        yield Finding("environment", note.removeprefix("note: "), "told")
