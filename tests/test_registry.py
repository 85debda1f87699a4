from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REGISTRY

from benchmark.plan import plan
from benchmark.registry import DEFAULT_REGISTRY, Registry, RegistryError, did_you_mean


def load_text(folder: Path, text: str) -> Registry:
    path = folder / "registry.yaml"
    path.write_text(text, encoding="utf-8")
    return Registry.load(path)


def test_shipped_registry_is_valid_and_balanced() -> None:
    registry = Registry.load(DEFAULT_REGISTRY)
    suite = registry.default_suite()
    assert suite.name == "embedded"
    assert len(suite.models) == 14
    mixers = {registry.models[name].mixer for name in suite.models}
    assert {"attention", "convolution", "hybrid", "other"} <= mixers
    assert len(plan(registry)) == 28


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("mixer: attention", "mixer: attn", 11, "unknown mixer 'attn', did you mean 'attention'?"),
        ("family: ViT", "famly: ViT", 12, "unknown key 'famly', did you mean 'family'?"),
        ("family: ViT", "", 7, "missing key 'family'"),
        ("recipe: quick", "recipe: quik", 13, "unknown recipe 'quik', did you mean 'quick'?"),
        ("epochs: 2", "epochs: -2", 4, "epochs: must be at least 0"),
        ("models: [vit, resnet]", "models: [vitt]", 46, "unknown model 'vitt', did you mean"),
        ("embedded: digits", "hub: a/b", 36, "columns must name the image column"),
        ("embedded: digits", "columns: x", 37, "expected a mapping with keys out of: text,"),
        ("version: 1", "version: 2", 2, "unknown version '2'"),
    ],
)
def test_errors_name_line_and_fix(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    with pytest.raises(RegistryError) as caught:
        load_text(tmp_path, REGISTRY.replace(old, new, 1))
    text = str(caught.value)
    assert message in text
    assert f"registry.yaml:{line}:" in text


def test_all_errors_are_reported_at_once_with_a_caret(tmp_path: Path) -> None:
    text = REGISTRY.replace("mixer: attention", "mixer: attn").replace("epochs: 2", "epochs: x")
    with pytest.raises(RegistryError) as caught:
        load_text(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert sum("unknown mixer" in line for line in lines) == 3
    caret = next(i for i, line in enumerate(lines) if "unknown mixer" in line)
    assert lines[caret + 1][lines[caret + 2].index("^") :].startswith("attn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: [", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping with keys out of: version, models"),
        ("", "registry.yaml:1:1: registry: expected a mapping"),
        ("a: 1\na: 2\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_garbage_is_a_clear_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        load_text(tmp_path, content)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no such registry file"):
        Registry.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(RegistryError, match="cannot be read"):
        Registry.load(tmp_path / "binary.yaml")


def test_did_you_mean() -> None:
    assert did_you_mean("rsnet", ["resnet", "vit"]) == ", did you mean 'resnet'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("", ["a"]) == "; known: a"
