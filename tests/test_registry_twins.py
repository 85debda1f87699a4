"""Fields that describe published checkpoints: twins, and image processors set by an entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REGISTRY
from PIL import Image
from pydantic import ValidationError

from benchmark import Registry, RunSpec
from benchmark.models.preprocessor import load_preprocessor
from benchmark.plan import STAGES
from benchmark.registry import ModelEntry, Pretraining, Processor, RegistryError
from benchmark.registry.twins import parameter_gap, twin_problems

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEIT = Processor(size=256, crop_size=224, resample="bicubic", image_mean=MEAN, image_std=DEVIATION)


def published(name: str, **fields: Any) -> ModelEntry:
    return ModelEntry.model_validate(
        {"name": name, "hub": f"owner/{name}", "modality": "image", "recipe": "r", "family": name}
        | fields
    )


def scratch(name: str, mixer: str, twin: str, **arguments: Any) -> ModelEntry:
    configuration = {"model_type": "metaformer", "token_mixer": mixer, "depths": [1], **arguments}
    return ModelEntry.model_validate(
        {"name": name, "scratch": configuration, "modality": "image", "recipe": "r"}
        | {"family": name, "mixer": mixer, "twin": twin}
    )


def problems(*models: ModelEntry) -> dict[str, str]:
    return dict(twin_problems({model.name: model for model in models}))


def test_a_published_pair_says_in_a_note_what_else_differs() -> None:
    first = published("a", mixer="attention", twin="b")
    second = published("b", mixer="convolution", twin="a")
    assert "say in a 'note' how ('b')" in problems(first, second)["a"]
    noted = second.model_copy(update={"note": "the stem"})
    assert problems(first, noted) == {}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"twin": None}, "'b' names none: twins name each other, so give it twin: a"),
        ({"twin": "c"}, "'b' names 'c': twins name each other"),
        ({"mixer": "attention"}, "'b' has the same mixer, attention"),
        ({"modality": "text"}, "'b' is of modality text, this one of image"),
    ],
)
def test_a_twin_that_is_none_is_refused(update: dict[str, str], message: str) -> None:
    first = published("a", mixer="attention", twin="b")
    second = published("b", mixer="convolution", twin="a", note="the stem")
    assert message in problems(first, second.model_copy(update=update))["a"]


def test_a_model_is_no_twin_of_its_own() -> None:
    assert "no twin of its own" in problems(published("a", mixer="attention", twin="a"))["a"]


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({}, None),
        ({"note": "x", "reference": "y", "licence": "z", "family": "other"}, None),
        ({"parameters": 105}, None),
        (
            {"parameters": 106},
            "from its twin 'b' by 6% of the parameters; twins may differ by at most 5%",
        ),
        (
            {"recipe": "s"},
            "differs from its twin 'b' in recipe (r here, s there); twins may differ",
        ),
    ],
)
def test_twins_trained_here_differ_in_the_mixer_alone(
    update: dict[str, object], message: str | None
) -> None:
    first = scratch("a", "attention", "b").model_copy(update={"parameters": 100})
    second = scratch("b", "convolution", "a").model_copy(update=update)
    found = problems(first, second).get("a")
    assert found == message if message is None else message in str(found)


def test_twins_trained_here_have_one_configuration() -> None:
    first = scratch("a", "attention", "b")
    second = scratch("b", "convolution", "a", depths=[2], width=3)
    told = problems(first, second)["a"]
    assert "in scratch.depths ([1] here, [2] there), scratch.width (None here, 3 there)" in told


def test_the_gap_in_parameters_is_relative_to_the_smaller() -> None:
    small, large = (published(str(n), mixer="mlp", parameters=n) for n in (80, 100))
    assert parameter_gap(small, large) == parameter_gap(large, small) == pytest.approx(0.25)
    assert parameter_gap(small, published("x", mixer="mlp")) is None


def test_a_wrong_twin_is_told_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY.replace("    family: ViT\n", "    family: ViT\n    twin: resnet\n", 1))
    with pytest.raises(
        RegistryError, match=r"registry.yaml:13:.*models\.vit\.twin: 'resnet' names"
    ):
        Registry.load(path)
    path.write_text(REGISTRY.replace("    family: ViT\n", "    family: ViT\n    twin: resnt\n", 1))
    with pytest.raises(RegistryError, match="unknown model 'resnt', did you mean 'resnet'"):
        Registry.load(path)


# --- image processors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "says nothing"),
        ({"crop_size": 224}, "'crop_size' needs 'size'"),
        ({"crop_size": 224, "size": 200}, "'crop_size' is at most 'size'"),
        ({"image_std": [0.2, 0.0, 0.2]}, "'image_std' is divided by"),
        ({"image_mean": []}, "at least 1"),
        ({"resample": "cubic"}, "'bicubic'"),
        ({"means": [1]}, "Extra inputs"),
    ],
)
def test_what_an_image_processor_cannot_be_is_refused(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Processor.model_validate(fields)


def test_texts_and_new_models_have_no_image_processor_to_set() -> None:
    options = {"mixer": "attention", "processor": {"resample": "bicubic"}}
    with pytest.raises(ValidationError, match="'processor' is for images"):
        published("a", **options, modality="text")
    with pytest.raises(ValidationError, match="'processor' is for images"):
        published("a", **options, hub=None, scratch={"model_type": "vit"})


def test_a_teacher_needs_distillation() -> None:
    assert Pretraining(distillation=True, teacher_mixer="convolution").teacher_mixer
    with pytest.raises(ValidationError, match="needs 'distillation: true'"):
        Pretraining(teacher_mixer="convolution")


def local_spec(spec: RunSpec, folder: Path, processor: Processor | None) -> RunSpec:
    entry = published("local", mixer="attention", hub=None, path=folder)
    return spec.model_copy(update={"model": entry.model_copy(update={"processor": processor})})


@pytest.fixture
def deit_folder(tmp_path: Path) -> Path:
    """The settings of facebook/deit-*-patch16-224: statistics of .5, a plain resize to 224."""
    processor = {"do_normalize": True, "do_resize": True, "resample": 2, "size": 224}
    half = [0.5, 0.5, 0.5]
    processor |= {"feature_extractor_type": "ViTFeatureExtractor", "image_mean": half}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, "image_std": half}))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    return tmp_path


def pixels(loaded: Any, image: np.ndarray) -> np.ndarray:
    made = loaded.processor(images=[image], return_tensors="np", input_data_format="channels_last")
    return np.asarray(made["pixel_values"][0]).transpose(1, 2, 0)


def test_the_processor_of_an_entry_takes_the_place_of_its_file(
    make_spec: Callable[..., RunSpec], deit_folder: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    plain = load_preprocessor(local_spec(make_spec("vit"), deit_folder, None), None, deit_folder)  # type: ignore[arg-type]
    spec = local_spec(make_spec("vit"), deit_folder, DEIT)
    changed = load_preprocessor(spec, None, deit_folder)  # type: ignore[arg-type]
    # As DeiT evaluates: the shorter side to 256 by bicubic interpolation, 224 cut from the centre.
    resized = Image.fromarray(image).resize((341, 256), Image.Resampling.BICUBIC)
    left, top = (341 - 224) // 2, (256 - 224) // 2
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))) / 255
    expected = (expected - MEAN) / DEVIATION
    np.testing.assert_allclose(pixels(changed, image), expected, atol=1e-6)
    square = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(pixels(plain, image), np.asarray(square) / 127.5 - 1, atol=1e-6)
    assert plain.key != changed.key


def test_only_what_is_computed_is_part_of_the_keys(
    make_spec: Callable[..., RunSpec], deit_folder: Path
) -> None:
    spec = local_spec(make_spec("vit"), deit_folder, None)
    described = {
        "twin": "other",
        "evaluation_resolution": 224,
        "pretraining": Pretraining(loss="binary_cross_entropy", cutmix=True),
    }
    same = spec.model_copy(update={"model": spec.model.model_copy(update=described)})
    assert [same.key(stage) for stage in STAGES] == [spec.key(stage) for stage in STAGES]
    processed = local_spec(spec, deit_folder, DEIT)
    assert all(processed.key(stage) != spec.key(stage) for stage in STAGES)
