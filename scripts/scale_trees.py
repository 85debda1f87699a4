"""Result trees of any size, as a finished study leaves them, without a training."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.execution import resolve, score_run
from benchmark.execution.scoring import RunScores
from benchmark.execution.trained_model import TrainedModel
from benchmark.plan import STAGES, RunSpec, Selection, select
from benchmark.records import (
    DataFacts,
    LogitsSplit,
    ModelFacts,
    Record,
    RunFolder,
    SplitScores,
    Timing,
    seal_folder,
    sealed_json,
    write_logits,
)
from benchmark.registry import Registry
from benchmark.statistics import Estimate

FINISHED = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)
FAMILY_SIZE = 5
"""Models of a family."""
CLASSES = 10
SHARES = {"accuracy", "macro_f1"}
"""Metrics whose distance from 1 is varied, so that they stay below it."""


@dataclass(frozen=True)
class Size:
    """How many runs, and what each leaves.

    Attributes:
        rows: test rows of a run.
        shifts: shifted test sets beside the clean one.
        whole: whether each run has its logits and its model, as a command that looks for something
            to do reads; else the first seed has logits, as a report of very many runs reads.
    """

    models: int
    datasets: int
    seeds: int
    rows: int = 500
    shifts: int = 0
    whole: bool = False

    @property
    def runs(self) -> int:
        """How many there are."""
        return self.models * self.datasets * self.seeds


def write_registry(path: Path, size: Size) -> Registry:
    """Write a registry of as many models and datasets, and load it."""
    names = [f"model-{number:04}" for number in range(size.models)]
    datasets = [f"rows-{number}" for number in range(size.datasets)]
    lines = ["version: 1", "suites:", "  scale:", f"    models: [{', '.join(names)}]"]
    lines += [f"    datasets: [{', '.join(datasets)}]", f"    seeds: {size.seeds}"]
    lines += ["recipes:", "  short: {epochs: 1, batch_size: 32, learning_rate: 1.0e-3}", "models:"]
    for number, name in enumerate(names):
        family = number // FAMILY_SIZE
        mixer = ("attention", "convolution", "hybrid")[family % 3]
        hidden = 32 * (1 + number % 7)
        lines += [
            f"  {name}:",
            f"    scratch: {{model_type: vit, patch_size: 4, hidden_size: {hidden}}}",
            "    modality: image",
            f"    mixer: {mixer}",
            f"    family: Family {family}",
            "    recipe: short",
        ]
    lines.append("datasets:")
    for name in datasets:
        lines += [f"  {name}:", "    embedded: digits", "    modality: image"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Registry.load(path)


class TreeWriter:
    """Writes the finished runs of a registry; see `write_tree`."""

    def __init__(self, size: Size, results: Path) -> None:
        self.size, self.results = size, results
        self.splits = self._splits(np.random.default_rng(0))

    def _splits(self, rng: np.random.Generator) -> dict[str, LogitsSplit]:
        names = ["calibration", "test", *(f"noise-{n}" for n in range(1, self.size.shifts + 1))]
        found = {}
        for name in names:
            labels = rng.integers(0, CLASSES, self.size.rows)
            logits = rng.normal(size=(self.size.rows, CLASSES))
            logits[np.arange(len(labels)), labels] += 2.0
            found[name] = LogitsSplit(
                np.arange(len(labels)), (1.7 * logits).astype(np.float32), labels
            )
        return found

    @cached_property
    def scores(self) -> RunScores:
        """All that a run's logits give, scored once: each record is a variation of it."""
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(Path(place))
            write_logits(folder, self.splits, key="template")
            return score_run(folder)

    def write(self, spec: RunSpec) -> None:
        """Write a finished run."""
        folder = spec.folder(self.results)
        folder.path.mkdir(parents=True, exist_ok=True)
        if self.size.whole or spec.seed == 0:
            self._write_logits(folder, spec)
        text = self._record(spec).model_dump_json(indent=1)
        folder.record.write_text(sealed_json(text), encoding="utf-8")
        folder.spec.write_text(sealed_json(spec.model_dump_json(indent=1)), encoding="utf-8")
        if self.size.whole:
            self._write_model(folder, spec)

    def _write_logits(self, folder: RunFolder, spec: RunSpec) -> None:
        rng = self._rng(spec)
        splits = {
            name: LogitsSplit(
                split.ids,
                (split.logits + rng.normal(0, 0.3, split.logits.shape)).astype(np.float32),
                split.labels,
            )
            for name, split in self.splits.items()
        }
        write_logits(folder, splits, spec.key("logits"), device="Synthetic CPU")

    def _write_model(self, folder: RunFolder, spec: RunSpec) -> None:
        folder.model.mkdir(exist_ok=True)
        (folder.model / "config.json").write_text('{"model_type": "vit"}\n', encoding="utf-8")
        (folder.model / "model.safetensors").write_bytes(bytes(4096))
        seal_folder(folder.model)
        trained = TrainedModel(
            key=spec.key("training"), training=None, parameters=100_000, data=self._data()
        )
        text = sealed_json(trained.model_dump_json(indent=1))
        folder.training.write_text(text, encoding="utf-8")

    def _rng(self, spec: RunSpec) -> np.random.Generator:
        return np.random.default_rng([*spec.name.encode()])

    def _data(self) -> DataFacts:
        names = tuple(f"digit {number}" for number in range(CLASSES))
        return DataFacts(label_names=names, rows={"test": self.size.rows})

    def _record(self, spec: RunSpec) -> Record:
        number = int(spec.model.name.rpartition("-")[2])
        of_family = np.random.default_rng([1, number // FAMILY_SIZE])
        factor = math.exp(of_family.normal(0, 0.3) + self._rng(spec).normal(0, 0.1))
        temperature = self.scores.temperature
        scaled = {
            name: factor * getattr(temperature, name)
            for name in ("value", "low", "high")
            if getattr(temperature, name) is not None
        }
        return Record(
            suite=spec.suite,
            model=spec.model.name,
            dataset=spec.dataset.name,
            seed=spec.seed,
            status="completed",
            keys={stage: spec.key(stage) for stage in STAGES},
            facts=ModelFacts(
                mixer=spec.model.mixer,
                family=spec.model.family,
                modality="image",
                source="scratch",
                parameters=100_000 + 37_000 * (number % 50),
                pretraining_examples=0,
            ),
            data=self._data(),
            temperature=temperature.model_copy(update=scaled),
            maps=self.scores.maps,
            scores={name: _varied(split, factor) for name, split in self.scores.scores.items()},
            timing=_timing(0.5 + 0.05 * (number % 40)),
            timed_run=spec.name,
            provenance={"processor": "Synthetic CPU", "cores": 2, "python": "3.11"},
            finished_at=FINISHED,
        )


def _varied(split: SplitScores, factor: float) -> SplitScores:
    maps = {
        name: {metric: _varied_estimate(metric, one, factor) for metric, one in metrics.items()}
        for name, metrics in split.maps.items()
    }
    return split.model_copy(update={"maps": maps})


def _varied_estimate(metric: str, one: Estimate, factor: float) -> Estimate:
    def vary(value: float | None) -> float | None:
        if value is None or metric in SHARES:
            return value if value is None else 1 - (1 - value) * min(factor, 2.0)
        return factor * value

    value = vary(one.value)
    assert value is not None
    return replace(one, value=value, low=vary(one.low), high=vary(one.high))


def _timing(milliseconds: float) -> Timing:
    common: dict[str, Any] = {
        "region": "forward",
        "threads": 1,
        "rows": 100,
        "wall_s": 1.0,
        "warm_up": {"first_call_ms": 9, "calls": 20, "shapes": 1, "seconds": 0.1, "settled": True},
        "contention": {
            "own_cores": 1,
            "stray_cores": 0,
            "other_cores": 0.1,
            "waiting_share": 0,
            "stolen_cores": 0,
        },
    }
    single = common | {
        "scenario": "single-stream",
        "batch_size": 1,
        "queries": 100,
        "mean_ms": milliseconds,
        "samples_per_s": 1e3 / milliseconds,
        "percentiles": [
            {"rank": 50, "value_ms": milliseconds, "upper_ms": 1.1 * milliseconds},
            {"rank": 90, "value_ms": 1.2 * milliseconds, "upper_ms": 1.4 * milliseconds},
        ],
    }
    offline = common | {
        "scenario": "offline",
        "batch_size": 32,
        "queries": 4,
        "mean_ms": 5 * milliseconds,
        "samples_per_s": 5e3 / milliseconds,
    }
    content = {
        "level": "quick",
        "fresh_process": True,
        "sample_rows": 100,
        "measurements": [single, offline],
        "memory": {"batch_size": 1, "fresh_process": True, "cpu_peak_rss_bytes": 4 * 10**8},
        "parameters": 100_000,
        "flops_per_sample": 1e6,
        "achieved_flops_per_s": 1e9,
        "temperature_overhead": [],
        "setting": {
            "device": "cpu",
            "device_name": "Synthetic CPU",
            "dtype": "float32",
            "attention": "sdpa",
            "tf32": False,
            "compiled": False,
            "inter_op_threads": 1,
            "available_threads": 2,
            "affinity": [0, 1],
            "load_average": None,
            "other_device_processes": None,
        },
    }
    return Timing.model_validate(content)


def write_tree(folder: Path, size: Size) -> Selection:
    """Write `registry.yaml` and `results/` of a finished study to `folder`; return its runs."""
    folder.mkdir(parents=True, exist_ok=True)
    selection = select(write_registry(folder / "registry.yaml", size))
    writer = TreeWriter(size, folder / "results")
    for members in selection.members:
        members.write(folder / "results")
    for spec in selection.specs:
        writer.write(resolve(spec, folder / "results"))
    return selection
