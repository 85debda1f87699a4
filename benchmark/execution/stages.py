"""One run through its stages: training, logits, scores. Used by every executor.

A stage is redone only when its own key changed. torch and transformers are imported when a
stage needs them, so that finding nothing to do, or re-scoring cached logits, costs neither.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.data import CLEAN_SPLITS, load_corpus
from benchmark.execution.agreement import (
    ProcessesPartedError,
    from_first,
    gather_objects,
    settle,
    stop_point,
    together,
    vote,
)
from benchmark.execution.inputs import Inputs, encode_splits
from benchmark.execution.launch import (
    describe_device,
    launched_processes,
    make_accelerator,
    process_index,
    set_tf32,
)
from benchmark.execution.machine import GivingWay, Share
from benchmark.execution.progress import Progress, SilentProgress
from benchmark.execution.resolution import begin, resolve
from benchmark.execution.run_record import run_record
from benchmark.execution.trackers import RunTracker
from benchmark.execution.trained_model import TrainedModel, read_trained_model, save_trained_model
from benchmark.failures import OtherProcessError, RunError, outcome
from benchmark.plan import RunSpec, Stage, content_hash
from benchmark.records import (
    Claim,
    DamagedError,
    DataFacts,
    LogitsSplit,
    OtherVersionError,
    Record,
    RunFolder,
    Status,
    Training,
    explained_errors,
    set_aside,
    shared_cache,
    stored_device,
    try_claim,
    write_logits,
)
from benchmark.registry import Recipe

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

RETRY_S = 1.0
SCORED_STAGES: tuple[Stage, ...] = ("training", "logits", "scores")


def execute(
    spec: RunSpec,
    results: Path | str = "results",
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Do what is missing of one run and return its record, which is also written to disk.

    Waits while another command works on this run, or times something on this machine. In a launch
    of several processes every process must call this with the same arguments. A run that fails
    gives a record that says why; only an interruption raises, or processes that have parted.

    Args:
        spec: the run, as `plan` made it.
        results: the results tree.
        force: redo every stage, whatever is cached.
        progress: told of each step.
    """
    while (record := try_execute(spec, Path(results), force=force, progress=progress)) is None:
        time.sleep(RETRY_S)
    return record


def try_execute(
    spec: RunSpec, results: Path, *, force: bool = False, progress: Progress | None = None
) -> Record | None:
    """Do as `execute` does, but return None where that would have to wait."""
    run = _Run(spec, results, force, progress or SilentProgress())
    if launched_processes() > 1:
        make_accelerator()  # from here on the processes can meet
        same = content_hash({"spec": spec.model_dump(mode="json"), "force": force})
        vote(f"start of {spec.name} ({same})")
    stop_point("start of a run")
    with ExitStack() as hold:
        try:
            if not from_first("claim", lambda: _enter(run, hold)):
                return None
        except OSError as error:  # the folder cannot be made or written
            return run.failed_record(error)
        except OtherProcessError as error:
            return run.failed_record(error)
        return run.record()


def _enter(run: _Run, hold: ExitStack) -> bool:
    """Claim the run's folder and a place on the machine; False where either is not to be had."""
    share = Share()
    hold.callback(share.leave)
    if not share.enter():
        return False
    with explained_errors(run.folder.path):
        claim = try_claim(run.folder)
    if claim is None:
        return False
    hold.callback(claim.release)
    run.claim = claim
    if launched_processes() == 1:  # several processes would wait for one that gives way
        run.progress = GivingWay(run.progress, share)
    return True


