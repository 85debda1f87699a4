"""Thousands of damaged registries: each is a clear error or a valid plan, never a traceback."""

from __future__ import annotations

import copy
import datetime
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REGISTRY
from ruamel.yaml import YAML

from benchmark.plan import STAGES, SelectionError, plan
from benchmark.registry import DEFAULT_REGISTRY, Registry, RegistryError
from benchmark.registry.commands import main
from benchmark.registry.source import Source

MUTATIONS = 2000
CHILD = """
extends: registry.yaml
models:
  mine: {path: mine, modality: image, mixer: mlp, family: Mixer, evaluate: [digits], recipe: quick}
suites:
  mine: {models: [mine, vit], datasets: [digits], seeds: 2}
"""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 10**18, 10**299, 0.5, -0.0, 1e308, math.nan, math.inf),
    *("", " ", "x" * 2000, "a\nb", "\0", "\x1b[2J", "../..", "/", "~", "all", "yes", "1e3", "é"),
    *([], [[]], [None], ["vit"], [1, True], {}, {"": None}, {"a": {"b": {"c": []}}}),
    *(datetime.date(2020, 1, 1), {1: 2}, {True: False}, {None: None}, "<<", "*a", "\U0001f600"),
]
SNIPPETS = [
    *("\t", "\n", " ", "  ", "\r", "\x0b", "\x85", "\u2028", "\ufeff", "\0", "\x1b", "\U0001f600"),
    *("&a ", "*a ", "<<: *a\n", "<<: 1\n", "\n<<: {}\n", "x: &x [*x]\n", "? ", "- ", "| ", "> "),
    *("!!python/object:os.system x ", "!tag ", "!!int ", "!!str ", "!!binary ", "!!set "),
    *("9" * 5000, "0x" + "f" * 5000, "1e999", "-1", "2020-01-01", ".nan", "-.inf", "0o17", "1_0"),
    *("yes", "true", "null", "~", "'", '"', '"\\ud800"', '"\\0"', "#", ":", ": ", ",", "[", "]"),
    *("{", "}", "{" * 200, "[" * 20_000, "- " * 3000, "%YAML 1.1\n", "---\n", "...\n", "@", "`"),
    *("version: 1\n", "\nextends: .\n", "\nextends: [registry.yaml]\n", "\n" + BOMB),
]
EXTENDS: list[Any] = [
    *("registry.yaml", "child.yaml", "missing.yaml", "", ".", "..", "/", "/dev/null", "\0", "~"),
    *("x" * 5000, [], ["registry.yaml"] * 2, [1], ["."], {"a": 1}, 1, None, True, "folder"),
]


