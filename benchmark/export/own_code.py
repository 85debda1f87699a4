"""The source of an architecture of ours, as a checkpoint carries code of its own.

It is made from the module that trained the model, so that the two cannot drift apart: imports from
this package become imports from files beside it, and what makes the architecture known here goes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from benchmark.export.errors import ExportError
from benchmark.registry import Modality

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PACKAGE = "benchmark."
_REGISTERING = "register"
_AUTO_CLASSES: dict[Modality, str] = {
    "image": "AutoModelForImageClassification",
    "text": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class OwnCode:
    """What lets transformers load an architecture that it does not know.

    Attributes:
        files: source by file name.
        auto_map: of `config.json`: which class of which file is behind each Auto class.
    """

    files: dict[str, str]
    auto_map: dict[str, str]


def own_code(model: PreTrainedModel, modality: Modality) -> OwnCode | None:
    """Return the code that a model of ours needs elsewhere, or None where the library has it.

    Raises:
        ExportError: its module uses something of this package that cannot be taken along.
    """
    if not type(model).__module__.startswith(_PACKAGE):
        return None
    module = importlib.import_module(type(model).__module__)
    files: dict[str, str] = {}
    _add(module, files)
    name = module.__name__.rpartition(".")[2]
    return OwnCode(
        files=files,
        auto_map={
            "AutoConfig": f"{name}.{type(model.config).__name__}",
            _AUTO_CLASSES[modality]: f"{name}.{type(model).__name__}",
        },
    )


def _add(module: ModuleType, files: dict[str, str]) -> None:
    """Add a module's source, and that of the modules of ours that it imports."""
    name = module.__name__.rpartition(".")[2]
    if f"{name}.py" in files:
        return
    source = inspect.getsource(module)
    lines = source.splitlines(keepends=True)
    own = Path(inspect.getsourcefile(module) or "").parent
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(_PACKAGE):
            other = importlib.import_module(str(node.module))
            if Path(inspect.getsourcefile(other) or "").parent != own:
                raise ExportError(
                    f"{module.__name__} imports {node.module}, which cannot be taken along"
                )
            beside = other.__name__.rpartition(".")[2]
            names = ", ".join(alias.name for alias in node.names)
            lines[node.lineno - 1 : node.end_lineno] = [f"from .{beside} import {names}\n"]
            _add(other, files)
        elif isinstance(node, ast.FunctionDef) and node.name == _REGISTERING:
            del lines[node.lineno - 1 : node.end_lineno]
    made_from = (
        f"# Made from {module.__name__} of calibration-benchmark {_version()}, Apache-2.0.\n"
    )
    files[f"{name}.py"] = made_from + "".join(lines).rstrip() + "\n"


def _version() -> str:
    try:
        return metadata.version("calibration-benchmark")
    except metadata.PackageNotFoundError:
        return "(not installed)"
