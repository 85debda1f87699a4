"""Whether the local files that a registry names are there and hold what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmark.registry.entries import DatasetEntry
from benchmark.registry.loading import RegistryFiles

CheckData = Callable[[DatasetEntry], str | None]
"""Returns why the data of an entry cannot be used, or None. Given by whoever can read data."""


def local_problems(files: RegistryFiles, check_data: CheckData) -> Iterator[str]:
    """Yield a problem for each checkpoint folder, data file or data folder that a run would miss.

    Args:
        files: a valid registry.
        check_data: asked about each data set with a path.
    """
    for name, model in files.registry.models.items():
        if model.path is not None and not (model.path / "config.json").is_file():
            kind = "has no config.json" if model.path.is_dir() else "is no folder"
            text = f"{model.path.absolute()} {kind}: a checkpoint is one of save_pretrained's"
            yield files.describe(("models", name, "path"), text)
    for name, entry in files.registry.datasets.items():
        problem = check_data(entry) if entry.path is not None else None
        if problem is not None:
            yield files.describe(("datasets", name, "path"), problem)
