"""Twins: two models that differ in the mixer and little else, and what is wrong with a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.registry.entries import ModelEntry

LARGEST_DIFFERENCE = 0.05
"""Of the parameters of two twins, relative to the smaller."""
_MAY_DIFFER = {
    *("name", "mixer", "family", "twin", "scratch"),
    *("parameters", "reference", "licence", "note"),  # descriptions
}
_TOKEN_MIXER = "token_mixer"
"""The argument of a scratch configuration that chooses the mixer."""


def twin_problems(models: Mapping[str, ModelEntry]) -> Iterator[tuple[str, str]]:
    """Yield (name of the model, what is wrong) for each twin that is none.

    Twins name each other, have two mixers and one modality. Models trained here from scratch
    differ in nothing but mixer, family and `token_mixer`, and in at most 5% of the parameters;
    published checkpoints do, and a note of either of them says in what.
    """
    for name, model in models.items():
        twin = models.get(model.twin) if model.twin is not None else None
        if model.twin is not None and twin is not None:
            problem = _problem(model, twin)
            if problem is not None:
                yield name, problem


def _problem(model: ModelEntry, twin: ModelEntry) -> str | None:
    if twin.twin != model.name:
        points = f"names '{twin.twin}'" if twin.twin else "names none"
        return f"'{twin.name}' {points}: twins name each other, so give it twin: {model.name}"
    if twin.name == model.name:
        return "a model is no twin of its own"
    if twin.mixer == model.mixer:
        return f"'{twin.name}' has the same mixer, {model.mixer}: twins differ in it"
    if twin.modality != model.modality:
        return f"'{twin.name}' is of modality {twin.modality}, this one of {model.modality}"
    if model.scratch is not None and twin.scratch is not None:
        return _problem_of_scratch_twins(model, twin)
    if model.note is None and twin.note is None:
        return f"published twins differ in more than the mixer: say in a 'note' how ('{twin.name}')"
    return None


def _problem_of_scratch_twins(model: ModelEntry, twin: ModelEntry) -> str | None:
    ours, theirs = (_decisive(entry) for entry in (model, twin))
    different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if different:
        listed = ", ".join(
            f"{key} ({ours.get(key)} here, {theirs.get(key)} there)" for key in sorted(different)
        )
        return (
            f"differs from its twin '{twin.name}' in {listed}; twins may differ in mixer,"
            " family and scratch.token_mixer only"
        )
    gap = parameter_gap(model, twin)
    if gap is not None and gap > LARGEST_DIFFERENCE:
        return (
            f"differs from its twin '{twin.name}' by {gap:.0%}"
            " of the parameters; twins may differ by"
            f" at most {LARGEST_DIFFERENCE:.0%}"
        )
    return None


def parameter_gap(model: ModelEntry, twin: ModelEntry) -> float | None:
    """Return the difference in parameters, relative to the smaller; None where one is unknown."""
    if model.parameters is None or twin.parameters is None:
        return None
    sizes = sorted((model.parameters, twin.parameters))
    return (sizes[1] - sizes[0]) / sizes[0]


def _decisive(entry: ModelEntry) -> dict[str, Any]:
    """Return what may not differ between twins trained here."""
    fields = entry.model_dump(exclude=_MAY_DIFFER)
    arguments = {f"scratch.{key}": value for key, value in (entry.scratch or {}).items()}
    arguments.pop(f"scratch.{_TOKEN_MIXER}", None)
    return fields | arguments
