"""How a checkpoint's weights are read: tensors only, all of them, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from benchmark import RunSpec
from benchmark.data.assembly import Corpus
from benchmark.data.rows import Rows
from benchmark.failures import RunError, UnavailableError
from benchmark.models.checkpoint import build_model
from benchmark.models.weights import describe_weights
from benchmark.registry import ModelEntry

NAMES = ("a", "b", "c")
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 40, "max_position_embeddings": 24,
}  # fmt: skip
IMAGE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("text", TEXT),
    "roberta": ("text", TEXT),
    "albert": ("text", {**TEXT, "embedding_size": 8}),
    "distilbert": ("text", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "electra": ("text", {**TEXT, "embedding_size": 8}),
    "deberta-v2": ("text", {**TEXT, "relative_attention": True, "position_buckets": 8}),
    "modernbert": ("text", {**TEXT, "pad_token_id": 0}),
    "gpt2": ("text", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}),
    "llama": ("text", {**TEXT, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": ("text", {**TEXT, "num_key_value_heads": 1}),
    "xlnet": ("text", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 40}),
    "fnet": ("text", TEXT),
    "squeezebert": ("text", {**TEXT, "embedding_size": 16, "q_groups": 2, "k_groups": 2,
                             "v_groups": 2, "intermediate_groups": 2, "output_groups": 2}),
    "vit": ("image", IMAGE),
    "deit": ("image", {**IMAGE, "architectures": ["DeiTForImageClassification"]}),
    "beit": ("image", {**IMAGE, "use_mask_token": True}),
    "dinov2": ("image", {**IMAGE, "use_mask_token": True}),
    "clip": ("image", {"vision_config": IMAGE, "text_config": TEXT}),
    "swin": ("image", {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
                       "num_heads": [1, 2], "window_size": 4}),
    "swinv2": ("image", {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
                         "num_heads": [1, 2], "window_size": 4}),
    "convnext": ("image", STAGES),
    "convnextv2": ("image", STAGES),
    "resnet": ("image", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "regnet": ("image", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                         "groups_width": 8}),
    "bit": ("image", {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1],
                      "num_groups": 8}),
    "mobilenet_v2": ("image", {"depth_multiplier": 0.25}),
    "mobilevit": ("image", {"image_size": 32, "hidden_sizes": [16, 16, 16],
                            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 8],
                            "intermediate_ratio": 2.0}),
    "efficientnet": ("image", {"width_coefficient": 0.1, "depth_coefficient": 0.1,
                               "hidden_dim": 128}),
    "levit": ("image", {"architectures": ["LevitForImageClassification"],
                        "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 2],
                        "depths": [1, 1, 1], "key_dim": [8, 8, 8], "image_size": 64}),
    "cvt": ("image", {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}),
    "poolformer": ("image", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
}  # fmt: skip
AUTO = {"text": AutoModelForSequenceClassification, "image": AutoModelForImageClassification}


def built(model_type: str) -> PreTrainedModel:
    """Return a small model of an architecture, with random weights everywhere."""
    modality, settings = CONFIGS[model_type]
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    model = AUTO[modality].from_config(AutoConfig.for_model(model_type, **settings, **names))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def corpus_of(names: tuple[str, ...]) -> Corpus:
    rows = Rows(np.array([0]), np.array([0]), texts=["x"])
    return Corpus(rows, rows, rows, names)


def spec_of(spec: RunSpec, folder: Path, modality: str = "image", **options: Any) -> RunSpec:
    entry = ModelEntry(
        name="local", path=folder, modality=modality, mixer="other", family="any",
        recipe="short", **options,
    )  # fmt: skip
    return spec.model_copy(update={"model": entry})


def backbone(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    inner = getattr(model, model.base_model_prefix, None) or model.vision_model
    return {name: value for name, value in inner.state_dict().items() if "pooler" not in name}


# --- complete checkpoints load, incomplete ones do not --------------------------------------------


@pytest.mark.parametrize("model_type", CONFIGS)
def test_complete_checkpoints_load(
    make_spec: Callable[..., RunSpec], tmp_path: Path, model_type: str
) -> None:
    """With the published head, with another number of classes, and from a bare backbone."""
    model, modality = built(model_type), CONFIGS[model_type][0]
    model.save_pretrained(tmp_path / "whole")
    spec = spec_of(make_spec("vit"), tmp_path / "whole", modality, evaluate=True)
    loaded = build_model(spec, corpus_of(NAMES), None)
    assert set(loaded.state_dict()) == set(model.state_dict())
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name

    folders = [tmp_path / "whole"]
    if getattr(model, model.base_model_prefix, None) is not None:
        getattr(model, model.base_model_prefix).save_pretrained(tmp_path / "bare")
        # What lies beside the backbone and is no head is lost in the bare one, and told.
        if model_type not in ("cvt", "poolformer"):
            folders.append(tmp_path / "bare")
    for folder in folders:
        tuned = build_model(
            spec_of(spec, folder, modality), corpus_of(("x", "y", "z", "u", "v")), None
        )
        assert tuned.config.num_labels == 5
        for name, value in backbone(tuned).items():
            assert torch.equal(value, backbone(model)[name]), name


@pytest.mark.parametrize("model_type", CONFIGS)
def test_any_lost_weight_of_the_backbone_is_named(
    make_spec: Callable[..., RunSpec], tmp_path: Path, model_type: str
) -> None:
    model, modality = built(model_type), CONFIGS[model_type][0]
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    smallest = min(
        (
            name
            for name in dict(model.named_parameters())
            if name in whole and name in _backbone_names(model)
        ),
        key=lambda name: (whole[name].numel(), name),
    )
    spec, corpus = spec_of(make_spec("vit"), tmp_path, modality), corpus_of(NAMES)

    def write(weights: dict[str, torch.Tensor]) -> None:
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    write({name: value for name, value in whole.items() if name != smallest})
    with pytest.raises(RunError, match="1 of the backbone's") as lost:
        build_model(spec, corpus, None)
    assert smallest in str(lost.value)
    larger = torch.ones(*whole[smallest].shape[:-1], whole[smallest].shape[-1] + 1)
    write({**whole, smallest: larger})
    with pytest.raises(RunError, match="have another shape") as misshapen:
        build_model(spec, corpus, None)
    assert smallest in str(misshapen.value)


def _backbone_names(model: PreTrainedModel) -> set[str]:
    prefix = model.base_model_prefix
    if getattr(model, prefix, None) is None:
        prefix = "vision_model"
    return {n for n in model.state_dict() if n.startswith(f"{prefix}.") and "pooler" not in n}


def test_a_norm_beside_the_backbone_belongs_to_it(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    built("poolformer").poolformer.save_pretrained(tmp_path)
    with pytest.raises(RunError, match=r"2 of the backbone's .* \(norm\.bias, norm\.weight\)"):
        build_model(spec_of(make_spec("vit"), tmp_path), corpus_of(NAMES), None)


def test_older_names_of_convnextv2_are_refused(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """They were accepted once, and every GRN layer was random."""
    built("convnextv2").save_pretrained(tmp_path)
    old = {"grn.weight": "grn.gamma", "grn.bias": "grn.beta"}
    weights = load_file(tmp_path / "model.safetensors")
    for new_name, old_name in old.items():
        weights = {name.replace(new_name, old_name): value for name, value in weights.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = (
        r"4 of the backbone's 30 weights are not .*layers\.\*\.grn\.bias \(2\), .*grn\.weight \(2\)"
        r".*it has others that fit nowhere: .*grn\.beta \(2\), .*grn\.gamma \(2\)"
    )
    with pytest.raises(RunError, match=message):
        build_model(spec_of(make_spec("vit"), tmp_path), corpus_of(NAMES), None)


def test_old_names_that_the_library_maps_are_fine(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    model = built("bert")
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in model.state_dict().items()
    }
    weights["bert.embeddings.position_ids"] = torch.arange(24)[None]
    weights["cls.predictions.bias"] = torch.zeros(40)
    model.config.save_pretrained(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    spec = spec_of(make_spec("vit"), tmp_path, "text")
    loaded = build_model(spec, corpus_of(NAMES), None)
    for name, value in backbone(loaded).items():
        assert torch.equal(value, backbone(model)[name]), name


def test_counters_of_batches_may_be_missing(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """Checkpoints of old versions of torch have none, and nothing is computed from them."""
    model = built("resnet")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for evaluate in (True, False):
        spec = spec_of(make_spec("vit"), tmp_path, evaluate=evaluate)
        build_model(spec, corpus_of(NAMES), None)


# --- pickles --------------------------------------------------------------------------------------


class Attack:
    """What a pickle can do to whoever unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.target}",))


