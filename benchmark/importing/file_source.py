"""Files of arrays or tables as the source of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.importing.array_layout import Arrays
from benchmark.importing.checks import Checked, Reading, check_splits
from benchmark.importing.errors import SourceError
from benchmark.importing.layout import Layout, RawSplit, SplitName, some
from benchmark.importing.source import ArrayFile, open_source
from benchmark.importing.table_layout import table_splits
from benchmark.importing.tables import TableFile


@dataclass(frozen=True)
class FileSource:
    """Files of arrays or tables that hold one run's splits.

    Attributes:
        files: what to read; each with the one split it holds, or None.
        layout: what the files call things.
        reading: how their values are to be understood.
    """

    files: tuple[tuple[SplitName | None, Path], ...]
    layout: Layout
    reading: Reading

    def decides(self, digests: Sequence[tuple[SplitName | None, str, str]]) -> Mapping[str, Any]:
        """Return what decides the stored logits.

        File names count only where they are read: an .npy file's name says what it holds. What
        was not asked for is left out, so that a new option changes no key.
        """
        layout, reading = self.layout, self.reading
        values = reading.values or "logits"
        return {
            "files": [
                (role, digest, name if name.endswith(".npy") else "")
                for role, name, digest in digests
            ],
            "keys": sorted(((*place, name) for place, name in layout.keys.items())),
            "columns": (layout.label, layout.split, layout.row_id, layout.logits),
            "split_values": sorted(layout.split_values.items()),
            "label_names": reading.label_names,
            "probabilities": {"logits": False, "probabilities": True}.get(values, values),
            "probability_floor": reading.probability_floor,
            "calibration_fraction": reading.calibration_fraction,
            **({} if layout.ignored is None else {"ignored": layout.ignored}),
        }

    def describe(self) -> Mapping[str, Any]:
        """Return how the values were understood."""
        return {"values": self.reading.values or "logits"}

    def read(self) -> Checked:
        """Read and check the files; nothing is written.

        Raises:
            SourceError: the files cannot be used.
        """
        sources = [(role, open_source(path)) for role, path in self.files]
        found, notes = find_splits(sources, self.layout, self.reading.label_names)
        checked = check_splits(found, self.reading)
        return Checked(checked.splits, checked.label_names, (*notes, *checked.notes))


def find_splits(
    sources: Sequence[tuple[SplitName | None, ArrayFile | TableFile]],
    layout: Layout,
    label_names: tuple[str, ...] | None,
) -> tuple[dict[SplitName, RawSplit], tuple[str, ...]]:
    """Return the splits that the sources hold, unchecked, and notes on what was left out.

    Args:
        sources: files, each with the one split that it is said to hold, or None.
        layout: what the user calls things.
        label_names: the classes' names in class order, if the user gave them.

    Raises:
        SourceError: something named is not there, or a split is in two places.
    """
    arrays = [(role, source) for role, source in sources if isinstance(source, ArrayFile)]
    tables = [(role, source) for role, source in sources if isinstance(source, TableFile)]
    if layout.keys and not arrays:
        raise SourceError("--calibration-logits and its like name arrays, but no file has arrays")
    if layout.asks_for_columns() and not tables:
        raise SourceError("--label-column and its like name columns, but no file is csv or parquet")
    found: list[tuple[SplitName, RawSplit]] = []
    notes: list[str] = []
    if arrays:
        found += Arrays(arrays, layout, label_names).splits()
        if not found:
            names = some(name for _, file in arrays for name in file.names)
            files = ", ".join(str(file.path) for _, file in arrays)
            raise SourceError(
                f"{files}: no logits found among {names}; name them with --test-logits, "
                "--test-labels, --calibration-logits and --calibration-labels"
            )
    for role, table in tables:
        parts, left_out = table_splits(table, role, layout, label_names)
        found += parts
        notes += [*table.notes, *left_out]
    return _each_once(found), tuple(dict.fromkeys(notes))


def _each_once(found: Sequence[tuple[SplitName, RawSplit]]) -> dict[SplitName, RawSplit]:
    splits: dict[SplitName, RawSplit] = {}
    for name, split in found:
        if name in splits:
            raise SourceError(
                f"{split.path} and {splits[name].path} both hold {name} rows; say which file is "
                "what with --calibration FILE and --test FILE"
            )
        splits[name] = split
    return splits
