"""Registries as people write them: mistakes in our words, at their place, all at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from conftest import REGISTRY
from pydantic import ValidationError

from benchmark.registry import Registry, RegistryError, did_you_mean
from benchmark.registry.commands import main
from benchmark.registry.entries import Entry
from benchmark.registry.hub_names import hub_page
from benchmark.registry.problems import in_words

FOREIGN_WORDS = ("Input ", "should ", "Field required", "Value error", "tuple", "string", "integer")
WRONG: list[Any] = [
    *(None, True, 3, -3, 2.5, float("nan"), "", "x y", "x" * 300, [], ["a"], [1], [None]),
    *({}, {"a": 1}, {"a": {}}, [[]], 1e400),
]


def errors(folder: Path, text: str) -> str:
    path = folder / "registry.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RegistryError) as caught:
        Registry.load(path)
    return str(caught.value)


def mistakes(old: str, new: str) -> str:
    assert old in REGISTRY
    return REGISTRY.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (mistakes("models: [vit, resnet]", "models: vit"), 46, "expected a list, found vit: write"),
        (mistakes("seeds: 1", "seeds: often"), 46, "expected a whole number, found often"),
        (mistakes("seeds: 1", "seeds: 0"), 46, "must be at least 1"),
        (mistakes("seeds: 1", "seeds: true"), 46, "expected a number, found true"),
        (mistakes("warmup: 0.3", "warmup: 1"), 4, "must be below 1"),
        (mistakes("clip_norm: null", "clip_norm: 0"), 5, "must be above 0"),
        (mistakes("family: ViT", "family: 101"), 12, "found the number 101: put it in quotes"),
        (mistakes("family: ViT", "family: true"), 12, "the truth value true: put it in quotes"),
        (mistakes("family: ViT", "family:"), 12, "is empty: expected a text"),
        (mistakes("family: ViT", "family: [ViT]"), 12, "expected a text, found a list"),
        (REGISTRY + "claim: {contrast: [attention]}", 48, "needs at least 2 of them"),
        (mistakes("  vit:\n", "  my vit:\n"), 7, "no slash or space, and begins with a letter"),
        (mistakes("  vit:\n", "  a/vit:\n"), 7, "e.g. 'a-vit'"),
        (mistakes("  vit:\n", f"  {'v' * 101}:\n"), 7, "at most 100 characters; this one has 101"),
        (
            mistakes("recipe: quick", "evaluate: perhaps"),
            13,
            "expected true or false, found perhaps",
        ),
        ("extends: base.yaml\nmodels:\n", 2, "models: is empty: expected a mapping"),
        (mistakes("    mixer", "\tmixer"), 11, "a tab (U+0009) looks like a space"),
        (mistakes("  quick:", "\u00a0 quick:"), 4, "no-break space (U+00A0) looks like a space"),
        (mistakes("mixer: ", "mixer:\u00a0"), 11, "no-break space (U+00A0)"),
        (mistakes("mixer: attention", "mixer: attention\u2009"), 11, "thin space (U+2009)"),
    ],
)
def test_a_mistake_is_told_in_plain_words(
    tmp_path: Path, text: str, place: int, words: str
) -> None:
    (tmp_path / "base.yaml").write_text(REGISTRY, encoding="utf-8")
    told = errors(tmp_path, text)
    assert words in told
    assert f"registry.yaml:{place}:" in told


def test_a_foreign_blank_inside_a_text_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(mistakes("family: ViT", "family: 'ViT\u00a0B'\n    note: 5\u00a0GB"))
    assert Registry.load(path).models["vit"].note == "5\u00a0GB"


def entry_classes(owner: type[Entry] = Registry) -> set[type[Entry]]:
    found = {owner}
    queue = [field.annotation for field in owner.model_fields.values()]
    while queue:
        annotation = queue.pop()
        queue += get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Entry):
            found |= entry_classes(annotation)
    return found


@pytest.mark.parametrize("entry", sorted(entry_classes(), key=lambda entry: entry.__name__))
def test_no_wrong_value_of_any_field_is_told_in_the_words_of_a_library(entry: type[Entry]) -> None:
    for field in entry.model_fields:
        for value in WRONG:
            try:
                entry.model_validate({field: value})
            except ValidationError as error:
                for detail in error.errors():
                    told = in_words(detail)
                    assert not any(word in told for word in FOREIGN_WORDS), (field, value, told)


def test_shape_and_references_are_told_together(tmp_path: Path) -> None:
    text = mistakes("mixer: attention", "mixer: attn").replace("recipe: broken", "recipe: brokn")
    told = errors(tmp_path, text.replace("datasets: [digits], seeds", "datasets: [digts], seeds"))
    assert "unknown mixer 'attn', did you mean 'attention'?" in told
    assert "unknown recipe 'brokn', did you mean 'broken'?" in told
    assert "unknown dataset 'digts', did you mean 'digits'?" in told


def test_a_missing_section_does_not_make_its_names_unknown(tmp_path: Path) -> None:
    told = errors(tmp_path, REGISTRY.replace("recipes:", "recipe:", 1))
    assert "unknown key 'recipe', did you mean 'recipes'?" in told
    assert "missing key 'recipes'" in told
    assert "unknown recipe" not in told


def test_three_of_many_names_are_shown() -> None:
    names = [f"model-{number}" for number in range(73)]
    told = did_you_mean("zebra", names)
    assert told.startswith("; nearest of 73: ")
    assert told.count("model-") == 3


@pytest.mark.parametrize(
    ("address", "name", "revision", "is_dataset"),
    [
        ("https://hub.example/owner/name", "owner/name", None, False),
        ("https://hub.example/owner/name/", "owner/name", None, False),
        ("http://hub.example/owner/name/tree/main", "owner/name", "main", False),
        ("https://hub.example/owner/name/blob/v1/config.json", "owner/name", "v1", False),
        ("https://hub.example/datasets/owner/name?row=3#top", "owner/name", None, True),
        ("https://hub.example/short", "short", None, False),
    ],
)
def test_the_address_of_a_page(
    tmp_path: Path, address: str, name: str, revision: str | None, is_dataset: bool
) -> None:
    assert hub_page(address) == (name, revision, is_dataset)
    told = errors(tmp_path, mistakes("embedded: digits", f"hub: {address}"))
    pin = f", revision: {revision}" if revision else ""
    assert (
        f"datasets.digits.hub: is the address of a page: write owner/name, hub: {name}{pin}\n"
        in told
    )


@pytest.mark.parametrize("hub", ["a/b/c", "a b", "owner/", "/name", ""])
def test_what_is_no_name_on_the_hub(tmp_path: Path, hub: str) -> None:
    told = errors(tmp_path, mistakes("embedded: digits", f"hub: '{hub}'"))
    assert "is not owner/name of a repository" in told


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "base.yaml").write_text(REGISTRY)
    path = tmp_path / "registry.yaml"
    path.write_text(
        "extends: ~/base.yaml\ndatasets:\n"
        "  mine: {path: ~/rows, modality: text, columns: {text: text}}\n"
        "  other: {path: ~nobody-of-that-name/rows, modality: text, columns: {text: text}}\n"
    )
    datasets = Registry.load(path).datasets
    assert datasets["mine"].path == tmp_path / "home" / "rows"
    assert datasets["other"].path == tmp_path / "~nobody-of-that-name" / "rows"


LOCAL = """
version: 1
recipes: {r: {epochs: 1, batch_size: 2, learning_rate: 1e-3}}
models:
  here: {path: model, modality: text, mixer: attention, family: A, recipe: r}
  away: {path: nothing, modality: text, mixer: attention, family: A, recipe: r}
