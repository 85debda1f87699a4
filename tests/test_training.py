from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from benchmark import RunSpec
from benchmark.data.corpus import load_corpus
from benchmark.execution.agreement import largest_fitting, together
from benchmark.execution.forward import predict_logits
from benchmark.execution.launch import make_accelerator
from benchmark.execution.progress import SilentProgress
from benchmark.execution.schedule import learning_rate_factor
from benchmark.execution.training import train
from benchmark.failures import RunError
from benchmark.models.checkpoint import build_model
from benchmark.models.encoding import EncodedSplit, encode
from benchmark.models.fitting import choose_padding, fit_to_model
from benchmark.models.padding import Padding
from benchmark.models.preprocessor import load_preprocessor
from benchmark.registry import Lora, Recipe, Schedule


class Prepared:
    """A model with its encoded training rows."""

    def __init__(self, spec: RunSpec, cache: Path) -> None:
        corpus = load_corpus(spec.dataset, limit=spec.limit)
        preprocessor = load_preprocessor(spec, corpus, cache)
        self.model = build_model(spec, corpus, preprocessor.processor)
        preprocessor = fit_to_model(preprocessor, self.model, spec.dataset.max_length)
        self.split: EncodedSplit = encode(
            lambda: corpus.train, preprocessor, cache=cache, key="train"
        )
        self.padding = choose_padding(self.model, preprocessor, self.split)

    def train(self, recipe: Recipe, state: Path, progress: Any = None, key: str = "k") -> Any:
        return train(
            self.model,
            self.split,
            recipe,
            seed=3,
            accelerator=make_accelerator(),
            padding=self.padding,
            state_path=state,
            key=key,
            progress=progress or SilentProgress(),
        )

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class StopAfter(SilentProgress):
    """Interrupts training after a number of steps, as a kill would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


MOVING = {"random_flip": True, "random_shift": 2}


@pytest.mark.parametrize(
    ("model", "options"), [("vit", {}), ("vit", MOVING), ("resnet", {}), ("bert", {})]
)
def test_resumed_training_equals_one_that_never_stopped(
    make_spec: Callable[..., RunSpec], tmp_path: Path, model: str, options: dict[str, Any]
) -> None:
    spec = make_spec(model, "bbc" if model == "bert" else "digits", limit=96)
    recipe = spec.recipe.model_copy(update={"epochs": 3, **options})
    straight = Prepared(spec, tmp_path)
    straight.train(recipe, tmp_path / "straight")
    stopped = Prepared(spec, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(recipe, tmp_path / "state", StopAfter(4))  # in the second epoch of three
    again = Prepared(spec, tmp_path)
    training = again.train(recipe, tmp_path / "state")
    assert training.resumed_at_epoch == 1
    assert same(straight.weights(), again.weights())
    assert training.final_loss is not None


def test_state_of_another_key_is_ignored(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = make_spec()
    Prepared(spec, tmp_path).train(spec.recipe, tmp_path / "state", key="old")
    training = Prepared(spec, tmp_path).train(spec.recipe, tmp_path / "state", key="new")
    assert training.resumed_at_epoch == 0


@pytest.mark.parametrize("options", [{}, MOVING])
def test_micro_batches_change_nothing_but_rounding(
    make_spec: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    spec = make_spec()
    recipe = spec.recipe.model_copy(update=options)
    whole = Prepared(spec, tmp_path)
    loss = whole.train(recipe, tmp_path / "a").final_loss
    cut = Prepared(spec, tmp_path)
    monkeypatch.setattr("benchmark.execution.training._Loop.find_micro_batch_size", lambda self: 5)
    training = cut.train(recipe, tmp_path / "b")
    assert training.micro_batch_size == 5
    assert training.final_loss == pytest.approx(loss, rel=1e-4)


def test_diverged_training_is_a_failure_with_advice(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("diverging")
    with pytest.raises(RunError, match="lower the learning rate"):
        Prepared(spec, tmp_path).train(spec.recipe, tmp_path / "state")


def test_training_learns(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = make_spec("vit", limit=800)
    prepared = Prepared(spec, tmp_path)
    recipe = spec.recipe.model_copy(update={"epochs": 8})
    training = prepared.train(recipe, tmp_path / "state")
    output = predict_logits(
        prepared.model, prepared.split, accelerator=make_accelerator(),
        padding=Padding(), progress=SilentProgress(),
    )  # fmt: skip
    assert (output.logits.argmax(1) == output.labels).mean() > 0.6
    assert training.steps == 8 * 25


def rates(recipe: Recipe, steps: int) -> list[float]:
    factor = learning_rate_factor(recipe, steps)
    return [factor(step) * recipe.learning_rate for step in range(steps)]


def scheduled(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        ("linear", lambda o: get_linear_schedule_with_warmup(o, 10, 100)),
        ("cosine", lambda o: get_cosine_schedule_with_warmup(o, 10, 100)),
    ],
)
def test_schedules_agree_with_transformers(schedule: Schedule, make: Any) -> None:
    recipe = Recipe(epochs=1, batch_size=1, learning_rate=0.5, schedule=schedule, warmup=0.1)
    np.testing.assert_allclose(rates(recipe, 100), scheduled(make, 100), atol=1e-12)


@pytest.mark.parametrize("steps", [10, 101, 312])
def test_onecycle_agrees_with_torch(steps: int) -> None:
    recipe = Recipe(epochs=1, batch_size=1, learning_rate=0.5, schedule="onecycle", warmup=0.3)
    reference = scheduled(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.5, total_steps=steps, pct_start=0.3, cycle_momentum=False
        ),
        steps,
    )
    np.testing.assert_allclose(rates(recipe, steps), reference, rtol=1e-12)


def test_constant_schedule_without_warmup() -> None:
    recipe = Recipe(epochs=1, batch_size=1, learning_rate=0.5, schedule="constant", warmup=0)
    assert set(rates(recipe, 10)) == {0.5}


def test_batch_is_halved_until_it_fits() -> None:
    tried = []

    def attempt(rows: int) -> None:
        tried.append(rows)
        if rows > 10:
            raise torch.OutOfMemoryError("fake")

    assert largest_fitting(attempt, 64) == 8
    assert tried == [64, 32, 16, 8]


def test_not_even_one_row_fits() -> None:
    def attempt(rows: int) -> None:
        raise torch.OutOfMemoryError("fake")

    with pytest.raises(RunError, match="single row"):
        largest_fitting(attempt, 4)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def attempt(rows: int) -> None:
        raise ValueError("bad shape")

    with pytest.raises(ValueError, match="bad shape"):
        largest_fitting(attempt, 4)


def test_together_passes_results_and_errors() -> None:
    assert together("here", lambda: 5) == 5

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        together("here", fail)


def test_statistics_of_a_batch_of_one_name_the_batch_size(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("resnet", limit=8)
    small = spec.dataset.model_copy(update={"image_size": 4})  # one position in the last layer
    prepared = Prepared(spec.model_copy(update={"dataset": small}), tmp_path)
    recipe = Recipe(epochs=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(RunError, match="1 row at once has none: give the recipe a batch_size"):
        prepared.train(recipe, tmp_path / "state")


def test_what_was_in_force_is_recorded(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e-3)
    plain = Prepared(make_spec("vit", limit=16), tmp_path)
    assert plain.train(recipe, tmp_path / "a").overridden == {}
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    other = Prepared(make_spec("vit", limit=16), tmp_path)
    facts = other.train(recipe, tmp_path / "b")
    assert facts.overridden == {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    assert facts.mixed_precision == "no"
    assert same(plain.weights(), other.weights())


# --- what a recipe may say on memory and speed ----------------------------------------------------


def trained_with(prepared: Prepared, state: Path, **options: Any) -> dict[str, torch.Tensor]:
    recipe = Recipe(epochs=2, batch_size=32, learning_rate=3e-3, **options)
    prepared.train(recipe, state)
    return prepared.weights()


@pytest.mark.parametrize("model", ["vit", "bert"])
def test_computing_activations_again_changes_nothing(
    make_spec: Callable[..., RunSpec], tmp_path: Path, model: str
) -> None:
    spec = make_spec(model, "bbc" if model == "bert" else "digits", limit=96)
    plain = trained_with(Prepared(spec, tmp_path), tmp_path / "a")
    again = trained_with(Prepared(spec, tmp_path), tmp_path / "b", gradient_checkpointing=True)
    assert same(plain, again)


def test_images_are_moved_in_training_only_where_the_recipe_says(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("vit", "digits", limit=96)
    plain = trained_with(Prepared(spec, tmp_path), tmp_path / "a")
    moving = trained_with(Prepared(spec, tmp_path), tmp_path / "b", **MOVING)
    assert not same(plain, moving)


def test_texts_cannot_be_mirrored(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = make_spec("bert", "bbc", limit=96)
    with pytest.raises(RunError, match="these are texts"):
        trained_with(Prepared(spec, tmp_path), tmp_path / "a", random_flip=True)


def test_no_gradient_checkpointing_is_said(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    prepared = Prepared(make_spec("resnet", limit=96), tmp_path)
    prepared.model.supports_gradient_checkpointing = False
    with pytest.raises(RunError, match="leave gradient_checkpointing out of the recipe"):
        trained_with(prepared, tmp_path / "a", gradient_checkpointing=True)


@pytest.mark.parametrize("model", ["vit", "bert"])
def test_adapters_are_merged_into_a_plain_model(
    make_spec: Callable[..., RunSpec], tmp_path: Path, model: str
) -> None:
    pytest.importorskip("peft")
    spec = make_spec(model, "bbc" if model == "bert" else "digits", limit=96)
    prepared = Prepared(spec, tmp_path)
    before = prepared.weights()
    after = trained_with(prepared, tmp_path / "a", lora=Lora(rank=2, dropout=0.0))
    assert after.keys() == before.keys()
    adapted = 0
    for name, value in after.items():
        change = value - before[name]
        if name.startswith("classifier"):
            assert change.abs().max() > 0
        elif name.endswith(("query.weight", "q_proj.weight")):
            assert 0 < torch.linalg.matrix_rank(change) <= 2
            adapted += 1
        elif "embedding" in name or "norm" in name.lower():
            assert not change.any(), name
    assert adapted == 1
    assert not any("lora" in type(module).__name__.lower() for module in prepared.model.modules())


def test_training_of_adapters_resumes(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    spec = make_spec("vit", limit=96)
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=3e-3, lora=Lora(rank=2))
    straight, stopped, again = (Prepared(spec, tmp_path) for _ in "abc")
    straight.train(recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        stopped.train(recipe, tmp_path / "state", StopAfter(4))
    assert again.train(recipe, tmp_path / "state").resumed_at_epoch == 1
    assert same(straight.weights(), again.weights())


def test_adapters_need_layers_of_that_name(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    prepared = Prepared(make_spec("vit", limit=96), tmp_path)
    with pytest.raises(RunError, match=r"no layer .* 'q_prj', did you mean 'q_proj'"):
        trained_with(prepared, tmp_path / "a", lora=Lora(modules=("q_prj",)))


def test_adapters_need_peft(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    prepared = Prepared(make_spec("vit", limit=96), tmp_path)
    with pytest.raises(RunError, match=r"pip install 'calibration-benchmark\[peft\]'"):
        trained_with(prepared, tmp_path / "a", lora=Lora())


def test_new_options_leave_the_keys_of_old_runs(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec("vit")
    assert spec.recipe is not None
    for option in ("tf32", "compile", "gradient_checkpointing"):
        default = spec.recipe.model_copy(update={option: False})
        assert spec.model_copy(update={"recipe": default}).key("training") == spec.key("training")
        changed = spec.recipe.model_copy(update={option: True})
        assert spec.model_copy(update={"recipe": changed}).key("training") != spec.key("training")
