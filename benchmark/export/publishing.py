"""What goes to the hub, told before it goes; nothing that is private or secret is in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.export import calibration, card, onnx_graph
from benchmark.export.checkpoint import CONFIG
from benchmark.export.errors import ExportError
from benchmark.export.privacy import has_secret, without_private_parts
from benchmark.export.results_tree import results_files
from benchmark.hub import repository_page, upload_files
from benchmark.markup import compact, plural

if TYPE_CHECKING:
    from benchmark.hub import Kind

_TEXTS = (".json", ".md", ".py", ".txt", ".svg", ".jinja", ".yaml", ".csv")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
"""Lists of tokens, some of which look like anything; transformers wrote them."""
_SHOWN = 12


@dataclass(frozen=True)
class Upload:
    """Files on their way to a repository.

    Attributes:
        files: by path in the repository; a file of this machine, or content.
        left_out: what stays here, and why, a sentence each.
    """

    repository: str
    kind: Kind
    private: bool
    files: Mapping[str, Path | bytes]
    message: str
    left_out: tuple[str, ...] = ()

    def described(self) -> str:
        """Return what would be uploaded, and to where."""
        sizes = {name: _size(content) for name, content in self.files.items()}
        seen = "private" if self.private else "public: everybody may read it"
        page = repository_page(self.repository, self.kind)
        total = compact(float(sum(sizes.values())), "B")
        lines = [f"To {page} ({seen}): {plural(len(sizes), 'file')}, {total}"]
        lines += [f"  {name}  {compact(float(size), 'B')}" for name, size in sizes.items()][:_SHOWN]
        if len(sizes) > _SHOWN:
            lines.append(f"  ... and {len(sizes) - _SHOWN:,} more")
        return "\n".join([*lines, *(f"Left out: {one}" for one in self.left_out)])


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def model_upload(folder: Path, repository: str, *, private: bool) -> Upload:
    """Return an export's files, ready for a model repository.

    Raises:
        ExportError: the folder is no export, or a text in it holds a secret or names a folder of
            this machine.
    """
    needed = (calibration.FILE, CONFIG, card.FILE)
    lacking = next((name for name in needed if not (folder / name).is_file()), None)
    has_model = (folder / onnx_graph.FILE).exists() or any(folder.glob("*.safetensors"))
    if lacking is not None or not has_model:
        what = lacking or f"neither weights nor {onnx_graph.FILE}"
        raise ExportError(
            f"{folder}: it is no export ({what} is not in it); make one with python -m "
            "benchmark.export export RUN --to FOLDER"
        )
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    hidden = [name for name in names if any(part.startswith(".") for part in name.split("/"))]
    files = {name: path for name, path in names.items() if name not in hidden}
    for path in files.values():
        _require_nothing_private(path)
    about = json.loads((folder / calibration.FILE).read_text(encoding="utf-8"))
    return Upload(
        repository, "model", private, files, f"Calibrated checkpoint of {about.get('run')}",
        tuple(f"{name} (hidden)" for name in hidden),
    )  # fmt: skip


def _require_nothing_private(path: Path) -> None:
    if path.suffix not in _TEXTS or path.name in _VOCABULARIES:
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if has_secret(line):
            what = "what looks like a token or a password"
        elif without_private_parts(line) != line:
            what = "the path of a folder"
        else:
            continue
        raise ExportError(f"{path}:{number}: it holds {what}: take it out before it is published")


def results_upload(
    results: Path, suite: str, repository: str, *, private: bool, with_logits: bool
) -> Upload:
    """Return a suite's records and their table, ready for a dataset repository.

    Raises:
        ExportError: there is no such suite, or it holds nothing.
        ResultsError: its list of runs or its logits are damaged.
    """
    files, left_out = results_files(results, suite, repository, with_logits=with_logits)
    return Upload(
        repository, "dataset", private, files, f"Results of suite {suite}", tuple(left_out)
    )


def confirm() -> bool:
    """Ask whether to go on; where nobody can answer, no."""
    if not sys.stdin.isatty():
        return False
    return input("Upload this? [y/N] ").strip().lower() in ("y", "yes")


def send(upload: Upload) -> str:
    """Upload, and return the address of the commit.

    Raises:
        UnavailableError: the hub refuses or cannot be reached.
    """
    return upload_files(
        upload.files,
        upload.repository,
        upload.kind,
        private=upload.private,
        message=upload.message,
    )
