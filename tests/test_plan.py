from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import Registry, RunSpec, plan
from benchmark.plan import STAGES, SelectionError
from benchmark.registry import Pretraining


def test_plan_crosses_models_datasets_and_seeds(registry_file: Path) -> None:
    specs = plan(Registry.load(registry_file), seeds=3)
    names = [spec.name for spec in specs]
    assert names[:2] == ["vit/digits/seed-0", "resnet/digits/seed-0"]
    assert len(set(names)) == 6
    assert specs[0].folder(Path("results")).path == Path("results/small/vit/digits/seed-0")


def test_names_outside_the_suite_and_all(registry_file: Path) -> None:
    registry = Registry.load(registry_file)
    specs = plan(registry, models=["all", "bert"], datasets=["all", "bbc"])
    assert [spec.name for spec in specs] == [
        "vit/digits/seed-0",
        "resnet/digits/seed-0",
        "bert/bbc/seed-0",
    ]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"models": ["rsnet"]}, "unknown model 'rsnet', did you mean 'resnet'?"),
        ({"datasets": ["digit"]}, "unknown dataset 'digit', did you mean 'digits'?"),
        ({"suite": "smal"}, "unknown suite 'smal', did you mean 'small'?"),
        ({"models": ["bert"]}, "no selected model meets a selected dataset"),
    ],
)
def test_unknown_names(registry_file: Path, selection: dict[str, object], message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        plan(Registry.load(registry_file), **selection)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_limited_runs_have_a_folder_and_keys_of_their_own(registry_file: Path) -> None:
    registry = Registry.load(registry_file)
    full, limited = plan(registry)[0], plan(registry, limit=10)[0]
    assert limited.suite == "small-limit-10"
    assert all(full.key(stage) != limited.key(stage) for stage in STAGES)


def _changed(spec: RunSpec, part: str, **update: object) -> RunSpec:
    entry = getattr(spec, part).model_copy(update=update)
    return spec.model_copy(update={part: entry})


def test_a_key_changes_exactly_with_what_its_stage_depends_on(
    make_spec: Callable[..., RunSpec],
) -> None:
    spec = make_spec()
    recipe = _changed(spec, "recipe", learning_rate=1e-4)
    shift = _changed(spec, "dataset", shifts=("blur",))
    described = _changed(
        spec, "model", mixer="other", reference="x", pretraining=Pretraining(corpus="y")
    )
    length = _changed(spec, "dataset", max_length=99)
    seed = spec.model_copy(update={"seed": 5})
    revision = spec.model_copy(update={"model_revision": "abc"})
    data = spec.model_copy(update={"data_revision": "abc"})
    expected = {
        "recipe": (recipe, {"training", "logits", "scores"}),
        "shift": (shift, {"logits", "scores"}),
        "described": (described, set()),
        "length": (length, set(STAGES)),
        "seed": (seed, {"training", "logits", "scores"}),
        "revision": (revision, set(STAGES)),
        "data": (data, set(STAGES)),
    }
    for name, (changed, stages) in expected.items():
        assert {s for s in STAGES if changed.key(s) != spec.key(s)} == stages, name


def test_data_key_ignores_what_does_not_change_rows(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec()
    assert _changed(spec, "dataset", shifts=(), max_length=5).data_key() == spec.data_key()
    assert _changed(spec, "dataset", split_seed=5).data_key() != spec.data_key()


def test_only_what_is_foreign_is_redone_when_it_is_read_otherwise(
    make_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = make_spec()
    loaded = _changed(scratch, "model", scratch=None, path=tmp_path)
    read = _changed(scratch, "dataset", embedded=None, path=tmp_path)
    before = [[spec.key(s) for s in STAGES] for spec in (scratch, loaded, read)]
    monkeypatch.setattr(sys.modules["benchmark.plan"], "READING_VERSION", 99)
    monkeypatch.setattr(sys.modules["benchmark.plan"], "LOADING_VERSION", 99)
    after = [[spec.key(s) for s in STAGES] for spec in (scratch, loaded, read)]
    assert after[0] == before[0]
    for spec in (1, 2):
        assert all(a != b for a, b in zip(after[spec], before[spec], strict=True))


def test_spec_survives_json(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec()
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert [again.key(s) for s in STAGES] == [spec.key(s) for s in STAGES]
