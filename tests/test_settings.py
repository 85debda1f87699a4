"""Fields changed for one command: `--set`, `--precision`; and patterns among names."""

from __future__ import annotations

import pytest

from benchmark import Registry
from benchmark.plan import SelectionError, select
from benchmark.registry import RegistryError, changed, parse_settings


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


def test_a_setting_changes_the_recipe_of_every_run_and_keeps_them_apart(
    registry: Registry,
) -> None:
    settings = parse_settings(["recipe.epochs=1", "recipe.lora.rank = 4", "dataset.max_length=32"])
    apart = select(registry, suite="embedded", settings=settings)
    whole = select(registry, suite="embedded")
    assert apart.suite == "embedded+selection"
    assert {spec.suite for spec in apart.specs} == {"embedded+selection"}
    assert [spec.name for spec in apart.specs] == [spec.name for spec in whole.specs]
    for spec, before in zip(apart.specs, whole.specs, strict=True):
        assert spec.recipe is not None
        assert before.recipe is not None
        assert spec.recipe.lora is not None
        assert (spec.recipe.epochs, spec.recipe.lora.rank) == (1, 4)
        assert spec.recipe.learning_rate == before.recipe.learning_rate
        assert spec.dataset.max_length == 32
        assert spec.key("training") != before.key("training")


def test_a_setting_that_changes_nothing_leaves_the_runs_where_they_are(registry: Registry) -> None:
    recipe = registry.recipes["image-scratch"]
    same = parse_settings([f"recipe.epochs={recipe.epochs}"])
    chosen = select(registry, suite="smoke", settings=same)
    assert chosen.suite == "smoke"
    assert [spec.key("scores") for spec in chosen.specs] == [
        spec.key("scores") for spec in select(registry, suite="smoke").specs
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs=1", "write it as recipe.epochs=1"),
        ("recipe.epochs", "write it as recipe.epochs=1"),
        ("recipes.epochs=1", "unknown 'recipes', did you mean 'recipe'?"),
        ("recipe.epoch=1", "no field 'epoch', did you mean 'epochs'?"),
        ("dataset.name=x", "no field 'name'"),
        ("recipe.epochs=[1", "'[1' is no value of a registry"),
    ],
)
def test_what_is_no_setting_is_refused(text: str, message: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_settings([text])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe.epochs=-1", "--set recipe.epochs: input should be greater than or equal to 0"),
        ("recipe.epochs=many", "--set recipe.epochs: input should be a valid integer"),
        ("recipe.clip_norm=true", "--set recipe.clip_norm: expected a number, found true"),
        ("recipe.lora.rnk=4", "--set recipe.lora.rnk: extra inputs are not permitted"),
    ],
)
def test_a_value_is_checked_as_in_a_registry(registry: Registry, text: str, message: str) -> None:
    recipe = registry.recipes["image-scratch"]
    with pytest.raises(RegistryError) as caught:
        changed(recipe, parse_settings([text])["recipe"])
    assert message in str(caught.value)


def test_a_recipe_cannot_be_set_where_nothing_is_fine_tuned(registry: Registry) -> None:
    with pytest.raises(SelectionError, match="nothing is fine-tuned"):
        select(registry, suite="imagenet", settings=parse_settings(["recipe.epochs=1"]))


def test_patterns_choose_among_the_suite_and_then_the_registry(registry: Registry) -> None:
    def chosen(*names: str) -> list[str]:
        specs = select(registry, suite="embedded", models=names, seeds=1).specs
        return list(dict.fromkeys(spec.model.name for spec in specs))

    assert chosen("*bert-tiny") == [
        "bert-tiny", "distilbert-tiny", "convbert-tiny", "squeezebert-tiny",
    ]  # fmt: skip
    assert chosen("vit-*") == ["vit-tiny"]
    assert len(chosen("meta-image-48x2-p7-*")) == 2
    with pytest.raises(SelectionError, match="no model matches 'vot-\\*'"):
        chosen("vot-*")
