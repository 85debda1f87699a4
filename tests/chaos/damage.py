"""A finished results tree to damage, and what must be the same in it whatever happens."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import RunSpec, execute
from benchmark.execution import resolve, stale_stages
from benchmark.records import RunFolder, read_split, split_names

VOLATILE = {"finished_at", "provenance"}


def flip(path: Path, rng: random.Random, *, keep_time: bool) -> int:
    """Flip one random bit of a file, as a disk does (time kept) or a program; return where."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    position = rng.randrange(len(content))
    content[position] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return position


def run_command(specs: Sequence[RunSpec], results: Path) -> int:
    """Do what the command does: execute what is stale; return how many runs that was."""
    stale = [spec for spec in specs if stale_stages(resolve(spec, results), results)]
    for spec in stale:
        record = execute(spec, results)
        assert record.status == "completed", record.failure
    return len(stale)


def figures(folder: RunFolder) -> dict[str, Any]:
    """Return every number that a run leaves: of its record, logits, labels and row ids."""
    record = folder.read_record()
    assert record is not None
    found = record.model_dump(mode="json", exclude=VOLATILE)
    for name in ("seconds", "resumed_at_epoch"):  # how it went, not what it gave
        (found["training"] or {}).pop(name, None)
    for name in split_names(folder):
        split = read_split(folder, name)
        found[name] = (split.ids.tobytes(), split.logits.tobytes(), split.labels.tobytes())
    return found


@dataclass
class Tree:
    """A results tree with its runs, and their figures as they were made."""

    specs: list[RunSpec]
    results: Path
    expected: list[dict[str, Any]]

    @classmethod
    def make(cls, specs: list[RunSpec], results: Path) -> Tree:
        run_command(specs, results)
        return cls(specs, results, [figures(spec.folder(results)) for spec in specs])

    def files(self) -> list[Path]:
        """Return every file of the tree that holds anything."""
        found = (path for path in self.results.rglob("*") if path.is_file())
        return sorted(path for path in found if path.stat().st_size)

    def is_as_made(self) -> bool:
        return [figures(spec.folder(self.results)) for spec in self.specs] == self.expected

    def forget(self, *, models: bool) -> None:
        """Remove results, so that the next command reads what they were made from."""
        for spec in self.specs:
            folder = spec.folder(self.results)
            folder.record.unlink(missing_ok=True)
            folder.logits.unlink(missing_ok=True)
            if models:
                folder.training.unlink(missing_ok=True)

    def tidy(self) -> int:
        """Remove what was set aside; return how much there was."""
        aside = [path for path in self.results.rglob("*.corrupt*") if path.exists()]
        for path in aside:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return len(aside)
