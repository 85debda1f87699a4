"""`report.json`: what a report was made of and what it consists of, so that it can be kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.markup import ascii_json, without_credentials
from benchmark.records import ResultsError, read_json_text, sealed_json
from benchmark.report.data import MARKER
from benchmark.report.summary import Summary
from benchmark.shell import special_kind

if TYPE_CHECKING:
    from benchmark.report.contents import Contents
    from benchmark.report.drawings import Drawings


class StoredDrawing(BaseModel):
    """What a figure's file does not say of it; see `figure_style.Drawing`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    caption: str
    alt: str
    method: str


class StoredReport(BaseModel):
    """What `report.json` says.

    Attributes:
        key: of all that the report shows (see `inputs.inputs_key`); None: draw it anyway.
        drawings: figures by the key of what they show; None: that gives no figure.
        files: hashes of the report's files.
        summary: what a command ends with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    report: Literal[2] = 2
    key: str | None
    drawings: dict[str, StoredDrawing | None]
    files: dict[str, str]
    summary: Summary

    @classmethod
    def read(cls, folder: Path) -> StoredReport | None:
        """Return what a report says of itself; None: it says nothing that can be used."""
        path = folder / MARKER
        try:
            if special_kind(path) is not None:
                return None
            text, sealed = read_json_text(path)
            return cls.model_validate_json(text) if sealed else None
        except (OSError, ResultsError, ValidationError):
            return None

    @classmethod
    def write(
        cls, folder: Path, target: Path, contents: Contents, drawings: Drawings, key: str | None
    ) -> Summary:
        """Write it into the folder of a new report; return what the report says in short.

        Args:
            folder: where the report's files are now.
            target: where they will be.
            contents: of the report.
            drawings: its figures, all of which are done.
            key: see the class.
        """
        summary = Summary.of(contents, target)
        stored = cls(
            key=key,
            drawings=drawings.stored(),
            files=file_hashes(folder),
            summary=replace(summary, folder=Path()),
        )
        # Messages of failures stand in the summary, with whatever they were made of.
        text = sealed_json(without_credentials(ascii_json(stored.model_dump_json(indent=1))))
        (folder / MARKER).write_text(text, encoding="utf-8")
        return summary

    @property
    def lacks_pdf(self) -> bool:
        """Whether any figure is there without its PDF."""
        figures = [name.removesuffix(".svg") for name in self.files if name.startswith("figures/")]
        return any(f"{name.removesuffix('.pdf')}.pdf" not in self.files for name in figures)

    def still_holds(self, key: str | None, folder: Path) -> bool:
        """Say whether a report of `key` lies in a folder, whole and with nothing beside it."""
        if key is None or self.key != key:
            return False
        try:
            return file_hashes(folder) == self.files
        except (OSError, ResultsError):
            return False


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file below a folder but its `report.json`, by its path there.

    Raises:
        ResultsError: one of them cannot be read to its end, such as a named pipe.
    """
    return {
        path.relative_to(folder).as_posix(): xxhash.xxh3_128_hexdigest(path.read_bytes())
        for path in sorted(_files(folder))
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        if special_kind(path) is not None:
            raise ResultsError(f"{path}: cannot be read to its end")
        if path != folder / MARKER:
            yield path