datasets:
  good: {path: data, modality: text, columns: {text: words}}
  column: {path: data, modality: text, columns: {text: word}}
  split: {path: data, modality: text, columns: {text: words}, splits: {test: validation}}
  gone: {path: date, modality: text, columns: {text: words}}
suites:
  s: {models: [here, away], datasets: [good, column, split, gone]}
"""


def test_validate_opens_local_files(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = "".join(f"a b,{'xy'[n % 2]}\n" for n in range(40))
        (tmp_path / "data" / f"{split}.csv").write_text(f"words,label\n{rows}")
    path = tmp_path / "registry.yaml"
    path.write_text(LOCAL)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.registry", "validate", str(path)],
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 2
    assert "models.away.path: " in done.stderr
    assert (
        "datasets.column.path: test.csv has no column 'word', did you mean 'words'?" in done.stderr
    )
    assert "datasets.split.path: no split 'validation'" in done.stderr
    assert "datasets.gone.path: " in done.stderr
    assert "not valid; problems: 4" in done.stderr
    assert "Traceback" not in done.stderr
    tree = yaml.safe_load(LOCAL)
    tree["models"].pop("away")
    tree["datasets"] = {"good": tree["datasets"]["good"]}
    tree["suites"] = {"s": {"models": ["here"], "datasets": ["good"]}}
    tree["recipes"]["r"]["learning_rate"] = 1e-3
    path.write_text(yaml.safe_dump(tree))
    assert main(["validate", str(path)], check_data=lambda entry: None) == 0
