"""Images in folders named after their labels, themselves in folders named after splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmark.data.table import Table
from benchmark.failures import RunError

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "apng avif bmp bw dds dib gif icns ico im jfif jp2 jpe jpeg jpg pbm pcx pgm png pnm ppm",
        "psd ras rgb rgba sgi tga tif tiff webp xbm j2c j2k jpc jpf jpx cur dcx blp",
    )
    for name in names.split()
)
_SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
_CLASS_FOLDERS = "put each image into a folder named after its label, or list the images in a csv "
_CLASS_FOLDERS += "file with the columns image (their paths) and label"


def split_folders(root: Path, wanted: Iterable[str]) -> dict[str, Path]:
    """Return the folder of each split: named like it, or with a word for it (`val`, `test_set`).

    Without such folders, all images are `train`.
    """
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and _counts(folder)]
    splits = {folder.name: folder for folder in folders if folder.name in wanted}
    for folder in folders:
        name = _split_of(folder.name)
        if name is not None:
            splits.setdefault(name, folder)
    if splits:
        order = [*_SPLIT_WORDS, *sorted(splits.keys() - _SPLIT_WORDS)]
        return {name: splits[name] for name in order if name in splits}
    if len(folders) == 1 and not any(_is_image(file) for file in folders[0].iterdir()):
        return split_folders(folders[0], wanted)
    return {"train": root}


def _split_of(name: str) -> str | None:
    words = set(re.split(r"[-._ 0-9]+", name.casefold()))
    return next((split for split, known in _SPLIT_WORDS.items() if words & known), None)


def _counts(path: Path) -> bool:
    """Say whether a file or folder is no by-product of an operating system or a notebook."""
    return not path.name.startswith(".") and path.name != "__MACOSX"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and _counts(path)


def read_image_folder(folder: Path) -> Table:
    """Return the images below a split's folder, labelled by the folders they lie in.

    Raises:
        RunError: there are none, or they lie in no folder of their label, or at several depths.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"), key=str)
        if path.is_file() and all(map(_counts, [path, *_folders_between(folder, path)]))
    ]
    images = [path for path in files if _is_image(path)]
    if not images:
        raise RunError(f"no images in {folder}{_found(files)}")
    base = _folder_of_classes(folder, images)
    for path in images:
        if path.parent.parent != base:
            raise RunError(_misplaced(path, base, folder))
    others = [path for path in files if path not in set(images) and path.parent.parent == base]
    return Table(
        source=f"folder '{folder.name}'",
        columns={
            "image": [str(path.absolute()) for path in images],
            "label": [path.parent.name for path in images],
        },
        notes=_notes(folder, base, images, others),
    )


def _folders_between(folder: Path, path: Path) -> list[Path]:
    return [parent for parent in path.parents if folder in parent.parents]


def _folder_of_classes(folder: Path, images: list[Path]) -> Path:
    """Return the folder that holds the class folders: some archives add one around them all."""
    base = folder
    while True:
        parts = [path.relative_to(base).parts for path in images]
        if min(map(len, parts)) <= 2 or len({part[0] for part in parts}) > 1:
            return base
        base = base / parts[0][0]


def _misplaced(path: Path, base: Path, folder: Path) -> str:
    shown = path.relative_to(folder.parent)
    if path.parent == base:
        return f"{shown} lies in no folder of its label: {_CLASS_FOLDERS}"
    return (
        f"{shown} lies deeper than one folder below '{base.name}': which folder names its label? "
        "Leave one level of folders below each split"
    )


def _notes(folder: Path, base: Path, images: list[Path], others: list[Path]) -> tuple[str, ...]:
    notes = []
    if others:
        notes.append(
            f"'{folder.name}': {len(others):,} files that are no images are left aside"
            f"{_found(others)}"
        )
    used = {path.parent for path in images}
    empty = [p.name for p in sorted(base.iterdir()) if p.is_dir() and _counts(p) and p not in used]
    if empty:
        notes.append(f"'{folder.name}': no images in {', '.join(empty[:5])}")
    return tuple(notes)


def _found(files: Iterable[Path]) -> str:
    kinds = Counter(path.suffix.lower() or "without suffix" for path in files)
    return f" ({', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common(4))})" if kinds else ""
