"""One RunSpec through the stages: training, logits, scores. Used by every executor.

A stage is redone only when its own key changed. torch and transformers are imported when a
stage needs them, so that finding nothing to do, or re-scoring cached logits, costs neither.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from pydantic import ValidationError

from benchmark.data import (
    CLEAN_SPLITS,
    READING_VERSION,
    Rows,
    load_corpus,
    resolve_data_revision,
    shifted_rows,
    shifted_split_names,
)
from benchmark.execution.agreement import together
from benchmark.execution.launch import (
    describe_device,
    launched_processes,
    make_accelerator,
    process_index,
)
from benchmark.execution.progress import Progress, SilentProgress
from benchmark.failures import OtherProcessError, UnavailableError, outcome
from benchmark.hub import resolve_hub_revision
from benchmark.plan import RunSpec, Stage
from benchmark.records import (
    DataFacts,
    ModelFacts,
    Record,
    ResultsError,
    RevisionUnavailableError,
    RunFolder,
    Status,
    Training,
    describe_machine,
    fingerprint_path,
    shared_cache,
    stored_key,
    write_logits,
    write_text,
)
from benchmark.registry import Entry, Pretraining, Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from benchmark.data import Corpus
    from benchmark.models import EncodedSplit, LoadedPreprocessor

_EVALUATION_BATCH = 256
SCORED_STAGES: tuple[Stage, ...] = ("training", "logits", "scores")


class TrainedModel(Entry):
    """`training.json`: marks `model/` as the finished result of the training stage."""

    key: str
    training: Training | None
    parameters: int
    data: DataFacts


def resolve(spec: RunSpec, results: Path) -> RunSpec:
    """Return the spec with its inputs' identities filled in (hub commits, content hashes).

    Where an input is out of reach (no network, a folder that is gone) but the same run has been
    completed, its inputs' identities are taken, with a warning: nothing has to be read again.

    Raises:
        UnavailableError: the hub or a path does not have an input.
        RunError: an embedded dataset's name is unknown.
    """
    try:
        revisions = {
            "model_revision": _model_revision(spec),
            "data_revision": resolve_data_revision(spec.dataset),
        }
    except RevisionUnavailableError as error:
        completed = _completed_spec(spec, results)
        if completed is None:
            raise UnavailableError(str(error)) from None
        _warn_once(f"{error}; going on with the completed run's inputs")
        return completed
    return spec.model_copy(update=revisions)


def _completed_spec(spec: RunSpec, results: Path) -> RunSpec | None:
    """Return the spec of the completed record if it asks for the same as this one."""
    folder = spec.folder(results)
    record = _usable_record(folder)
    if record is None or record.status != "completed":
        return None
    try:
        stored = RunSpec.model_validate(folder.read_spec())
    except ValidationError:
        return None
    unresolved = {"model_revision": None, "data_revision": None}
    return stored if stored.model_copy(update=unresolved) == spec else None


@functools.cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def _model_revision(spec: RunSpec) -> str | None:
    if spec.model.hub is not None:
        return resolve_hub_revision(spec.model.hub, spec.model.revision, "model")
    if spec.model.path is not None:
        return fingerprint_path(spec.model.path)
    return None  # scratch: the config in the entry is all there is


def stale_stages(spec: RunSpec, results: Path) -> list[Stage]:
    """Return which of training, logits and scores a resolved run still needs, in order.

    An unreadable record counts as none: scores are made anew from the cached logits.
    """
    folder = spec.folder(results)
    record = _usable_record(folder)
    keys = {} if record is None else record.keys
    completed = record is not None and record.status == "completed"
    if completed and keys.get("scores") == spec.key("scores"):
        return []
    if stored_key(folder) == spec.key("logits"):
        return ["scores"]
    trained = _trained_model(folder)
    if trained is not None and trained.key == spec.key("training"):
        return ["logits", "scores"]
    return ["training", "logits", "scores"]


def _usable_record(folder: RunFolder) -> Record | None:
    try:
        return folder.read_record()
    except ResultsError:
        return None


def _trained_model(folder: RunFolder) -> TrainedModel | None:
    if not folder.model.is_dir():
        return None
    return _training_facts(folder)


def _training_facts(folder: RunFolder) -> TrainedModel | None:
    try:
        text = folder.training.read_text(encoding="utf-8")
        return TrainedModel.model_validate_json(text)
    except (FileNotFoundError, ValidationError):
        return None


def execute(
    spec: RunSpec,
    results: Path | str = "results",
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Do what is missing of one run and return its record, which is also written to disk.

    In a launch of several processes every process must call this with the same arguments.
    A run that fails gives a record that says why; only an interruption raises.

    Args:
        spec: the run, as `plan` made it.
        results: the results tree.
        force: redo every stage, whatever is cached.
        progress: told of each step.
    """
    results = Path(results)
    folder = spec.folder(results)
    folder.path.mkdir(parents=True, exist_ok=True)
    run = _Run(spec, results, force, progress or SilentProgress())
    with _sole_writer(folder):
        return run.record()


