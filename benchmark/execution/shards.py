"""The parts into which a command's runs are dealt for a batch system: `--shard 2/8`.

Who has which run is decided once. The first command of a division writes it into the suite's
folder, and all others read it there, whatever has finished meanwhile.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from benchmark.execution.engine_options import Shard
from benchmark.execution.estimates import relative_costs
from benchmark.execution.resolution import usable_head
from benchmark.plan import RunSpec, Selection, content_hash
from benchmark.records import ResultsError, read_suite_file, sealed_json, write_text_once

KeyT = TypeVar("KeyT")


class _Division(BaseModel):
    """Which shard has which run, longest first; runs are named suite/model/dataset/seed-n."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[tuple[str, ...], ...]
    costs: dict[str, float]


def divide(costs: Mapping[KeyT, float], count: int) -> list[list[KeyT]]:
    """Return `count` parts of nearly equal cost; each key is in one, the costliest first.

    Longest processing time first (Graham 1969): each in turn goes to the part that has least, so
    the costliest part costs at most 4/3 - 1/(3 count) times that of the best division.

    Args:
        costs: what each costs, at least 0. Where costs tie, the keys' order decides.
        count: of parts, at least 1.

    >>> divide({"a": 5, "b": 3, "c": 3, "d": 1}, 2)
    [['a', 'd'], ['b', 'c']]
    """
    parts: list[list[KeyT]] = [[] for _ in range(count)]
    loads = [(0.0, 0, index) for index in range(count)]  # sorted, so it is a heap
    for key in longest_first(costs):
        load, size, index = heapq.heappop(loads)
        parts[index].append(key)
        heapq.heappush(loads, (load + costs[key], size + 1, index))
    return parts


def longest_first(costs: Mapping[KeyT, float]) -> list[KeyT]:
    """Return the keys by falling cost; equal ones stay in their order."""
    return sorted(costs, key=lambda key: -costs[key])


def part_of(
    selection: Selection, shard: Shard | None, results: Path, *, keep: bool = True
) -> Selection:
    """Return a selection with the runs of a shard alone, longest first.

    Args:
        selection: the runs of the whole command.
        shard: which part; None: all.
        results: the results tree, whose folder of the suite keeps the division.
        keep: write the division down where this is the first command that asks for it.

    Raises:
        ResultsError: the division that lies there cannot be used.
        OSError: it cannot be written.
    """
    if shard is None:
        return selection
    by_name = {f"{spec.suite}/{spec.name}": spec for spec in selection.specs}
    path = _path(sorted(by_name), shard.count, selection.suite, results)
    division = _read(path, by_name, shard.count)
    if division is None:
        division = _divided(selection.specs, shard.count, results)
        if keep:
            write_text_once(path, sealed_json(division.model_dump_json(indent=1)))
            # Another shard may have been first.
            division = _read(path, by_name, shard.count) or division
    own = [by_name[name] for name in division.shards[shard.index - 1]]
    return replace(selection, specs=own)


def _path(names: Sequence[str], count: int, suite: str, results: Path) -> Path:
    """Return where a division is kept: other runs, or another count, are another division."""
    key = content_hash({"runs": list(names), "shards": count})
    return results / suite / f"shards-{count}-{key}.json"


def _divided(specs: Sequence[RunSpec], count: int, results: Path) -> _Division:
    costs = relative_costs(specs, results)
    named = {f"{suite}/{name}": cost for (suite, name), cost in sorted(costs.items())}
    return _Division(shards=tuple(map(tuple, divide(named, count))), costs=named)


def _read(path: Path, names: Mapping[str, RunSpec], count: int) -> _Division | None:
    remedy = "; remove it, and let no shard run until one has written it anew"
    division = read_suite_file(path, _Division, "no division into shards", remedy)
    if division is None:
        return None
    held = sorted(name for part in division.shards for name in part)
    if len(division.shards) != count or held != sorted(names):
        raise ResultsError(f"{path}: does not hold each run once{remedy}")
    return division


def summarise_shard(
    specs: Sequence[RunSpec], own: Sequence[RunSpec], shard: Shard, results: Path
) -> None:
    """Say what is left of the whole, and which command follows.

    Args:
        specs: all runs of which the shard is a part.
        own: its own.
        shard: which it is.
        results: the results tree.
    """
    others = [spec for spec in specs if spec not in own]
    left = sum(not _is_completed(spec, results) for spec in others)
    if left:
        print(f"shard {shard}: {left} of the {len(specs)} runs are still with other shards")
    else:
        print(f"shard {shard}: the other shards' runs are all there")
    print(
        "When all shards have ended, the same command without --shard times the models and writes "
        "the report."
    )


def _is_completed(spec: RunSpec, results: Path) -> bool:
    record = usable_head(spec.folder(results))
    return record is not None and record.status == "completed"
