"""The record of a run: what it was, how it ended, on which machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from benchmark.plan import RunSpec
from benchmark.records import ModelFacts, Record, Status, describe_machine
from benchmark.registry import Pretraining

_FACTS = {"loss", "mixup", "cutmix", "distillation", "teacher_mixer"}
"""Of the pretraining, which records hold as they are."""


def run_record(
    spec: RunSpec,
    status: Status,
    *,
    parameters: int | None = None,
    weights: str | None = None,
    device: str | None = None,
    **parts: Any,
) -> Record:
    """Return the record of a run that has ended now, in this process or on its behalf.

    Args:
        spec: the run.
        status: how it ended.
        parameters: of the model that was built.
        weights: how those of its checkpoint were read.
        device: the name of the device that it ran on, where it came that far.
        parts: further fields of the record.
    """
    return Record(
        suite=spec.suite,
        model=spec.model.name,
        dataset=spec.dataset.name,
        seed=spec.seed,
        status=status,
        facts=_model_facts(spec, parameters),
        provenance=describe_machine()
        | {
            "model_revision": spec.model_revision,
            "data_revision": spec.data_revision,
            "weights": weights,
            "device": device,
        },
        finished_at=datetime.now(UTC),
        **parts,
    )


def _model_facts(spec: RunSpec, parameters: int | None) -> ModelFacts:
    """Return what the claim needs to know of the run's checkpoint.

    A scratch model has seen no pretraining data; that is a fact, not a gap.
    """
    entry, pretraining = spec.model, spec.model.pretraining
    if entry.scratch is not None:
        pretraining = Pretraining(
            examples=0,
            loss="cross_entropy",
            label_smoothing=False,
            mixup=False,
            cutmix=False,
            distillation=False,
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
        **pretraining.model_dump(include=_FACTS),
        evaluation_resolution=entry.evaluation_resolution,
        twin=entry.twin,
        reference=entry.reference,
    )