@dataclass
class _Run:
    """One run under way. `stage` is what a failure is blamed on."""

    spec: RunSpec
    results: Path
    force: bool
    progress: Progress
    stage: str = "inputs"
    claim: Claim | None = field(default=None, init=False)
    accelerator: Accelerator | None = field(default=None, init=False)
    training: Training | None = field(default=None, init=False)

    @cached_property
    def tracker(self) -> RunTracker:
        """What is told of this run, whose inputs are resolved when there is something to tell."""
        return RunTracker(self.spec, self.results)

    @property
    def folder(self) -> RunFolder:
        """Where the run is kept; the same for every resolution of its inputs."""
        return self.spec.folder(self.results)

    def record(self) -> Record:
        """Go through the stages; turn an error into a record of it, the same on all processes."""
        try:
            self.spec, stale, previous = from_first("plan of the run", self._plan)
            if not stale and previous is not None:
                return previous
            if "logits" in stale:
                self._make_logits(train="training" in stale)
            record = together("scores", lambda: self._score(previous))
            self.tracker.scores(record)
        except ProcessesPartedError as error:
            self._keep(self._record("failed", failure=outcome(error, self.stage)[1]))
            raise
        except Exception as error:
            record = self.failed_record(error)
            if isinstance(error, OtherVersionError):
                return record  # nobody may write there
        finally:
            self._release()
        return self._keep(record)

    def failed_record(self, error: Exception) -> Record:
        """Return a record of the error, which may be another process's."""
        if isinstance(error, DamagedError) and process_index() == 0:
            set_aside(error)  # the next command makes it anew
        settle(error)
        own = None if isinstance(error, OtherProcessError) else outcome(error, self.stage)
        status, failure = next(known for known in gather_objects(own) if known is not None)
        return self._record(status, failure=failure)

    def _plan(self) -> tuple[RunSpec, list[Stage], Record | None]:
        """Return the resolved run, what is missing of it, and its record.

        The first process decides for all, since files and the hub change meanwhile.
        """
        spec = resolve(self.spec, self.results)
        stale, previous = begin(spec, self.results, force=self.force)
        return spec, stale, previous

    def _keep(self, record: Record) -> Record:
        """Write the record; where that fails, return one that says so to this launch."""
        if process_index() > 0:
            return record
        try:
            if self.claim is not None and not self.claim.is_held():
                raise RunError("another command took this run over while this one was suspended")
            self.folder.write_record(record)
        except (OSError, RunError) as error:
            return self._record("failed", failure=outcome(error, "record")[1])
        return record

    def _launch(self) -> Accelerator:
        if self.accelerator is None:
            recipe = self.spec.recipe
            self.accelerator = make_accelerator("no" if recipe is None else recipe.mixed_precision)
            set_tf32(recipe is not None and recipe.tf32)
        return self.accelerator

    def _release(self) -> None:
        self.tracker.finish()
        if self.accelerator is not None:
            self.accelerator.free_memory()
            self.accelerator = None

    # --- training and logits ------------------------------------------------------------------

    def _make_logits(self, *, train: bool) -> None:
        accelerator = self._launch()
        inputs = together("inputs", lambda: self._load(train, accelerator.device))
        recipe = self.spec.recipe
        if train and recipe is not None:
            self._train(inputs, recipe, accelerator)
        if train:
            together("model", lambda: self._save_model(inputs))
            stop_point("after training")
        self.stage = "logits"
        self._predict(inputs, accelerator)

    def _enter(self, stage: str) -> None:
        """Begin what tells no progress of its own."""
        self.stage = stage
        self.progress.stage(stage, 1)

    def _load(self, train: bool, device: torch.device) -> Inputs:
        from torch.nn import Module

        from benchmark.models import (
            build_model,
            choose_padding,
            fit_to_model,
            load_preprocessor,
            load_trained_model,
        )

        self._enter("data")
        spec, cache = self.spec, shared_cache(self.results)
        corpus = load_corpus(spec.dataset, revision=spec.data_revision, limit=spec.limit)
        self._enter("checkpoint")
        preprocessor = load_preprocessor(spec, corpus, cache)
        if train:
            model = build_model(spec, corpus, preprocessor.processor)
        else:
            model = load_trained_model(self.folder.model, spec.model)
        Module.to(model, device)
        preprocessor = fit_to_model(preprocessor, model, spec.dataset.max_length)
        self._enter("encoding")
        splits = encode_splits(spec, corpus, preprocessor, cache, train=train)
        padding = choose_padding(model, preprocessor, splits["calibration"])
        return Inputs(corpus, preprocessor, splits, model, padding)

    def _train(self, inputs: Inputs, recipe: Recipe, accelerator: Accelerator) -> None:
        from benchmark.execution.training import train

        self.stage = "training"
        self.training = train(
            inputs.model,
            inputs.splits["train"],
            recipe,
            seed=self.spec.seed,
            accelerator=accelerator,
            padding=inputs.padding,
            state_path=self.folder.training_state,
            key=self.spec.key("training"),
            progress=self.progress,
            on_epoch=self.tracker.epoch,
        )

    def _save_model(self, inputs: Inputs) -> None:
        if process_index() > 0:
            return
        from benchmark.models import count_parameters, describe_weights

        corpus = inputs.corpus
        facts = TrainedModel(
            key=self.spec.key("training"),
            training=self.training,
            parameters=count_parameters(inputs.model),
            weights=describe_weights(self.spec),
            data=DataFacts(
                label_names=corpus.label_names,
                rows={name: len(getattr(corpus, name)) for name in CLEAN_SPLITS},
                limit=self.spec.limit,
                notes=corpus.notes,
            ),
        )
        save_trained_model(self.folder, facts, inputs.model, inputs.preprocessor.processor)

    def _predict(self, inputs: Inputs, accelerator: Accelerator) -> None:
        columns, splits = self._columns(inputs), inputs.scored_splits
        if self.training is not None:
            together("row independence", lambda: self._require_row_independence(inputs))
        self.progress.stage("logits", sum(map(len, splits.values())))
        from benchmark.execution.batch_limits import batch_limit
        from benchmark.execution.forward import predict_logits

        # Found once, on the split of the longest rows.
        longest = max(splits.values(), key=lambda split: (split.longest, len(split)))
        limit = batch_limit(inputs.model.eval(), longest, accelerator, inputs.padding)
        outputs = {
            name: predict_logits(
                inputs.model,
                split,
                accelerator=accelerator,
                padding=inputs.padding,
                progress=self.progress,
                limit=limit,
            ).columns(columns)
            for name, split in splits.items()
        }
        together("write logits", lambda: self._write_logits(outputs))
        stop_point("after the logits")

    def _write_logits(self, outputs: dict[str, LogitsSplit]) -> None:
        if process_index() == 0:
            device = describe_device(str(self._launch().device))
            write_logits(self.folder, outputs, self.spec.key("logits"), device=device)

    @staticmethod
    def _require_row_independence(inputs: Inputs) -> None:
        from benchmark.models import require_row_independence

        # The padding was chosen with a new head, which may say little; now it is trained.
        require_row_independence(inputs.model.eval(), inputs.splits["calibration"], inputs.padding)

    def _columns(self, inputs: Inputs) -> list[int]:
        from benchmark.models import label_columns

        if self.spec.model.evaluate:
            return label_columns(inputs.model, inputs.corpus, self.spec.model.labels)
        return list(range(len(inputs.corpus.label_names)))

    # --- scores -------------------------------------------------------------------------------

    def _score(self, previous: Record | None) -> Record:
        from benchmark.execution.scoring import score_run

        self.stage = "scores"
        trained = read_trained_model(self.folder)
        if process_index() > 0:
            return self._record("completed")
        self.progress.stage("scores", 1)
        found = score_run(self.folder)
        self.progress.advance()
        self.folder.write_spec(self.spec.model_dump_json(indent=1))
        keys = {stage: self.spec.key(stage) for stage in SCORED_STAGES}
        parts: dict[str, Any] = {}
        if previous is not None and previous.keys.get("timing") == self.spec.key("timing"):
            keys["timing"] = self.spec.key("timing")
            parts = {"timing": previous.timing, "timed_run": previous.timed_run}
        return self._record(
            "completed",
            keys=keys,
            data=None if trained is None else trained.data,
            training=None if trained is None else trained.training,
            temperature=found.temperature,
            maps=found.maps,
            scores=found.scores,
            **parts,
        )

    def _device(self) -> str | None:
        """Return what this run's logits were computed on, or what they were about to be."""
        if self.accelerator is not None:
            return describe_device(str(self.accelerator.device))
        return stored_device(self.folder)

    def _record(self, status: Status, **parts: Any) -> Record:
        trained = read_trained_model(self.folder)
        return run_record(
            self.spec,
            status,
            parameters=None if trained is None else trained.parameters,
            weights=None if trained is None else trained.weights,
            device=self._device(),
            **parts,
        )
