"""Which arrays hold what: by the user's names, else by convention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.arrays import AnyArray
from benchmark.importing.errors import SourceError
from benchmark.importing.layout import (
    PART_NAMES,
    SPLIT_NAMES,
    SPLITS,
    Layout,
    Part,
    RawSplit,
    SplitName,
    normal,
)
from benchmark.importing.source import ArrayFile
from benchmark.registry import did_you_mean

_CLASS_NAME_KEYS = ("label_names", "class_names", "classes")
_SPLIT_WORDS = {"train", "training"}.union(*SPLIT_NAMES.values())


@dataclass(frozen=True)
class Arrays:
    """The arrays of all array files together, by name."""

    files: Sequence[tuple[SplitName | None, ArrayFile]]
    layout: Layout
    label_names: tuple[str, ...] | None

    def splits(self) -> Iterator[tuple[SplitName, RawSplit]]:
        """Yield the splits whose logits are found."""
        for (_, part), name in self.layout.keys.items():
            if not any(name in file.names for _, file in self.files):
                names = [name for _, file in self.files for name in file.names]
                raise SourceError(
                    f"{self._all_files()}: no array '{name}' ({part}){did_you_mean(name, names)}"
                )
        for split in SPLITS:
            logits = self._find(split, "logits")
            if logits is not None:
                yield split, self._split(split, *logits)

    def _split(self, split: SplitName, file: ArrayFile, key: str) -> RawSplit:
        found = self._find(split, "labels")
        if found is None:
            raise SourceError(
                f"{file.path}: '{key}' has no labels beside it; name them with --{split}-labels "
                f"(the file has {', '.join(file.names)})"
            )
        ids = self._find(split, "ids")
        labels = found[0].read(found[1])
        logits = self._logits(split, file, key, len(labels) if labels.ndim else 0)
        return RawSplit(
            path=file.path,
            logits=logits,
            labels=labels,
            ids=None if ids is None else ids[0].read(ids[1]),
            rows=np.arange(len(logits)),
            columns=tuple(f"{key}[:, {k}]" for k in range(logits.shape[1])),
            label_place=found[1],
            id_place="" if ids is None else ids[1],
            array=key,
            class_names=self._class_names(),
        )

    def _logits(self, split: SplitName, file: ArrayFile, key: str, n_labels: int) -> AnyArray:
        """Return logits [n, K]; one score a row becomes one column.

        Raises:
            SourceError: the array has another shape, or its rows and columns are exchanged.
        """
        logits = file.read(key)
        where = f"{file.path}: array '{key}' has shape {_shape(logits)}"
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.ndim == 2 and len(logits) != n_labels == logits.shape[1]:
            raise SourceError(
                f"{where}, and there are {n_labels:,} {split} labels: it seems to be [classes, "
                "rows], but logits are [rows, classes]; transpose it (array.T) and save it again"
            )
        if logits.ndim == 3:
            raise SourceError(
                f"{where}; logits are [rows, classes]. If these are tokens' logits, save those of "
                "the tokens that have a label, one a row"
            )
        if logits.ndim != 2:
            raise SourceError(f"{where}; logits are [rows, classes]")
        return logits

    def _find(self, split: SplitName, part: Part) -> tuple[ArrayFile, str] | None:
        """Return the file and key of a part: the user's, a conventional one, or a bare one."""
        files = [file for role, file in self.files if role in (None, split)]
        wanted = self.layout.keys.get((split, part))
        if wanted is not None:
            matches = [(file, wanted) for file in files if wanted in file.names]
            return self._only(matches, split, part)
        claimed = set(self.layout.keys.values())
        keys = [(file, key) for file in files for key in file.names if key not in claimed]
        bare = [
            (file, key)
            for role, file in self.files
            for key in file.names
            if role in ((split,) if split == "calibration" else (split, None))
            and key not in claimed
        ]
        for candidates, endings in (
            (keys, [f"{s}_{{0}}" for s in SPLIT_NAMES[split]]),
            (keys, [f"{{0}}_{s}" for s in SPLIT_NAMES[split]]),
            (bare, ["{0}"]),
        ):
            matches = self._by_alias(candidates, part, endings)
            if matches:
                return self._only(matches, split, part)
        return None

    def _by_alias(
        self, keys: Sequence[tuple[ArrayFile, str]], part: Part, endings: Sequence[str]
    ) -> list[tuple[ArrayFile, str]]:
        """Return the keys that the first alias with any names; of labels, all that differ."""
        found: list[tuple[ArrayFile, str]] = []
        for alias in PART_NAMES[part]:
            words = {ending.format(alias) for ending in endings}
            matches = [(file, key) for file, key in keys if _means(file, key, words, part)]
            if part != "labels" or not found:
                found += matches
            else:  # the same labels by another name are no question
                first = found[0][0].read(found[0][1])
                found += [m for m in matches if not np.array_equal(m[0].read(m[1]), first)]
            if found and part != "labels":
                break
        return found

    def _only(
        self, matches: Sequence[tuple[ArrayFile, str]], split: SplitName, part: Part
    ) -> tuple[ArrayFile, str] | None:
        if len(matches) > 1:
            shown = " and ".join(f"'{key}' in {file.path}" for file, key in matches[:2])
            raise SourceError(
                f"{shown} could both be the {part} of the {split} split; say which with "
                f"--{split}-{part} KEY, or give files with --calibration FILE and --test FILE"
            )
        return matches[0] if matches else None

    def _class_names(self) -> tuple[str, ...] | None:
        if self.label_names is not None:
            return self.label_names
        for _, file in self.files:
            for key in file.names:
                if normal(key) in _CLASS_NAME_KEYS:
                    return tuple(str(name) for name in file.read(key).reshape(-1).tolist())
        return None

    def _all_files(self) -> str:
        return ", ".join(str(file.path) for _, file in self.files)


def _means(file: ArrayFile, key: str, words: set[str], part: Part) -> bool:
    """Say whether an array's name is one of `words`, or, of an .npy file, ends with one.

    The name of an .npy file is its stem, where the model's name may come first; not so the name
    of a split that is not asked for.
    """
    name = normal(key)
    if name in words:
        return True
    ends = [word for word in words if name.endswith(f"_{word}")]
    if file.format != "npy" or not ends or _part_named(name) != part:
        return False
    before = name.removesuffix(max(ends, key=len)).split("_")
    return not _SPLIT_WORDS & set(before)


def _part_named(name: str) -> Part | None:
    """Return the part that the end of a name means: `label_ids` are labels, not ids."""
    aliases = [(alias, part) for part, names in PART_NAMES.items() for alias in names]
    words = [word for word in name.split("_") if word not in _SPLIT_WORDS]
    ends = [pair for pair in aliases if f"_{'_'.join(words)}".endswith(f"_{pair[0]}")]
    return max(ends, key=lambda pair: len(pair[0]))[1] if ends else None


def _shape(array: AnyArray) -> str:
    return f"[{', '.join(str(size) for size in array.shape)}]"
