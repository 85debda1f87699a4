"""Damaged files: noticed, set aside, made anew; never a changed number, never another run."""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import Tree, figures, flip, run_command
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from benchmark import Registry, RunSpec, execute, plan
from benchmark.execution import workers
from benchmark.execution.timing_stage import time_groups
from benchmark.records import (
    Failure,
    OtherVersionError,
    ResultsError,
    RunFolder,
    read_split,
    shared_cache,
)
from benchmark.report import write_report
from benchmark.report.reading import read_suite


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two finished runs: an image model and a text model."""
    from conftest import REGISTRY

    place = tmp_path_factory.mktemp("tree")
    (place / "registry.yaml").write_text(REGISTRY)
    registry = Registry.load(place / "registry.yaml")
    images = plan(registry, models=["vit"], datasets=["digits"], limit=48)
    texts = plan(registry, models=["bert"], datasets=["bbc"], limit=48)
    specs = [*images, *texts]
    return Tree.make(specs, place / "results")


@pytest.fixture
def tree(made: Tree, tmp_path: Path) -> Tree:
    """A copy of the tree that a test may damage."""
    shutil.copytree(made.results, tmp_path / "results")
    return Tree(made.specs, tmp_path / "results", made.expected)


def folder_of(tree: Tree) -> RunFolder:
    return tree.specs[0].folder(tree.results)


def examine(tree: Tree, path: Path, rng: random.Random, *, keep_time: bool) -> str:
    """Flip a bit of a file; return how it came out. Fails where a number changed."""
    original = path.read_bytes()
    where = flip(path, rng, keep_time=keep_time)
    told = f"{path}, byte {where}"
    for suite in {spec.suite for spec in tree.specs}:
        read_suite(tree.results, suite)  # never raises; what it leaves out it names
    for spec, expected in zip(tree.specs, tree.expected, strict=True):
        try:
            found = figures(spec.folder(tree.results))
        except ResultsError as error:
            named = str(error)
            assert spec.name in named, told
        else:
            assert found == expected, told
    run_command(tree.specs, tree.results)
    assert tree.is_as_made(), told
    if tree.tidy():
        return "set aside by the next command"
    for models in (False, True):
        if not path.exists() or path.read_bytes() == original:
            break
        tree.forget(models=models)
        run_command(tree.specs, tree.results)
        assert tree.is_as_made(), told
        if tree.tidy():
            return "set aside when it was read"
    return "harmless"


def test_some_flips(tree: Tree) -> None:
    rng = random.Random(0)
    folder = folder_of(tree)
    for path in (folder.record, folder.logits, folder.spec):
        assert examine(tree, path, rng, keep_time=False) == "set aside by the next command"


@pytest.mark.chaos
def test_two_hundred_flips_anywhere(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(18)
    outcomes: collections.Counter[str] = collections.Counter()
    for turn in range(200):
        path = rng.choice(tree.files())
        outcomes[examine(tree, path, rng, keep_time=bool(turn % 2))] += 1
    with capsys.disabled():
        print(f"\n200 flips: {dict(outcomes)}")
    assert sum(outcomes.values()) == 200


KINDS: dict[str, Callable[[Tree], Path]] = {
    "record": lambda tree: folder_of(tree).record,
    "spec": lambda tree: folder_of(tree).spec,
    "training mark": lambda tree: folder_of(tree).training,
    "logits": lambda tree: folder_of(tree).logits,
    "weights": lambda tree: folder_of(tree).model / "model.safetensors",
    "config": lambda tree: folder_of(tree).model / "config.json",
    "list of checksums": lambda tree: folder_of(tree).model / "checksums.json",
    "preprocessor": lambda tree: min(
        shared_cache(tree.results).glob("preprocessors/*/tokenizer.json")
    ),
    "encoded rows": lambda tree: min(shared_cache(tree.results).glob("encoded/*.safetensors")),
}


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_twenty_times(kind: str, tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(kind)
    outcomes = collections.Counter(
        examine(tree, KINDS[kind](tree), rng, keep_time=bool(turn % 2)) for turn in range(20)
    )
    with capsys.disabled():
        print(f"\n{kind}: {dict(outcomes)}")
    assert sum(outcomes.values()) == 20


# --- what is found is made anew, and nothing else is touched --------------------------------------


@pytest.mark.parametrize("kind", ["weights", "encoded rows", "preprocessor"])
def test_what_is_read_is_verified_though_size_and_time_are_right(
    kind: str, tree: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    path = KINDS[kind](tree)
    before = path.read_bytes()
    flip(path, random.Random(1), keep_time=True)
    assert run_command(tree.specs, tree.results) == 0  # nobody needs it
    tree.forget(models=kind != "weights")
    run_command(tree.specs, tree.results)
    assert tree.is_as_made()
    assert path.read_bytes() == before
    named = [message for message in caplog.messages if "set aside" in message]
    assert len(named) == 1
    assert str(path) in named[0] or (str(path.parent) in named[0] and path.name in named[0])


def test_a_renamed_tensor_is_not_replaced_by_a_random_one(tree: Tree) -> None:
    """Also in a tree of an earlier version, whose models have no list of checksums."""
    folder = folder_of(tree)
    weights = folder.model / "model.safetensors"
    (folder.model / "checksums.json").unlink()
    tensors = load_file(weights)
    tensors["classifier.wieght"] = tensors.pop("classifier.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    tree.forget(models=False)
    record = execute(tree.specs[0], tree.results)
    assert record.status == "failed"
    assert record.failure is not None
    assert "classifier.weight" in record.failure.message
    run_command(tree.specs, tree.results)
    assert tree.is_as_made()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record.json", b"\xff\xfe"),
        ("record.json", None),
        ("training.json", b"\xff\xfe"),
        ("training.json", None),
        ("spec.json", b"{"),
        ("logits.safetensors", b""),
        ("logits.safetensors", None),
    ],
)
def test_what_is_no_file_of_ours_costs_only_its_run(
    name: str, content: bytes | None, tree: Tree, tmp_path: Path
) -> None:
    """Not UTF-8, empty, cut off, or a folder in its place (None)."""
    path = folder_of(tree).path / name
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    other = tree.specs[1].folder(tree.results)
    assert figures(other) == tree.expected[1]
    report = write_report(tree.results, tmp_path / "reports", suite=tree.specs[0].suite)
    page = report.folder / "README.md"
    if name in ("record.json", "logits.safetensors"):
        assert name in page.read_text()
    assert run_command(tree.specs, tree.results) == 1
    assert tree.is_as_made()


def test_missing_logits_of_a_completed_run_are_made_anew(tree: Tree) -> None:
    folder_of(tree).logits.unlink()
    assert run_command(tree.specs, tree.results) == 1
    assert tree.is_as_made()


def test_a_model_that_somebody_removed_is_not_trained_again(tree: Tree) -> None:
    shutil.rmtree(folder_of(tree).model)
    assert run_command(tree.specs, tree.results) == 0


def test_files_of_a_newer_version_are_refused_and_left(tree: Tree) -> None:
    folder = folder_of(tree)
    content = json.loads(folder.record.read_text())
    del content["checksum"]
    folder.record.write_text(json.dumps({**content, "schema_version": 99, "new": 1}))
    before = folder.record.read_bytes()
    with pytest.raises(OtherVersionError, match="schema 99"):
        run_command(tree.specs[:1], tree.results)
    for force in (False, True):
        record = execute(tree.specs[0], tree.results, force=force)
        assert record.failure is not None
        assert "schema 99" in record.failure.message
        assert folder.record.read_bytes() == before
    assert figures(tree.specs[1].folder(tree.results)) == tree.expected[1]


def test_a_tree_without_checksums_has_nothing_to_do(tree: Tree) -> None:
    """As versions before the checksums left it."""
    for spec in tree.specs:
        folder = spec.folder(tree.results)
        (folder.model / "checksums.json").unlink()
        for path in (folder.record, folder.spec, folder.training):
            content = json.loads(path.read_text())
            del content["checksum"]
            path.write_text(json.dumps(content, indent=1))
        tensors = load_file(folder.logits)
        with safe_open(folder.logits, framework="numpy") as file:
            header = dict(file.metadata())
        header = {name: header[name] for name in ("key", "splits", "sha256")} | {"format": "1"}
        save_file(tensors, folder.logits, metadata=header)
    assert run_command(tree.specs, tree.results) == 0
    assert tree.is_as_made()
    path = folder_of(tree).logits
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ResultsError, match="checksum"):
        read_split(folder_of(tree), "test")
    assert run_command(tree.specs, tree.results) == 1
    assert tree.is_as_made()


# --- interruptions --------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Ends a run where it stands, as a signal does."""


