"""The recipe decides a training; what a launch says otherwise is overridden, told or refused."""

from __future__ import annotations

import pytest
import torch

from benchmark.execution.launch import (
    LaunchError,
    check_launch,
    make_accelerator,
    overridden_settings,
)
from benchmark.failures import RunError

SETTINGS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
}


def test_other_settings_change_no_gradient_and_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator()
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.mixed_precision == "no"
    model = accelerator.prepare_model(torch.nn.Linear(3, 1), evaluation_mode=True)
    assert isinstance(model, torch.nn.Linear)  # neither compiled nor wrapped
    loss = model(torch.ones(1, 3)).sum()
    assert loss.dtype == torch.float32
    accelerator.backward(loss)
    assert model.weight.grad.tolist() == [[1.0, 1.0, 1.0]]
    assert overridden_settings() == SETTINGS
    notes = check_launch()
    assert len(notes) == 3
    assert (
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=8 has no effect: the recipe's"
        in notes[0] + notes[1]
    )


def test_what_a_plain_launch_sets_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(SETTINGS, ("1", "no", "NO"), strict=True):
        monkeypatch.setenv(name, value)
    assert check_launch() == []
    assert overridden_settings() == {}


@pytest.mark.parametrize("what", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_sharding_is_refused_before_its_library_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{what}", "true")
    for start in (check_launch, make_accelerator):
        with pytest.raises(LaunchError, match=f"ACCELERATE_USE_{what} is set, but this runner"):
            start()


def test_fp16_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(RunError, match="fp16, which a CPU does not train in: take bf16 or no"):
        make_accelerator("fp16")
    assert make_accelerator("bf16").mixed_precision == "bf16"
