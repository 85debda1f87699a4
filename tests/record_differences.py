"""In which fields the records of two results trees differ, and whether the logits are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.records import find_records

TIMES = {"finished_at", "training.seconds"}
"""What differs between two executions of one run on machines that are alike."""


def differing_fields(first: Path, second: Path) -> set[str]:
    """Return the dotted paths that differ between the records of the same runs in two trees.

    Raises:
        AssertionError: the trees do not hold the same runs, or a run's logits differ in a byte.
    """
    runs = {run.name: run for run, _ in find_records(first)}
    others = {run.name: run for run, _ in find_records(second)}
    assert runs.keys() == others.keys()
    assert runs
    found = set()
    for name, run in runs.items():
        other = others[name]
        assert run.logits.read_bytes() == other.logits.read_bytes(), name
        assert run.spec.read_bytes() == other.spec.read_bytes(), name
        found |= set(_differences(_content(run.record), _content(other.record)))
    return found


def _content(path: Path) -> Any:
    content = json.loads(path.read_text())
    content.pop("checksum", None)  # of the whole, so it differs where anything does
    return content


def _differences(first: Any, second: Any, place: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            inner = f"{place}.{key}" if place else key
            yield from _differences(first.get(key), second.get(key), inner)
    elif first != second:
        yield place