def save_pickle(model: PreTrainedModel, folder: Path, **options: Any) -> None:
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin", **options)


def save_shards(model: PreTrainedModel, folder: Path) -> None:
    model.config.save_pretrained(folder)
    names = sorted(model.state_dict())
    files = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: model.state_dict()[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize(
    ("save", "told"),
    [
        (save_pickle, "pytorch_model.bin"),
        (
            lambda model, folder: save_pickle(model, folder, _use_new_zipfile_serialization=False),
            "pytorch_model.bin",
        ),
        (save_shards, "pytorch_model-00001-of-00002.bin and 1 more"),
    ],
    ids=["zip", "legacy", "shards"],
)
def test_pickles_are_read_as_tensors_only(
    make_spec: Callable[..., RunSpec],
    tmp_path: Path,
    save: Callable[[PreTrainedModel, Path], None],
    told: str,
    evaluate: bool,
) -> None:
    model = built("resnet")
    save(model, tmp_path)
    spec = spec_of(make_spec("vit"), tmp_path, evaluate=evaluate)
    loaded = build_model(spec, corpus_of(NAMES), None)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert describe_weights(spec) == f"pickle, read as tensors only ({told})"

    refusing = spec_of(make_spec("vit"), tmp_path, evaluate=evaluate, allow_pickle=False)
    with pytest.raises(UnavailableError, match=r"local: .* no safetensors.*'allow_pickle: false'"):
        build_model(refusing, corpus_of(NAMES), None)
    assert refusing.key("training") == spec.key("training")

    # Safetensors come first, also for those who allow pickles.
    model.save_pretrained(tmp_path)
    (tmp_path / told.partition(" ")[0]).write_bytes(b"not looked at")
    build_model(spec, corpus_of(NAMES), None)
    assert describe_weights(spec) == "safetensors"


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain", "shard"])
def test_a_pickle_that_would_run_something_is_refused_by_name(
    make_spec: Callable[..., RunSpec], tmp_path: Path, form: str, evaluate: bool
) -> None:
    target, folder = tmp_path / "ran", tmp_path / "model"
    content = {**built("resnet").state_dict(), "classifier.1.bias": Attack(target)}
    save_shards(built("resnet"), folder) if form == "shard" else save_pickle(
        built("resnet"), folder
    )
    file = folder / ("pytorch_model-00002-of-00002.bin" if form == "shard" else "pytorch_model.bin")
    if form == "plain":
        file.write_bytes(pickle.dumps({"a": Attack(target)}, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UnavailableError) as refused:
        build_model(spec_of(make_spec("vit"), folder, evaluate=evaluate), corpus_of(NAMES), None)
    assert f"model local: {file.name} holds other things than tensors" in str(refused.value)
    assert "system; nothing in it was run" in str(refused.value)
    assert not target.exists()
    # What the test tries to keep from happening does happen to those who unpickle.
    if form == "plain":
        pickle.loads(file.read_bytes())
        assert target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, "other things than tensors: state_dict"),
        ([torch.ones(1)], "holds no tensors by name"),
        ({"a": np.ones(2)}, r"it asks for numpy\._core\.multiarray\._reconstruct"),
        (None, "cannot be read as tensors: .*; nothing in it was run"),
    ],
)
def test_pickles_of_something_else_are_named(
    make_spec: Callable[..., RunSpec], tmp_path: Path, content: Any, message: str
) -> None:
    save_pickle(built("resnet"), tmp_path)
    if content is None:
        (tmp_path / "pytorch_model.bin").write_bytes(b"junk")
    else:
        torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnavailableError, match=f"model local: pytorch_model.bin .*{message}"):
        build_model(spec_of(make_spec("vit"), tmp_path), corpus_of(NAMES), None)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "pytorch_model-9.bin"}}, "names pytorch_model-9.bin, which .* not"),
        (
            {"weight_map": {"a": "../other.bin"}},
            "no index of weights: .* no files of its folder",
        ),
        ({"weight_map": {}}, "is no index of weights"),
        ([], "is no index of weights"),
    ],
)
def test_an_index_names_files_beside_it(
    make_spec: Callable[..., RunSpec], tmp_path: Path, index: Any, message: str
) -> None:
    built("resnet").config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UnavailableError, match=message):
        build_model(spec_of(make_spec("vit"), tmp_path), corpus_of(NAMES), None)


def test_a_folder_without_weights_is_told(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    built("resnet").config.save_pretrained(tmp_path)
    with pytest.raises(UnavailableError, match=r"neither model\.safetensors nor pytorch_model\."):
        build_model(spec_of(make_spec("vit"), tmp_path), corpus_of(NAMES), None)
