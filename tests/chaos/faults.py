"""Commands with faults on order (see hook/sitecustomize.py), and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HOOK = Path(__file__).parent / "hook"
RUN = ROOT / "benchmark" / "run.py"

VIT = """\
    scratch: {model_type: vit, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
      intermediate_size: 16, patch_size: 7, initializer_range: 0.1}
    modality: image
    mixer: attention
    family: ViT
"""
REGISTRY = """
version: 1
recipes:
  quick: {epochs: 2, batch_size: 32, learning_rate: 3.0e-3, schedule: onecycle, warmup: 0.3}
  long: {epochs: 400, batch_size: 8, learning_rate: 3.0e-3}
models:
  vit:
{VIT}    recipe: quick
  long:
{VIT}    recipe: long
  resnet:
    scratch: {model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
      layer_type: basic}
    modality: image
    mixer: convolution
    family: ResNet
    recipe: quick
datasets:
  digits: {embedded: digits, modality: image}
suites:
  seeds: {models: [vit], datasets: [digits], seeds: 2}
  mixers: {models: [vit, resnet], datasets: [digits]}
  long: {models: [long], datasets: [digits]}
""".replace("{VIT}", VIT)


def environment(
    faults: Sequence[dict[str, Any]] = (), place: Path | None = None, **extra: str
) -> dict[str, str]:
    """Return the variables of a process: the hook, its faults, one thread, locks of its own."""
    own = {"BENCHMARK_MACHINE_LOCKS": str(place)} if place is not None else {}
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HOOK), str(ROOT)]),
        "FAULTS": json.dumps(list(faults)),
        **own,
        **extra,
    }


def command(folder: Path, *arguments: str, ranks: int = 1) -> list[str]:
    """Return a launch of the runner in `folder`, which gets the registry above."""
    registry = folder / "registry.yaml"
    if not registry.exists():
        registry.write_text(REGISTRY, encoding="utf-8")
    launcher = []
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [
        sys.executable, *launcher, str(RUN), "--registry", str(registry),
        "--results", str(folder / "results"), "--reports", str(folder / "reports"), *arguments,
    ]  # fmt: skip


def launch(
    folder: Path,
    *arguments: str,
    ranks: int = 1,
    faults: Sequence[dict[str, Any]] = (),
    timeout: float = 120,
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """Run a launch to its end; one that hangs fails the test."""
    cpu = {"ACCELERATE_USE_CPU": "true"} if ranks > 1 else {}
    return subprocess.run(
        command(folder, *arguments, ranks=ranks),
        env=environment(faults, folder, **cpu, **extra),
        capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
