"""A local file or folder -> the tables of its splits, or why it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.data.columns import ArrowColumn
from benchmark.data.image_folder import read_image_folder, split_folders
from benchmark.data.images import LFS_POINTER
from benchmark.data.table import Table
from benchmark.data.text_files import COMPRESSIONS, parse_csv, parse_json, read_text
from benchmark.failures import UnavailableError, first_line
from benchmark.records import fingerprint_path
from benchmark.shell import special_kind

if TYPE_CHECKING:
    import datasets

ResultT = TypeVar("ResultT")
SplitReader = Callable[[], list[Table]]

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_FORMATS |= dict.fromkeys((".json", ".jsonl", ".ndjson"), "json")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Wanted:
    """What an entry asks of its files.

    Attributes:
        splits: names of source splits.
        columns: names of the columns that each must have.
        images: whether the rows are images.
        encoding: of text files; None: UTF-8.
    """

    splits: Sequence[str]
    columns: Sequence[str]
    images: bool
    encoding: str | None = None


def find_splits(path: Path, wanted: Wanted) -> dict[str, SplitReader]:
    """Return each split at `path` and how it is read; nothing is read yet.

    Raises:
        UnavailableError: nothing at `path` can be read, or two files claim one split.
    """
    if path.is_file():
        return {"train": _file_reader([path], wanted)}
    kind = special_kind(path)
    if kind is not None:
        raise UnavailableError(f"{path} is {kind}, neither a file nor a folder")
    if not path.is_dir():
        raise UnavailableError(f"no such file or folder: {path}")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved_splits(path)
    folder = path / "data" if not _data_files(path) and (path / "data").is_dir() else path
    files = _split_files(folder)
    if wanted.images and not files.keys() & set(wanted.splits):
        folders = split_folders(path, wanted.splits)
        if not files or folders != {"train": path}:
            return _image_splits(path, folders)
    if not files:
        raise UnavailableError(_nothing_readable(path))
    if len(files) == 1 and not files.keys() & set(wanted.splits):
        files = {"train": next(iter(files.values()))}
    return {split: _file_reader(parts, wanted) for split, parts in files.items()}


def _file_reader(paths: Sequence[Path], wanted: Wanted) -> SplitReader:
    return lambda: [read_file(path, wanted) for path in paths]


def _format(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
        packed = _FORMATS.get(suffixes[-1]) if suffixes else None
        return None if packed == "parquet" else packed
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _split_name(path: Path) -> str:
    name = path.stem
    if path.suffix.lower() in COMPRESSIONS:
        name = Path(name).stem
    shard = _SHARD.fullmatch(name)
    return shard[1] if shard else name


def _data_files(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and _format(file) is not None
    ]


def _split_files(folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for file in _data_files(folder):
        splits.setdefault(_split_name(file), []).append(file)
    for split, files in splits.items():
        whole = [file for file in files if _SHARD.search(file.name) is None]
        if whole and len(files) > 1:
            raise UnavailableError(
                f"{folder}: {' and '.join(file.name for file in files[:2])} both are the split "
                f"'{split}': remove one, or name one file as the path"
            )
    return splits


def _nothing_readable(path: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    found = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"{path}: no files that are {_known_formats()}; found: {found or 'nothing'}"


def _known_formats() -> str:
    return f"{', '.join(_FORMATS)} (text files also with {', '.join(sorted(COMPRESSIONS))})"


# --- one file -------------------------------------------------------------------------------------


def require_fetched(path: Path) -> None:
    """Refuse a file in whose place git-lfs has left a pointer.

    Raises:
        UnavailableError: naming the file and the command that fetches it.
    """
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UnavailableError(
                f"git-lfs has not fetched {path.name}: run 'git lfs pull' in {path.parent}"
            )


def read_file(path: Path, wanted: Wanted) -> Table:
    """Read one file as its suffix says.

    Raises:
        UnavailableError: it is of another kind, not fetched by git-lfs, or not what its suffix
            says.
    """
    kind = _format(path)
    if kind is None:
        raise UnavailableError(f"{path.name} is not one of {_known_formats()}")
    require_fetched(path)
    if kind == "parquet":
        return _read_parquet(path)
    text = read_text(path, wanted.encoding)
    if kind == "json":
        return Table(path.name, parse_json(text, path.name), path.parent)
    columns = parse_csv(text, path.name, wanted.columns, tabs=kind == "tsv")
    return Table(path.name, columns, path.parent, typed=False)


def _read_parquet(path: Path) -> Table:
    import datasets

    read = _with_cause(
        lambda: datasets.Dataset.from_parquet(str(path), cache_dir=_prepared(path)), path.name
    )
    return from_dataset(read, path.name, path.parent)


def _prepared(path: Path) -> str:
    """Return where the `datasets` library keeps what it makes of a file or folder.

    It tells files by path and time, which `rsync -a` and `tar` keep when the content changes; so
    each content has a folder of its own.
    """
    import datasets

    root = Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    return str(root / "local-files" / fingerprint_path(path)[:32])


def from_dataset(table: datasets.Dataset, source: str, folder: Path | None = None) -> Table:
    """Return a table of the `datasets` library; images stay encoded, and are read on access."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    lists = {name: getattr(feature, "names", None) for name, feature in table.features.items()}
    return Table(
        source=source,
        columns={
            name: ArrowColumn(table.select_columns([name]), name) for name in table.column_names
        },
        folder=folder,
        class_names={name: tuple(map(str, names)) for name, names in lists.items() if names},
    )


def from_datasets(splits: Mapping[Any, datasets.Dataset]) -> dict[str, SplitReader]:
    """Return how each split of a `datasets` dictionary is read."""

    def reader(name: str, table: datasets.Dataset) -> SplitReader:
        return lambda: [from_dataset(table, f"split '{name}'")]

    return {str(name): reader(str(name), table) for name, table in splits.items()}


def _saved_splits(path: Path) -> dict[str, SplitReader]:
    import datasets

    saved = _with_cause(lambda: datasets.load_from_disk(str(path)), path.name)
    return from_datasets(saved if isinstance(saved, dict) else {"train": saved})


def _image_splits(path: Path, folders: Mapping[str, Path]) -> dict[str, SplitReader]:
    import datasets

    if any(
        file.suffix in _FORMATS for file in path.rglob("metadata.*")
    ):  # labels listed as the hub's image folders list them
        return from_datasets(
            _with_cause(
                lambda: datasets.load_dataset(
                    "imagefolder", data_dir=str(path), cache_dir=_prepared(path)
                ),
                path.name,
            )
        )

    def reader(folder: Path) -> SplitReader:
        return lambda: [read_image_folder(folder)]

    return {split: reader(folder) for split, folder in folders.items()}


def _with_cause(read: Callable[[], ResultT], name: str) -> ResultT:
    """Read with a library that hides why it fails behind a sentence that says nothing."""
    import datasets

    try:
        return read()
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None or cause.__context__ is not None:
            cause = cause.__cause__ or cause.__context__ or cause
        raise UnavailableError(f"{name}: {first_line(cause)}") from error
