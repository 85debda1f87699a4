"""Which rows a report may read again. What a results tree says of them may come from anyone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.records import ResultsError
from benchmark.registry import DatasetEntry, Registry


@dataclass(frozen=True)
class RowSources:
    """What the reader of a report lets it read rows of; embedded data sets always.

    `spec.json` of a run names a file, or a data set of the hub, and is as foreign as the tree it
    lies in: followed blindly it would show the reader's own files, and use the reader's token.

    Attributes:
        roots: local files and folders: what is one, or lies in one, is read.
        repositories: data sets of the hub, owner/name.
    """

    roots: tuple[Path, ...] = ()
    repositories: frozenset[str] = frozenset()

    @classmethod
    def named_by(cls, registry: Registry | None, roots: Iterable[Path] = ()) -> RowSources:
        """Return what the data sets of a registry name, and more local folders."""
        entries = () if registry is None else registry.datasets.values()
        return cls(
            (*roots, *(entry.path for entry in entries if entry.path is not None)),
            frozenset(entry.hub for entry in entries if entry.hub is not None),
        )

    def require(self, entry: DatasetEntry) -> None:
        """Refuse a data set that the reader has not named.

        Raises:
            ResultsError: saying what it is, and how the reader names it.
        """
        if entry.path is not None:
            place = entry.path.resolve()  # a link does not lead out of a root
            if not any(place.is_relative_to(root.resolve()) for root in self.roots):
                raise ResultsError(
                    f"the results say they are in {entry.path}, which is in no data set of the "
                    "registry: if it is yours to show, name its folder with python -m "
                    "benchmark.report --data-root"
                )
        elif entry.hub is not None and entry.hub not in self.repositories:
            raise ResultsError(
                f"the results say they are of {entry.hub} on the hub, which is no data set of the "
                "registry: name one that has it with python -m benchmark.report --registry"
            )


def row_source(spec: dict[str, Any], sources: RowSources) -> DatasetEntry:
    """Return the data set whose rows a run's `spec.json` names, if they may be read.

    Raises:
        ResultsError: saying why not; the same for the same spec and sources.
    """
    if spec.get("dataset") is None:
        imported = spec.get("imported") is not None
        why = "logits are imported without them" if imported else "spec.json is missing"
        raise ResultsError(f"nothing in the run's folder says where they are ({why}).")
    try:
        entry = DatasetEntry.model_validate(spec["dataset"])
    except ValidationError as error:
        raise ResultsError(str(error)[:200]) from None
    sources.require(entry)
    return entry