# --- damage ---------------------------------------------------------------------------------------


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all nodes below the top."""
    if isinstance(node, dict):
        children = list(node.items())
    else:
        children = list(enumerate(node)) if isinstance(node, list) else []
    found = [path] if path else []
    for key, child in children:
        found += _places(child, (*path, key))
    return found


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _replace(chance: random.Random, parent: Any, key: Any, tree: Any) -> None:
    parent[key] = copy.deepcopy(chance.choice(VALUES))


def _delete(chance: random.Random, parent: Any, key: Any, tree: Any) -> None:
    del parent[key]


def _retype(chance: random.Random, parent: Any, key: Any, tree: Any) -> None:
    value = parent[key]
    parent[key] = chance.choice([[value], {"value": value}, str(value), {str(value): value}])


def _rename(chance: random.Random, parent: Any, key: Any, tree: Any) -> None:
    if isinstance(parent, dict):
        names = ["", str(key)[:-1], f"{key}x", str(key).upper(), "extends", "name", "a/b", 1, True]
        parent[chance.choice(names)] = parent.pop(key)


def _move(chance: random.Random, parent: Any, key: Any, tree: Any) -> None:
    value = parent.pop(key)
    _put(chance, tree, key, value)


def _duplicate(chance: random.Random, parent: Any, key: Any, tree: Any) -> None:
    _put(chance, tree, key, copy.deepcopy(parent[key]))


def _put(chance: random.Random, tree: Any, key: Any, value: Any) -> None:
    """Put a value into a container anywhere in the tree."""
    paths = [(), *_places(tree)]
    containers = [node for node in (_at(tree, path) for path in paths) if isinstance(node, dict)]
    lists = [node for node in (_at(tree, path) for path in paths) if isinstance(node, list)]
    target = chance.choice([*containers, *lists])
    if isinstance(target, list):
        target.insert(chance.randint(0, len(target)), value)
    else:
        target[key if isinstance(key, str) else chance.choice([*target, "new"])] = value


STRUCTURAL: list[Callable[[random.Random, Any, Any, Any], None]] = [
    *(_replace, _replace, _delete, _retype, _rename, _move, _duplicate),
]


def structural(chance: random.Random, text: str) -> bytes:
    """Return the registry with one or two of its nodes changed."""
    tree = copy.deepcopy(YAML_TREES[text])
    for _ in range(chance.choice([1, 1, 2])):
        paths = _places(tree)
        if not paths:
            break
        path = chance.choice(paths)
        chance.choice(STRUCTURAL)(chance, _at(tree, path[:-1]), path[-1], tree)
    if chance.random() < 0.3:
        return json.dumps(tree, default=str).encode()
    return yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True).encode()


def textual(chance: random.Random, text: str) -> bytes:
    """Return the registry with one or two changes to its text."""
    content = text.encode()
    for _ in range(chance.choice([1, 1, 2])):
        action = chance.choice([_flip, _cut, _insert, _insert, _indent])
        content = action(chance, content)
    return content


def _flip(chance: random.Random, content: bytes) -> bytes:
    position = chance.randrange(len(content))
    flipped = content[position] ^ (1 << chance.randrange(8))
    return content[:position] + bytes([flipped]) + content[position + 1 :]


def _cut(chance: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    start = chance.randrange(len(lines))
    return b"".join(lines[:start] + lines[start + chance.randint(1, 4) :]) or b"\n"


def _insert(chance: random.Random, content: bytes) -> bytes:
    position = chance.randrange(len(content) + 1)
    if chance.random() < 0.5:  # at the beginning of a line, where more means something
        position = content.rfind(b"\n", 0, position) + 1
    elif chance.random() < 0.5:  # in the place of a value
        position = content.find(b": ", position) + 2
    return content[:position] + chance.choice(SNIPPETS).encode() + content[position:]


def _indent(chance: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    number = chance.randrange(len(lines))
    line = lines[number]
    lines[number] = chance.choice([b" " + line, line.lstrip(b" "), b"\t" + line, line * 2])
    return b"".join(lines)


SHIPPED = DEFAULT_REGISTRY.read_text(encoding="utf-8")
YAML_TREES = {text: YAML(typ="safe").load(text) for text in (REGISTRY, SHIPPED, CHILD)}


def write_damaged(folder: Path, seed: int) -> Path:
    """Write registry files, one of them damaged; return the one to load."""
    chance = random.Random(seed)
    damage = chance.choice([structural, textual])
    base, child = folder / "registry.yaml", folder / "child.yaml"
    kind = ("small", "shipped", "child", "base", "extends")[seed % 5]
    base.write_bytes(REGISTRY.encode())
    child.write_bytes(CHILD.encode())
    if kind in ("small", "shipped", "base"):
        base.write_bytes(damage(chance, SHIPPED if kind == "shipped" else REGISTRY))
        return child if kind == "base" else base
    text = CHILD
    if kind == "extends":
        value = json.dumps(chance.choice(EXTENDS))
        text = CHILD.replace("extends: registry.yaml", f"extends: {value}")
        if chance.random() < 0.5:
            child.write_text(text, encoding="utf-8")
            return child
        YAML_TREES.setdefault(text, YAML(typ="safe").load(text))
    child.write_bytes(damage(chance, text))
    return child


# --- what comes of it -----------------------------------------------------------------------------

NOTHING = "nothing to run: no selected model meets"
LOCATED = re.compile(r"\S*(registry|child)\.yaml:[1-9]\d*:[1-9]\d*: \S")


def explain(path: Path) -> str:
    """Return why a registry cannot be used, or "" where it gives a plan with all of its keys."""
    reason = ""
    try:
        for spec in plan(Registry.load(path)):
            assert all(spec.key(stage) for stage in STAGES)
    except (RegistryError, SelectionError) as error:
        reason = str(error)
    if not reason.startswith(NOTHING):
        for line in reason.splitlines():
            assert line.startswith("    ") or LOCATED.match(line), line
    return reason


def test_mutated_registries_are_a_clear_error_or_a_valid_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    errors = 0
    for seed in range(MUTATIONS):
        path = write_damaged(tmp_path, seed)
        try:
            reason = explain(path)
            if seed % 10 == 0:
                valid = not reason or reason.startswith(NOTHING)
                assert main(["validate", str(path)]) == (0 if valid else 2)
        except Exception as error:
            pytest.fail(f"seed {seed}: {path.read_bytes()[:2000]!r}: {error!r}")
        errors += bool(reason)
    capsys.readouterr()
    with capsys.disabled():
        print(f"\n{MUTATIONS} registries: {errors} errors, {MUTATIONS - errors} valid plans")
    assert MUTATIONS // 10 < errors < MUTATIONS * 9 // 10  # the damage is neither all nor nothing


@pytest.mark.parametrize("text", [REGISTRY, SHIPPED, CHILD])
def test_values_are_those_that_another_yaml_library_reads(tmp_path: Path, text: str) -> None:
    """Valid files mean the same as to ruamel.yaml, in its YAML 1.2."""
    assert Source.parse(tmp_path / "registry.yaml", text).plain() == _with_text_keys(
        YAML(typ="rt").load(text)
    )
    for seed in range(60):
        content = structural(random.Random(seed), text).decode()
        expected = _with_text_keys(YAML(typ="safe", pure=True).load(content))
        if "datetime" in repr(expected):
            continue  # a registry knows no dates: to it they are texts
        found = Source.parse(tmp_path / "registry.yaml", content).plain()
        assert repr(found) == repr(expected), seed  # nan is not equal to itself


def _with_text_keys(node: Any) -> Any:
    """Return a tree with keys as they are written: 1, true and null."""
    if isinstance(node, dict):
        written = {True: "true", False: "false", None: "null"}
        return {
            written[key] if key is None or isinstance(key, bool) else str(key): _with_text_keys(
                value
            )
            for key, value in node.items()
        }
    return [_with_text_keys(value) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases expand to more than 100,000 values"),
        ("a: &a [*a]", "stands inside its own"),
        ("[" * 100_000, "nested more than 50 levels deep"),
        ("a: " + "9" * 5000, "a number of more than 300 characters"),
        ("a: 1\nb: 2\na: 3\n", "registry.yaml:3:1: not valid YAML: the key 'a' stands twice"),
        ("a: !!python/name:os.system x", "has no meaning in a registry"),
        ("a: 1\n---\nb: 2\n", "registry.yaml:2:1: not valid YAML: a registry is one document"),
        ("? [a]\n: 1", "a key is a word"),
        ("a: &b 1\n<<: *b\n", "'<<' takes in a mapping"),
        ("a: b\n\tc: d\n", "registry.yaml:2:"),
        ("a: \x07", "U+0007"),
    ],
)
def test_what_yaml_can_do_to_a_reader_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RegistryError) as caught:
        Registry.load(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = REGISTRY.replace("  resnet:\n", "  resnet: &resnet\n").replace(
        "  diverging:\n", "  copy:\n    <<: *resnet\n    family: Other\n  diverging:\n"
    )
    path = tmp_path / "registry.yaml"
    path.write_text(text, encoding="utf-8")
    registry = Registry.load(path)
    original, copied = registry.models["resnet"], registry.models["copy"]
    assert copied == original.model_copy(update={"name": "copy", "family": "Other"})
