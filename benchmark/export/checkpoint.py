"""A run's checkpoint folder -> one that transformers loads elsewhere, with its calibration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.export import calibration
from benchmark.export.checking import Sample
from benchmark.export.finding import FinishedRun
from benchmark.export.inference import TextOptions
from benchmark.export.own_code import OwnCode
from benchmark.export.privacy import cleaned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "config.json"
_TOKENIZER = "tokenizer_config.json"
_OF_THE_MODEL = (".safetensors", ".safetensors.index.json", ".py")
_SEAL = "checksums.json"  # of the run's folder; what an export changes would not match it
_OF_THIS_MACHINE = ("_name_or_path", "name_or_path", "is_local", "local_files_only")


def text_options(
    run: FinishedRun, model: PreTrainedModel | None, sample: Sample | None
) -> TextOptions:
    """Return how texts have to be cut and filled up so that they get the logits that were scored.

    Args:
        run: the run.
        model: its model; None: it cannot be loaded here, so the data set's maximum is taken.
        sample: rows on which the padding is tried; None: none is tried.
    """
    if run.spec.model.modality == "image":
        return TextOptions()
    longest = run.spec.dataset.max_length
    if model is None:
        return TextOptions(longest)
    from transformers import AutoTokenizer

    from benchmark.models import LoadedPreprocessor, choose_padding, encode_rows, fit_to_model

    tokenizer = AutoTokenizer.from_pretrained(run.folder.model, trust_remote_code=False)
    fitted = fit_to_model(LoadedPreprocessor(tokenizer, key=""), model, longest)
    if sample is None:
        return TextOptions(fitted.max_length)
    padding = choose_padding(model, fitted, encode_rows(sample.rows, fitted))
    return TextOptions(padding.length or fitted.max_length, is_fixed=padding.length is not None)


def write_checkpoint(
    run: FinishedRun, folder: Path, options: TextOptions, code: OwnCode | None, *, weights: bool
) -> None:
    """Write a run's checkpoint to an empty folder, with the calibration in `config.json`.

    Args:
        run: its files have been verified.
        folder: where.
        options: of the tokenizer.
        code: of an architecture of ours.
        weights: whether they go along; without them, and the code of a model, it is what belongs
            to an ONNX graph.
    """
    for source in sorted(path for path in run.folder.model.rglob("*") if path.is_file()):
        if source.name == _SEAL or (source.name.endswith(_OF_THE_MODEL) and not weights):
            continue
        target = folder / source.relative_to(run.folder.model)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for path in sorted(folder.glob("*config.json")):
        _rewrite(path, lambda content: _without(cleaned(content), _OF_THIS_MACHINE))
    _rewrite(folder / CONFIG, lambda content: _with_calibration(content, run, code))
    if not weights:  # nothing is left that would need the code of a model
        _rewrite(folder / CONFIG, lambda content: _without(content, ("auto_map",)))
    if options.max_length is not None and (folder / _TOKENIZER).exists():
        _rewrite(folder / _TOKENIZER, lambda content: content | _limit(options))
    for name, source_text in ({} if code is None else code.files).items():
        (folder / name).write_text(source_text, encoding="utf-8")


def _limit(options: TextOptions) -> dict[str, Any]:
    return {"model_max_length": options.max_length}


def _rewrite(path: Path, change: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(change(content), indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _without(content: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _with_calibration(
    content: dict[str, Any], run: FinishedRun, code: OwnCode | None
) -> dict[str, Any]:
    auto_map = {} if code is None else {"auto_map": code.auto_map}
    return content | _labels(content, run) | auto_map | {calibration.KEY: calibration.describe(run)}


def _labels(content: dict[str, Any], run: FinishedRun) -> dict[str, Any]:
    """Return the names of the head's classes where the config does not have them.

    A checkpoint that was scored as published may leave them to the registry's entry.
    """
    labels = run.spec.model.labels
    if run.spec.model.evaluate and labels is None:
        return {}
    names = list(labels if isinstance(labels, tuple) else run.data.label_names)
    known = content.get("id2label")
    if known is None and "label_names" in content:  # of timm
        return {} if content["label_names"] == names else {"label_names": names}
    by_place = {str(place): name for place, name in enumerate(names)}
    if known == by_place:
        return {}
    return {"id2label": by_place, "label2id": {name: place for place, name in enumerate(names)}}


def label_names(folder: Path) -> list[str]:
    """Return the names of an exported head's classes, in the order of its outputs."""
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "label_names" in content:
        return [str(name) for name in content["label_names"]]
    names = content["id2label"]
    return [str(names[place]) for place in sorted(names, key=int)]
