"""The hardware and software of a run, and which machines models were timed on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmark.markup import plural, visible
from benchmark.records import Setting

MAX_NAMED = 4
"""Models of a machine that are named; of others there is a count."""


def describe_machine(provenance: dict[str, Any]) -> str:
    """Return one line on the hardware and software of a run, from its provenance."""
    if "imported" in provenance:
        return f"an unknown machine; the logits were imported and scored on {_here(provenance)}"
    return _here(provenance)


def _here(provenance: dict[str, Any]) -> str:
    packages = provenance.get("packages") or {}
    parts = [provenance.get("device_name") or provenance.get("processor")]
    if provenance.get("cores"):
        parts.append(f"{provenance['cores']} cores")
    if provenance.get("memory_gib"):
        parts.append(f"{provenance['memory_gib']} GiB memory")
    if provenance.get("python"):
        parts.append(f"Python {provenance['python']}")
    parts += [f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages]
    return ", ".join(str(part) for part in parts if part) or "not recorded"


def describe_timer(setting: Setting) -> str:
    """Return what a model was timed on, in words; machines alike in it give alike latencies."""
    threads = plural(setting.available_threads, "thread")
    return visible(f"{setting.device_name}, {threads}")


def about_latencies(timed_on: Sequence[tuple[str, str, str]], dataset: str) -> str:
    """Say that a data set's latencies are not all of one machine; empty where they are.

    Args:
        timed_on: (data set, machine, model) of each timing.
        dataset: whose latencies stand in one table.

    >>> timed = [("digits", "CPU A", "vit"), ("digits", "CPU B", "bert"), ("mnist", "CPU B", "vit")]
    >>> about_latencies(timed, "digits").partition(": ")[2]
    'CPU A (vit); CPU B (bert)'
    >>> about_latencies(timed, "mnist")
    ''
    """
    models: dict[str, list[str]] = defaultdict(list)
    for of, machine, model in timed_on:
        if of == dataset:
            models[machine].append(model)
    if len(models) < 2:
        return ""
    by_size = sorted(models.items(), key=lambda item: (-len(item[1]), item[0]))
    told = "; ".join(f"{machine} ({_named(names)})" for machine, names in by_size)
    return f"latencies come from {len(models)} machines, and only those of one compare: {told}"


def _named(models: Sequence[str]) -> str:
    return plural(len(models), "model") if len(models) > MAX_NAMED else ", ".join(models)
