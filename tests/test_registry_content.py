"""The registry that is shipped: what the study holds, and that its facts are facts."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    DeiTForImageClassificationWithTeacher,
    LevitForImageClassificationWithTeacher,
)

from benchmark import Registry, plan
from benchmark.registry import DatasetEntry, ModelEntry

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}

# The published hyperparameters of each checkpoint, as (model type, what differs from the
# defaults of its configuration). Images: with the published head; texts: without one.
IMAGE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit-base": ("vit", {}),
    "vit-large": ("vit", LARGE),
    "deit-tiny-224": (
        "vit",
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    ),
    "deit-small": (
        "vit",
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
    "deit-base": ("vit", {}),
    "deit-base-distilled": ("deit", {}),
    "swin-tiny-224": ("swin", {}),
    "swin-small": ("swin", {"depths": [2, 2, 18, 2]}),
    "swin-base": (
        "swin",
        {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
    ),
    "swinv2-tiny-256": ("swinv2", {"image_size": 256, "window_size": 8}),
    "swinv2-base": (
        "swinv2",
        {
            "image_size": 256,
            "window_size": 8,
            "embed_dim": 128,
            "depths": [2, 2, 18, 2],
            "num_heads": [4, 8, 16, 32],
        },
    ),
    "beit-base": ("beit", {"use_relative_position_bias": True}),
    "resnet-18": (
        "resnet",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
    "resnet-34": (
        "resnet",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3], "layer_type": "basic"},
    ),
    "resnet-50": ("resnet", {}),
    "resnet-101": ("resnet", {"depths": [3, 4, 23, 3]}),
    "resnet-152": ("resnet", {"depths": [3, 8, 36, 3]}),
    "regnet-y-016": (
        "regnet",
        {"depths": [2, 6, 17, 2], "hidden_sizes": [48, 120, 336, 888], "groups_width": 24},
    ),
    "regnet-y-040": (
        "regnet",
        {"depths": [2, 6, 12, 2], "hidden_sizes": [128, 192, 512, 1088], "groups_width": 64},
    ),
    "bit-50": ("bit", {}),
    "convnext-tiny-224": ("convnext", {}),
    "convnext-small": ("convnext", {"depths": [3, 3, 27, 3]}),
    "convnext-base": (
        "convnext",
        {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
    ),
    "convnextv2-tiny-224": ("convnextv2", {}),
    "convnextv2-base": (
        "convnextv2",
        {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
    ),
    "efficientnet-b0": (
        "efficientnet",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    ),
    "efficientnet-b3": (
        "efficientnet",
        {"width_coefficient": 1.2, "depth_coefficient": 1.4, "hidden_dim": 1536},
    ),
    "mobilenet-v2": ("mobilenet_v2", {"num_labels": 1001}),
    "mobilevit-small": ("mobilevit", {}),
    "levit-128s": (
        "levit",
        {"hidden_sizes": [128, 256, 384], "num_attention_heads": [4, 6, 8], "depths": [2, 3, 4]},
    ),
    "levit-256": (
        "levit",
        {
            "hidden_sizes": [256, 384, 512],
            "num_attention_heads": [4, 6, 8],
            "depths": [4, 4, 4],
            "key_dim": [32, 32, 32],
        },
    ),
    "cvt-13": ("cvt", {}),
    "cvt-21": ("cvt", {"depth": [1, 4, 16]}),
    "poolformer-s12": ("poolformer", {}),
    "poolformer-s24": ("poolformer", {"depths": [4, 4, 12, 4]}),
    "dinov2-small-head": (
        "dinov2",
        {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14},
    ),
    "dinov2-base-head": ("dinov2", {"image_size": 518, "patch_size": 14}),
    "hiera-tiny": ("hiera", {"depths": [1, 2, 7, 2]}),
    "data2vec-vision-base": ("data2vec-vision", {"use_relative_position_bias": True}),
    "pvt-tiny": ("pvt", {}),
}
TIMM_MODELS = (
    *("deit3-small", "deit3-base", "mixer-b16", "twins-svt-small", "cait-s24", "pit-small"),
    *("eva02-small", "convit-small", "tnt-small", "crossvit-small", "clip-vit-base"),
    *("dinov3-vit-small", "mae-vit-base", "resnet-50-tv", "resnet-50-tv2", "resnext-50"),
    *("densenet-121", "vgg-16", "mobilenet-v3-large", "efficientnet-v2-small", "repvgg-a2"),
    *("convmixer-768-32", "inceptionnext-tiny", "convformer-s18", "nfnet-f0", "clip-resnet-50"),
    *("dinov3-convnext-tiny", "convnextv2-base-fcmae", "xcit-small", "mvitv2-tiny"),
    "caformer-s18",
)
WITH_TEACHER = {
    "deit": DeiTForImageClassificationWithTeacher,
    "levit": LevitForImageClassificationWithTeacher,
}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
DEBERTA_V3 = {
    "vocab_size": 128100,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2-small": (
        "dinov2",
        {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14},
    ),
    "dinov2-base": ("dinov2", {"image_size": 518, "patch_size": 14}),
    "mobilebert": ("mobilebert", {}),
    "bert-base": ("bert", {}),
    "bert-large": ("bert", LARGE),
    "distilbert": ("distilbert", {}),
    "roberta-base": ("roberta", ROBERTA),
    "roberta-large": ("roberta", ROBERTA | LARGE),
    "albert-base": (
        "albert",
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "electra-small": ("electra", {}),
    "electra-base": (
        "electra",
        {
            "embedding_size": 768,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    "deberta-v3-small": (
        "deberta-v2",
        DEBERTA_V3
        | {
            "hidden_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    "deberta-v3-base": (
        "deberta-v2",
        DEBERTA_V3
        | {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    "minilm-l12": ("bert", {"hidden_size": 384, "intermediate_size": 1536}),
    "modernbert-base": ("modernbert", {}),
    "convbert-base": ("convbert", {}),
    "squeezebert": ("squeezebert", {}),
    "fnet-base": ("fnet", {}),
}


def counted_parameters(name: str) -> int:
    """Count the parameters of the published architecture, without making them."""
    with torch.device("meta"):
        if name in IMAGE_MODELS:
            model_type, settings = IMAGE_MODELS[name]
            config = AutoConfig.for_model(model_type, **{"num_labels": 1000, **settings})
            model: Any
            if model_type in WITH_TEACHER:
                model = WITH_TEACHER[model_type](config)
            else:
                model = AutoModelForImageClassification.from_config(config)
        else:
            model_type, settings = BACKBONES[name]
            model = AutoModel.from_config(AutoConfig.for_model(model_type, **settings))
    return sum(weight.numel() for weight in model.parameters())


def independent_timm_parameters(name: str) -> int:
    """Count the parameters of what timm implements, layer by layer as the papers say."""
    if name == "mixer-b16":
        width, patches, hidden_tokens, hidden_channels = 768, 196, 384, 3072
        tokens = patches * hidden_tokens * 2 + hidden_tokens + patches
        channels = width * hidden_channels * 2 + hidden_channels + width
        blocks = 12 * (tokens + channels + 4 * width)
        return (3 * 16 * 16 + 1) * width + blocks + 2 * width + (width + 1) * 1000
    # DeiT-3 is ViT with a scale for each channel after each sublayer, and no position for [CLS].
    plain, width = {"deit3-small": ("deit-small", 384), "deit3-base": ("deit-base", 768)}[name]
    return counted_parameters(plain) + 12 * 2 * width - width


@cache
def shipped() -> Registry:
    return Registry.load()


def hub_models() -> list[ModelEntry]:
    return [model for model in shipped().models.values() if model.hub]


def hub_datasets() -> list[DatasetEntry]:
    return [data for data in shipped().datasets.values() if data.hub]


def test_the_study_is_as_large_as_promised() -> None:
    assert len({model.hub for model in hub_models()}) >= 40
    assert len(hub_datasets()) >= 10
    assert shipped().default_suite().name == "embedded"
    suites = {"embedded", "text", "vision", "imagenet", "seed-notebook", "full"}
    assert suites <= shipped().suites.keys()
    families = {(model.modality, model.mixer, model.family) for model in hub_models()}
    expected = {
        ("image", "attention"): {
            "ViT", "DeiT", "DeiT-3", "Swin", "SwinV2", "BEiT", "DINOv2", "Hiera", "data2vec",
            "Twins", "CaiT", "PiT", "EVA-02", "PVT", "ConViT", "TNT", "CrossViT", "CLIP-ViT",
            "DINOv3-ViT", "MAE",
        },
        ("image", "convolution"): {
            "ResNet", "RegNet", "BiT", "ConvNeXt", "ConvNeXtV2", "EfficientNet", "MobileNetV2",
            "ResNeXt", "DenseNet", "VGG", "MobileNetV3", "EfficientNetV2", "RepVGG", "ConvMixer",
            "InceptionNeXt", "ConvFormer", "NFNet", "CLIP-ResNet", "DINOv3-ConvNeXt",
        },
        ("image", "hybrid"): {"MobileViT", "LeViT", "CvT", "XCiT", "MViTv2", "CAFormer"},
        ("image", "other"): {"PoolFormer"},
        ("image", "mlp"): {"MLP-Mixer"},
        ("text", "attention"): {
            "MobileBERT", "BERT", "DistilBERT", "RoBERTa", "ALBERT", "ELECTRA", "DeBERTa-v3",
            "MiniLM", "ModernBERT",
        },
        ("text", "hybrid"): {"ConvBERT", "SqueezeBERT"},
        ("text", "other"): {"FNet"},
    }  # fmt: skip
    for (modality, mixer), names in expected.items():
        assert {f for m, x, f in families if (m, x) == (modality, mixer)} == names


def test_every_suite_can_be_planned() -> None:
    for name, suite in shipped().suites.items():
        specs = plan(shipped(), suite=name)
        assert {spec.model.name for spec in specs} == set(suite.models), name
        assert {spec.dataset.name for spec in specs} == set(suite.datasets), name


@pytest.mark.parametrize("suite", ["vision", "imagenet"])
@pytest.mark.parametrize("mixer", ["attention", "convolution"])
def test_fifteen_families_a_mixer_take_part(suite: str, mixer: str) -> None:
    models = [shipped().models[name] for name in shipped().suites[suite].models]
    assert len({model.family for model in models if model.mixer == mixer}) >= 15


def test_published_twins_meet_on_the_same_datasets() -> None:
    models = [model for model in shipped().models.values() if model.hub and model.twin]
    pairs = {tuple(sorted((model.name, str(model.twin)))) for model in models}
    assert len(pairs) == 7
    for pair in pairs:
        first, second = (shipped().models[name] for name in pair)
        assert first.evaluate == second.evaluate
        assert first.recipe == second.recipe
        for suite in shipped().suites.values():
            assert (first.name in suite.models) == (second.name in suite.models), suite.name


def test_the_full_suite_is_text_and_vision_and_heads() -> None:
    suites = shipped().suites
    models = suites["text"].models + suites["vision"].models
    heads = tuple(name for name in suites["imagenet"].models if name not in models)
    assert suites["full"].models == models + heads
    assert set(suites["full"].datasets) == {
        *suites["text"].datasets, *suites["vision"].datasets, *suites["imagenet"].datasets,
    }  # fmt: skip


def test_every_entry_says_where_it_comes_from() -> None:
    for entry in [*hub_models(), *hub_datasets()]:
        assert entry.reference is not None, entry.name
        assert entry.hub is not None
        assert entry.hub.count("/") == 1


def test_families_have_one_mixer() -> None:
    mixers: dict[str, set[str]] = {}
    for model in shipped().models.values():
        mixers.setdefault(model.family, set()).add(model.mixer)
    assert {family: found for family, found in mixers.items() if len(found) > 1} == {}


def test_published_heads_of_imagenet_keep_the_order_of_its_classes() -> None:
    for model in hub_models():
        if model.modality == "image" and model.evaluated_on("imagenet-1k"):
            assert model.labels == "dataset-order", model.name
    runs = plan(shipped(), suite="imagenet")
    assert all(spec.model.evaluate and spec.recipe is None for spec in runs)


def test_the_seed_notebook_is_repeated_with_its_settings() -> None:
    (spec,) = plan(shipped(), suite="seed-notebook")
    recipe = spec.recipe
    assert recipe is not None
    settings = (recipe.learning_rate, recipe.batch_size, recipe.epochs, recipe.weight_decay)
    assert settings == (1e-4, 64, 2, 0.01)
    assert (recipe.schedule, recipe.warmup) == ("linear", 0.0)
    assert spec.dataset.columns.text_pair == "sentence2"
    # 404,290 pairs in tenths give the notebook's 327,474 / 36,387 / 40,429 within rounding.
    pairs, splits = 404_290, spec.dataset.splits
    test = round(pairs * float(splits.test))
    calibration = round((pairs - test) * float(splits.calibration))
    assert abs(test - 40_429) <= 1
    assert abs(calibration - 36_387) <= 1
    (published,) = shipped().suites["seed-notebook"].published
    assert published.temperature == 1.1972


@pytest.mark.parametrize("name", [*IMAGE_MODELS, *BACKBONES])
def test_parameters_are_those_of_the_published_architecture(name: str) -> None:
    assert shipped().models[name].parameters == counted_parameters(name)


@pytest.mark.parametrize("name", ["deit3-small", "deit3-base", "mixer-b16"])
def test_parameters_of_timm_models_by_hand(name: str) -> None:
    assert shipped().models[name].parameters == independent_timm_parameters(name)


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        pytest.skip(f"timm cannot be imported: {error}")


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_timm_models_are_as_timm_has_them(name: str, timm: Any) -> None:
    entry = shipped().models[name]
    assert entry.hub is not None
    owner, _, architecture = entry.hub.partition("/")
    with torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False)
    settings = model.pretrained_cfg
    assert entry.parameters == sum(weight.numel() for weight in model.parameters())
    assert (owner, settings["hf_hub_id"]) == ("timm", entry.hub)
    assert (settings["num_classes"] == 1000) == bool(entry.evaluate)
    sizes = [settings.get(key) for key in ("input_size", "test_input_size")]
    if entry.evaluation_resolution is not None:
        assert entry.evaluation_resolution in {size[-1] for size in sizes if size}
    assert (
        settings["license"].split("-")[0] == (entry.licence or "").split("-")[0].split()[0].lower()
    )


def test_no_parameter_count_is_unverified() -> None:
    verified = {*IMAGE_MODELS, *BACKBONES, *TIMM_MODELS}
    assert {model.name for model in hub_models() if str(model.hub).startswith("timm/")} == {
        *TIMM_MODELS
    }
    twins = {"mobilebert-seed": "mobilebert"}
    for model in hub_models():
        if model.parameters is not None and model.name not in verified:
            assert model.parameters == shipped().models[twins[model.name]].parameters


def test_the_registry_of_local_checkpoints_can_be_planned() -> None:
    root = Path(__file__).parents[1]
    registry = Registry.load(root / "docs" / "pretrained.yaml")
    runs = {(spec.model.name, spec.dataset.name) for spec in plan(registry)}
    images = ("dinov2-small", "mobilenet-v2", "efficientnet-lite0")
    assert runs == {("minilm-l6", "ag-news"), *((name, "cifar10-jpeg") for name in images)}