def test_a_record_is_the_same_after_any_interruption(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("vit")
    whole = execute(spec, tmp_path / "whole")
    points = (
        "benchmark.execution.stages.save_trained_model",  # all epochs done, no model yet
        "benchmark.execution.stages._Run._predict",  # model, no logits
        "benchmark.execution.scoring.score_run",  # logits, no record
    )
    for point in points:
        results = tmp_path / point
        with monkeypatch.context() as patch:
            patch.setattr(point, _interrupt)
            with pytest.raises(Interrupted):
                execute(spec, results)
        record = execute(spec, results)
        assert record.training is not None
        assert whole.training is not None
        assert record.training.final_loss == whole.training.final_loss
        assert record.training.seconds > 0
        assert record.provenance["device"] == whole.provenance["device"] is not None
        assert record.scores == whole.scores


def _interrupt(*_: object, **__: object) -> None:
    raise Interrupted


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_training_state_starts_the_training_anew(
    damage: str, make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("vit")
    whole = execute(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.execution.stages.save_trained_model", _interrupt)
        with pytest.raises(Interrupted):
            execute(spec, tmp_path)
    state = spec.folder(tmp_path).training_state
    if damage == "flip":
        flip(state, random.Random(3), keep_time=True)
    else:
        state.write_bytes(state.read_bytes()[:-7])
    record = execute(spec, tmp_path)
    assert record.training is not None
    assert record.training.resumed_at_epoch == 0
    assert record.scores == whole.scores
    assert state.with_name(f"{state.name}.corrupt").exists()


def test_every_file_is_made_durable(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and preprocessors too, and the folders that they are moved into."""
    real, synced = os.fsync, set()

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    spec = make_spec("bert", "bbc")
    assert execute(spec, tmp_path).status == "completed"
    for path in [*spec.folder(tmp_path).path.rglob("*"), *shared_cache(tmp_path).rglob("*")]:
        assert path.stat().st_ino in synced or path.suffix == ".owner", path
    assert spec.folder(tmp_path).path.stat().st_ino in synced


def test_timing_enters_the_record_that_is_there_now(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another launch makes the run anew while it is timed: its record stays as it is."""
    from benchmark.execution.resolution import resolve

    spec = resolve(tree.specs[0], tree.results)
    folder = spec.folder(tree.results)
    record = folder.read_record()
    assert record is not None
    anew = record.model_copy(update={"keys": {**record.keys, "training": "another"}})
    failure = Failure(stage="timing", kind="Test", message="not measured")

    def measured(groups: list[list[RunSpec]], results: Path) -> Iterator[object]:
        folder.write_record(anew)
        yield groups[0], failure

    monkeypatch.setattr("benchmark.execution.timing_stage._quick", measured)
    list(time_groups([[spec]], tree.results, "quick"))
    assert folder.read_record() == anew


def test_a_worker_that_dies_after_its_record_has_completed(tree: Tree) -> None:
    spec = tree.specs[0]
    death = workers.Death(spec, "the worker process was ended by SIGKILL")
    before = spec.folder(tree.results).read_record()
    assert before is not None
    assert death.record(tree.results) == before
    spec.folder(tree.results).logits.unlink()
    died = death.record(tree.results)
    assert (died.status, died.failure and died.failure.stage) == ("failed", "worker")
