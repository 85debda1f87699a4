"""Whether a checkpoint has all the weights of the model that was built for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from benchmark.failures import RunError
from benchmark.plan import RunSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEADS = frozenset({"classifier", "fc", "head", "score"})
"""Of the library's models that keep their backbone under no name of its own."""
_COUNTERS = "num_batches_tracked"
"""Normalisation with a fixed momentum computes nothing from a count; old files have none."""
_SHOWN_NAMES = 6
_LAYER = re.compile(r"\.\d+(?=\.|$)")


def require_weights(
    spec: RunSpec, model: PreTrainedModel, loading: Mapping[str, Iterable[Any]]
) -> None:
    """Refuse a checkpoint whose weights are not those of the model that was built.

    Only a head that is fine-tuned, and a pooler, may be new. Names that the library itself maps
    to others are no longer missing here, nor are weights that are tied to others.

    Args:
        spec: the run.
        model: as loaded.
        loading: what `from_pretrained` tells: names of missing and of unexpected keys, and
            mismatched ones as (name, shape in the checkpoint, shape in the model).

    Raises:
        RunError: weights of the backbone, or of a head that is scored as published, are missing
            or have another shape; the message names them.
    """
    shapes = {entry[0]: entry[1:] for entry in loading["mismatched_keys"]}
    missing = [name for name in loading["missing_keys"] if not name.endswith(_COUNTERS)]
    new = sorted({*missing, *shapes})
    if new and spec.model.evaluate:
        raise RunError(
            f"model {spec.model.name}: the checkpoint has no fitting weights for "
            f"{_listed(new, shapes)}, so it has no published head to score (evaluate); fine-tune "
            "it instead, with a recipe"
        )
    lost = [name for name in new if not _may_be_new(model, name)]
    if not lost:
        return
    unknown = sorted(str(name) for name in loading["unexpected_keys"])
    others = f"; it has others that fit nowhere: {_listed(unknown, {})}" if unknown else ""
    raise RunError(
        f"model {spec.model.name}: {len(lost)} of the backbone's {_count_weights(model)} weights "
        f"are not in the checkpoint or have another shape ({_listed(lost, shapes)}){others}. They "
        "would be random: name a revision whose weights belong to its config"
    )


def _may_be_new(model: PreTrainedModel, name: str) -> bool:
    """Say whether a weight is of the head or of a pooler."""
    parts = name.split(".")
    if "pooler" in parts:
        return True
    wrapped = getattr(model, "timm_model", None)
    if wrapped is not None:
        return name.rpartition(".")[0].removeprefix("timm_model.") in _timm_heads(wrapped)
    prefix = model.base_model_prefix
    if not prefix or getattr(model, prefix, None) is None:
        return parts[0] in _HEADS
    # Some keep their last normalisation beside the backbone: it has been trained with it.
    return parts[0] != prefix and "norm" not in parts[0]


def _timm_heads(wrapped: Any) -> set[str]:
    """Return the names of the modules that timm says are the classifier."""
    heads = wrapped.get_classifier()
    heads = heads if isinstance(heads, tuple | list) else [heads]
    kept = {id(part) for head in heads for part in head.modules()}
    return {name for name, module in wrapped.named_modules() if id(module) in kept}


def _count_weights(model: PreTrainedModel) -> int:
    return sum(
        not _may_be_new(model, name) and not name.endswith(_COUNTERS) for name in model.state_dict()
    )


def _listed(names: list[str], shapes: Mapping[str, Any]) -> str:
    """Return names in one line; those that differ in a layer's number only are told once."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_LAYER.sub(".*", name), []).append(name)
    texts = [
        f"{pattern} ({len(group)})" if len(group) > 1 else group[0] + _sizes(shapes.get(group[0]))
        for pattern, group in alike.items()
    ]
    return ", ".join(texts[:_SHOWN_NAMES]) + (", ..." if len(texts) > _SHOWN_NAMES else "")


def _sizes(shapes: Any) -> str:
    if shapes is None:
        return ""
    there, wanted = (" x ".join(map(str, shape)) for shape in shapes)
    return f" ({there}, not {wanted})"
