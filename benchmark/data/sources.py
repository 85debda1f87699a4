"""Tables of a dataset's source splits -> rows; gaps are refused, or left out and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from benchmark.arrays import BoolArray, IntArray
from benchmark.data.columns import TableImages, check_images, read_texts
from benchmark.data.images import ImageReading
from benchmark.data.labels import Labels, class_list, class_positions, read_labels
from benchmark.data.rows import Image, Rows
from benchmark.data.table import Table, listed, shown
from benchmark.failures import RunError
from benchmark.registry import DatasetEntry

_BACKGROUNDS = {"white": 255, "black": 0}


class Sources:
    """The tables of every source split that an entry names."""

    def __init__(
        self, entry: DatasetEntry, tables: Mapping[str, Sequence[Table]], notes: list[str]
    ) -> None:
        self.entry, self.tables, self.notes = entry, tables, notes
        classes = tuple(map(str, entry.classes or ()))
        base = entry.splits.train or str(entry.splits.test)
        for name in sorted(tables, key=lambda name: name != base):
            self._require_rows_and_labels(name, is_base=name == base)
        self.labels = {
            name: [read_labels(table, entry.columns.label, classes) for table in parts]
            for name, parts in tables.items()
        }
        for name in tables:
            self._refuse_unlabelled(name)
        others = [labels for name in tables if name != base for labels in self.labels[name]]
        self.label_names = class_list(self.labels[base], others, classes)
        self.kept: list[tuple[TableImages, IntArray]] = []

    def _require_rows_and_labels(self, name: str, *, is_base: bool) -> None:
        label = self.entry.columns.label
        for table in self.tables[name]:
            if label not in table.columns and not is_base:
                raise RunError(
                    f"{table.source} has no labels: there is no column '{label}' "
                    f"({listed(list(table.columns))}). Take another split, or hold rows out of "
                    f"train: splits: {{test: 0.2}}"
                )
            table.column(label)
        if not any(map(len, self.tables[name])):
            raise RunError(f"{self.tables[name][0].source} has no rows")

    def _refuse_unlabelled(self, split: str) -> None:
        parts = self.labels[split]
        total = sum(len(labels.names) for labels in parts)
        missing = sum(list(labels.names).count(None) for labels in parts)
        if missing == total:
            raise RunError(
                f"the split '{split}' has no labels (hidden test labels are -1); take another, "
                "e.g. splits: {test: validation}"
            )
        if missing and not self.entry.drop_unlabelled:
            first = next(labels for labels in parts if None in labels.names)
            raise RunError(
                f"{missing:,} of {total:,} rows of the split '{split}' have no label (the first: "
                f"{first.first(None)}{_written(first)}); leave them out with drop_unlabelled: true"
                f"{', or list it among all classes: [...] if it is one' if _written(first) else ''}"
            )
        if missing:
            self.notes.append(f"'{split}': {missing:,} of {total:,} rows without a label left out")

    def rows(self) -> dict[str, Rows]:
        """Return the rows of every split; ids are unique over all of them."""
        offset = 0
        rows = {}
        for name, parts in self.tables.items():
            rows[name] = self._split_rows(name, offset)
            offset += sum(map(len, parts))
        return rows

    def _split_rows(self, split: str, first_id: int) -> Rows:
        tables, columns = self.tables[split], self.entry.columns
        names = chain.from_iterable(labels.names for labels in self.labels[split])
        labels = class_positions(names, self.label_names)
        missing = np.zeros(len(labels), dtype=bool)
        texts = self._texts(split, columns.text, missing)
        pairs = self._texts(split, columns.text_pair, missing)
        images = None
        if columns.image is not None:
            reading = ImageReading(_BACKGROUNDS[self.entry.background], self.entry.pixel_range)
            parts = [TableImages(table, columns.image, reading) for table in tables]
            gaps = np.concatenate([part.missing() for part in parts])
            self._refuse_missing(split, columns.image, gaps)
            missing |= gaps
            images = _JoinedImages(parts)
        kept = np.flatnonzero((labels >= 0) & ~missing)
        if not len(kept):
            raise RunError(f"the split '{split}' has no row with all it needs")
        if images is not None:
            self.kept += images.located(kept)
        # A missing text is dropped with its row below, so that None never reaches the rows.
        rows = Rows(
            ids=np.arange(first_id, first_id + len(labels)),
            labels=labels,
            texts=texts,
            text_pairs=pairs,
            images=images,
        )
        return rows if len(kept) == len(rows) else rows.take(kept)

    def _texts(self, split: str, column: str | None, missing: BoolArray) -> list[str] | None:
        """Return a text column, "" where it is missing, which is marked in `missing`."""
        if column is None:
            return None
        texts = [text for table in self.tables[split] for text in read_texts(table, column)]
        gaps = np.array([text is None for text in texts], dtype=bool)
        self._refuse_missing(split, column, gaps)
        missing |= gaps
        blank = sum(text is not None and not text.strip() for text in texts)
        if blank:
            self.notes.append(
                f"'{split}': {blank:,} of {len(texts):,} rows are blank in '{column}'"
            )
        return [text or "" for text in texts]

    def _refuse_missing(self, split: str, column: str, gaps: BoolArray) -> None:
        if not gaps.any():
            return
        count = f"{int(gaps.sum()):,} of {len(gaps):,} rows"
        if self.entry.drop_missing:
            self.notes.append(f"'{split}': {count} with nothing in '{column}' left out")
            return
        where = _located(self.tables[split], int(np.flatnonzero(gaps)[0]), column)
        raise RunError(
            f"{count} of the split '{split}' have nothing in '{column}' (the first: {where}); "
            "leave them out with drop_missing: true"
        )

    def check_images(self) -> None:
        """Decode every image that is used, so that a broken one is found before training."""
        for images, rows in self.kept:
            check_images(images, rows.tolist())


def _written(labels: Labels) -> str:
    """Return what stands where the first label is missing, if anything does."""
    value = labels.table.columns[labels.column][list(labels.names).index(None)]
    return f": '{shown(value)}'" if value is not None and str(value).strip() else ""


def _located(tables: Sequence[Table], row: int, column: str) -> str:
    for table in tables:
        if row < len(table):
            return table.at(row, column)
        row -= len(table)
    raise IndexError(row)


@dataclass(frozen=True)
class _JoinedImages:
    """The images of several tables, one after the other."""

    parts: Sequence[TableImages]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Image:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def located(self, rows: IntArray) -> list[tuple[TableImages, IntArray]]:
        """Return each part with those of its own rows that are among `rows`."""
        starts = np.cumsum([0, *map(len, self.parts)])
        return [
            (part, rows[(rows >= start) & (rows < start + len(part))] - start)
            for part, start in zip(self.parts, starts[:-1], strict=True)
        ]