@contextmanager
def _sole_writer(folder: RunFolder) -> Iterator[None]:
    """Keep other launches out of the run's folder; the ranks of this one go in together."""
    if process_index() > 0:
        yield
        return
    with FileLock(folder.lock):
        yield


@dataclass(frozen=True)
class _Inputs:
    """What training and the forward pass work on."""

    corpus: Corpus
    preprocessor: LoadedPreprocessor
    splits: dict[str, EncodedSplit]
    model: PreTrainedModel


@dataclass
class _Run:
    """One run under way. `stage` is what a failure is blamed on."""

    spec: RunSpec
    results: Path
    force: bool
    progress: Progress
    stage: str = "inputs"
    accelerator: Accelerator | None = field(default=None, init=False)
    training: Training | None = field(default=None, init=False)

    @property
    def folder(self) -> RunFolder:
        """Where the run is kept; the same for every resolution of its inputs."""
        return self.spec.folder(self.results)

    def record(self) -> Record:
        """Go through the stages; turn an error into a record of it."""
        try:
            self.spec = resolve(self.spec, self.results)
            stale = list(SCORED_STAGES) if self.force else self._stale_stages()
            previous = _usable_record(self.folder)
            if not stale and previous is not None:
                return previous
            if "logits" in stale:
                self._make_logits(train="training" in stale)
            record = self._score(previous)
        except Exception as error:
            record = self._failed_record(error)
            if isinstance(error, OtherProcessError):
                return record  # the process that brought the error writes it down
        finally:
            self._release()
        if process_index() == 0 or record.status != "completed":
            self.folder.write_record(record)
        return record

    def _stale_stages(self) -> list[Stage]:
        """Return what is missing; the first process decides, since files change meanwhile."""
        stale = stale_stages(self.spec, self.results)
        if launched_processes() > 1:
            from accelerate.utils import broadcast_object_list

            self._launch()
            stale = broadcast_object_list([stale])[0]
        return stale

    def _launch(self) -> Accelerator:
        if self.accelerator is None:
            recipe = self.spec.recipe
            self.accelerator = make_accelerator("no" if recipe is None else recipe.mixed_precision)
        return self.accelerator

    def _release(self) -> None:
        if self.accelerator is not None:
            self.accelerator.free_memory()
            self.accelerator = None

    # --- training and logits ------------------------------------------------------------------

    def _make_logits(self, *, train: bool) -> None:
        accelerator = self._launch()
        inputs = together(accelerator, lambda: self._load(train))
        recipe = self.spec.recipe
        if train and recipe is not None:
            self._train(inputs, recipe, accelerator)
        else:
            inputs.model.to(accelerator.device)
        if train:
            together(accelerator, lambda: self._save_model(inputs))
        self.stage = "logits"
        columns = self._columns(inputs)
        scored = [name for name in inputs.splits if name != "train"]
        self.progress.stage("logits", sum(len(inputs.splits[name]) for name in scored))
        from benchmark.execution.forward import predict_logits

        outputs = {
            name: predict_logits(
                inputs.model,
                inputs.splits[name],
                batch_size=_EVALUATION_BATCH,
                accelerator=accelerator,
                pad_token_id=inputs.preprocessor.pad_token_id,
                progress=self.progress,
            ).columns(columns)
            for name in scored
        }
        if accelerator.is_main_process:
            write_logits(self.folder, outputs, self.spec.key("logits"))

    def _load(self, train: bool) -> _Inputs:
        from benchmark.models import build_model, load_preprocessor, load_trained_model

        self.stage = "data"
        spec = self.spec
        corpus = load_corpus(spec.dataset, revision=spec.data_revision, limit=spec.limit)
        self.stage = "checkpoint"
        preprocessor = load_preprocessor(spec, corpus, shared_cache(self.results))
        self.stage = "encoding"
        splits = self._encode_splits(corpus, preprocessor, train)
        self.stage = "checkpoint"
        if train:
            model = build_model(spec, corpus, preprocessor.processor)
        else:
            model = load_trained_model(self.folder.model, spec.model)
        return _Inputs(corpus, preprocessor, splits, model)

    def _encode_splits(
        self, corpus: Corpus, preprocessor: LoadedPreprocessor, train: bool
    ) -> dict[str, EncodedSplit]:
        from benchmark.models import encode

        rows: dict[str, Callable[[], Rows]] = {
            "calibration": lambda: corpus.calibration,
            "test": lambda: corpus.test,
        }
        if train and self.spec.recipe is not None:
            rows = {"train": lambda: corpus.train, **rows}
        shifted = shifted_split_names(self.spec.dataset)
        for name in shifted:
            rows[name] = functools.partial(shifted_rows, self.spec.dataset, corpus.test, name)
        keys = {name: f"{self.spec.data_key()}-{name}-{READING_VERSION}" for name in rows}
        keys |= {name: f"{keys[name]}-{self.spec.dataset.shift_rows or 'all'}" for name in shifted}
        return {
            name: encode(
                make_rows,
                preprocessor,
                max_length=self.spec.dataset.max_length,
                cache=shared_cache(self.results),
                key=keys[name],
            )
            for name, make_rows in rows.items()
        }

    def _train(self, inputs: _Inputs, recipe: Recipe, accelerator: Accelerator) -> None:
        from benchmark.execution.training import train

        self.stage = "training"
        self.training = train(
            inputs.model,
            inputs.splits["train"],
            recipe,
            seed=self.spec.seed,
            accelerator=accelerator,
            pad_token_id=inputs.preprocessor.pad_token_id,
            state_path=self.folder.training_state,
            key=self.spec.key("training"),
            progress=self.progress,
        )

    def _save_model(self, inputs: _Inputs) -> None:
        """Keep the model as a checkpoint folder that the Auto classes load; mark it finished."""
        if process_index() > 0:
            return
        from benchmark.models import count_parameters

        self.folder.training.unlink(missing_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder.path, prefix=".model-"))
        try:
            inputs.model.save_pretrained(temporary)
            inputs.preprocessor.processor.save_pretrained(temporary)
            # mkdtemp lets nobody else in; a checkpoint is as readable as what lies beside it.
            temporary.chmod(0o755)
            shutil.rmtree(self.folder.model, ignore_errors=True)
            os.replace(temporary, self.folder.model)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        facts = TrainedModel(
            key=self.spec.key("training"),
            training=self.training,
            parameters=count_parameters(inputs.model),
            data=DataFacts(
                label_names=inputs.corpus.label_names,
                rows={name: len(getattr(inputs.corpus, name)) for name in CLEAN_SPLITS},
                limit=self.spec.limit,
                notes=inputs.corpus.notes,
            ),
        )
        write_text(self.folder.training, facts.model_dump_json(indent=1) + "\n")
        self.folder.training_state.unlink(missing_ok=True)

    def _columns(self, inputs: _Inputs) -> list[int]:
        from benchmark.models import label_columns

        if self.spec.model.evaluate:
            return label_columns(inputs.model, inputs.corpus, self.spec.model.labels)
        return list(range(len(inputs.corpus.label_names)))

    # --- scores -------------------------------------------------------------------------------

    def _score(self, previous: Record | None) -> Record:
        from benchmark.execution.scoring import score_run

        self.stage = "scores"
        trained = _training_facts(self.folder)
        if process_index() > 0:
            return self._record("completed")
        self.progress.stage("scores", 1)
        temperature, scores = score_run(self.folder)
        self.progress.advance()
        self.folder.write_spec(self.spec.model_dump_json(indent=1))
        timing_key = None if previous is None else previous.keys.get("timing")
        keep_timing = timing_key == self.spec.key("timing")
        return self._record(
            "completed",
            keys={stage: self.spec.key(stage) for stage in SCORED_STAGES}
            | ({"timing": timing_key} if keep_timing and timing_key else {}),
            data=None if trained is None else trained.data,
            training=None if trained is None else trained.training,
            temperature=temperature,
            scores=scores,
            timing=previous.timing if previous is not None and keep_timing else None,
            timed_run=previous.timed_run if previous is not None and keep_timing else None,
        )

    def _failed_record(self, error: Exception) -> Record:
        status, failure = outcome(error, self.stage)
        return self._record(status, failure=failure)

    def _record(self, status: Status, **parts: Any) -> Record:
        trained = _training_facts(self.folder)
        device = str(self.accelerator.device) if self.accelerator is not None else None
        return Record(
            suite=self.spec.suite,
            model=self.spec.model.name,
            dataset=self.spec.dataset.name,
            seed=self.spec.seed,
            status=status,
            facts=model_facts(self.spec, None if trained is None else trained.parameters),
            provenance=describe_machine()
            | {
                "model_revision": self.spec.model_revision,
                "data_revision": self.spec.data_revision,
                "device": None if device is None else describe_device(device),
            },
            finished_at=datetime.now(UTC),
            **parts,
        )


def model_facts(spec: RunSpec, parameters: int | None) -> ModelFacts:
    """Return what the claim needs to know of the run's checkpoint.

    A scratch model has seen no pretraining data; that is a fact, not a gap.
    """
    entry, pretraining = spec.model, spec.model.pretraining
    if entry.scratch is not None:
        pretraining = Pretraining(
            examples=0, label_smoothing=False, mixup=False, distillation=False
        )
    smooths = spec.recipe is not None and spec.recipe.label_smoothing > 0
    return ModelFacts(
        mixer=entry.mixer,
        family=entry.family,
        modality=entry.modality,
        source=entry.hub or (str(entry.path) if entry.path else "scratch"),
        parameters=parameters,
        pretraining_examples=pretraining.examples,
        label_smoothing=True if smooths else pretraining.label_smoothing,
        mixup=pretraining.mixup,
        distillation=pretraining.distillation,
        reference=entry.reference,
    )
