"""Result trees with known properties, so that the report can be tested without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.records import (
    DataFacts,
    Failure,
    ModelFacts,
    Record,
    RunFolder,
    SplitScores,
    Temperature,
)
from benchmark.records import logits as store
from benchmark.records.logits import LogitsSplit
from benchmark.records.timing import Contention, Measurement, Memory, Percentile, Setting, Timing
from benchmark.records.timing import WarmUp as TimingWarmUp
from benchmark.statistics import Estimate

FINISHED = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)
PROVENANCE = {
    "processor": "Synthetic CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "python": "3.11.9",
    "packages": {"torch": "2.9.0", "transformers": "5.0.0"},
}


@dataclass(frozen=True)
class FakeModel:
    """A model whose logits are made up: how often it is right, and how sharp it is."""

    name: str
    mixer: str
    family: str
    parameters: int
    skill: float = 2.5
    sharpness: float = 1.5
    latency_ms: float = 2.0
    unstable: bool = False


MODELS = (
    FakeModel("vit-tiny", "attention", "ViT", 184_906, 2.6, 1.3, 1.1),
    FakeModel("deit-tiny", "attention", "DeiT", 186_058, 2.5, 1.2, 1.2),
    FakeModel("swin-tiny", "attention", "Swin", 243_222, 2.7, 1.1, 3.9, unstable=True),
    FakeModel("resnet-tiny", "convolution", "ResNet", 308_010, 3.6, 1.7, 0.9),
    FakeModel("regnet-tiny", "convolution", "RegNet", 263_538, 3.3, 1.6, 1.6),
    FakeModel("convnextv2-tiny", "convolution", "ConvNeXt", 351_226, 3.2, 1.9, 1.4),
    FakeModel("poolformer-tiny", "other", "PoolFormer", 208_394, 2.4, 1.5, 1.0),
)
TEXT_MODELS = (
    FakeModel("bert-tiny", "attention", "BERT", 300_121, 1.9, 1.4, 1.0),
    FakeModel("distilbert-tiny", "attention", "DistilBERT", 280_044, 1.8, 1.3, 0.7),
    FakeModel("electra-tiny", "attention", "ELECTRA", 320_560, 1.7, 1.6, 1.1),
    FakeModel("lfm2-conv-tiny", "convolution", "LFM2", 310_230, 2.0, 1.9, 1.5),
    FakeModel("textcnn-tiny", "convolution", "TextCNN", 250_405, 2.1, 2.1, 0.4),
    FakeModel("convbert-tiny", "hybrid", "ConvBERT", 330_771, 1.8, 1.5, 2.5),
    FakeModel("squeezebert-tiny", "hybrid", "SqueezeBERT", 300_400, 1.7, 1.4, 1.4),
)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def make_labels(dataset: str, split: str, rows: int, classes: int) -> NDArray[np.int64]:
    """The true classes of a split: the same for every model and seed."""
    rng = np.random.default_rng([ord(character) for character in dataset + split])
    return rng.integers(0, classes, rows)


def make_logits(
    model: FakeModel,
    labels: NDArray[np.int64],
    classes: int,
    rng: np.random.Generator,
    shift: float = 0.0,
) -> NDArray[np.float32]:
    """Logits whose softmax is calibrated when divided by the sharpness (without shift)."""
    rows = np.arange(len(labels))
    latent = rng.normal(0, model.skill, (len(labels), classes)) * (1 - shift)
    uniform = rng.random((len(labels), 1))
    drawn = (softmax(latent).cumsum(axis=1) < uniform).sum(axis=1).clip(0, classes - 1)
    # Columns are exchangeable, so swapping the drawn class with the true one keeps calibration.
    swapped = latent.copy()
    swapped[rows, labels], swapped[rows, drawn] = latent[rows, drawn], latent[rows, labels]
    return (swapped / (1 - shift) * model.sharpness).astype(np.float32)


def ece(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> float:
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(index, confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def score(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Estimate]:
    """A few metrics with plausible intervals; the report's numbers, not the project's."""
    probabilities = softmax(logits.astype(float))
    rows = np.arange(len(labels))
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    onehot = np.eye(logits.shape[1])[labels]
    per_row = {
        "accuracy": correct.astype(float),
        "nll": -np.log(np.maximum(probabilities[rows, labels], 1e-30)),
        "brier": ((probabilities - onehot) ** 2).sum(axis=1),
        "signed_gap": confidence - correct,
    }
    found = {}
    for name, losses in per_row.items():
        error = 1.96 * losses.std() / np.sqrt(len(losses))
        mean = float(losses.mean())
        found[name] = Estimate(value=mean, low=mean - error, high=mean + error)
    value = ece(confidence, correct)
    floor = 0.4 / np.sqrt(len(labels))
    found["ece_15"] = Estimate(value=value, floor_mean=floor, floor_q95=1.5 * floor)
    debiased = float(np.sqrt(max(value**2 - floor**2, 0)))
    found["debiased_calibration_error"] = Estimate(
        value=debiased, low=max(debiased - floor, 0), high=debiased + floor, floor_mean=floor
    )
    return found


def make_timing(model: FakeModel) -> Timing:
    warm_up = TimingWarmUp(first_call_ms=9.0, calls=20, shapes=1, seconds=0.1, settled=True)
    contention = Contention(
        own_cores=1.0, stray_cores=0.0, other_cores=0.1, waiting_share=0.0, stolen_cores=0.0
    )
    common = {"region": "forward", "threads": 1, "rows": 100, "warm_up": warm_up}
    single = Measurement(
        scenario="single-stream",
        batch_size=1,
        queries=100,
        wall_s=0.1 * model.latency_ms,
        mean_ms=model.latency_ms,
        samples_per_s=1e3 / model.latency_ms,
        percentiles=(
            Percentile(rank=50, value_ms=model.latency_ms, upper_ms=1.1 * model.latency_ms),
            Percentile(rank=90, value_ms=1.2 * model.latency_ms, upper_ms=1.4 * model.latency_ms),
        ),
        contention=contention,
        unstable=("another process used 0.9 cores",) if model.unstable else (),
        **common,
    )
    offline = Measurement(
        scenario="offline",
        batch_size=32,
        queries=4,
        wall_s=0.02 * model.latency_ms,
        mean_ms=5 * model.latency_ms,
        samples_per_s=5e3 / model.latency_ms,
        contention=contention,
        **common,
    )
    setting = Setting(
        device="cpu",
        device_name="Synthetic CPU",
        dtype="float32",
        attention="sdpa",
        tf32=False,
        compiled=False,
        inter_op_threads=1,
        available_threads=2,
        affinity=(0, 1),
        load_average=None,
        other_device_processes=None,
    )
    return Timing(
        level="quick",
        fresh_process=True,
        sample_rows=100,
        measurements=(single, offline),
        memory=Memory(
            batch_size=1, fresh_process=True, cpu_peak_rss_bytes=4 * 10**8 + model.parameters
        ),
        parameters=model.parameters,
        flops_per_sample=1e6,
        achieved_flops_per_s=1e9,
        temperature_overhead=(),
        setting=setting,
    )


def make_record(
    model: FakeModel,
    dataset: str,
    seed: int,
    scores: dict[str, SplitScores],
    *,
    suite: str = "embedded",
    modality: str = "image",
    classes: int = 10,
    failure: Failure | None = None,
) -> Record:
    done = failure is None
    temperature = Temperature(
        value=model.sharpness,
        low=0.95 * model.sharpness,
        high=1.06 * model.sharpness,
        status="converged",
        nll_before=0.4,
        nll_after=0.35,
        gradient=1e-12,
        iterations=6,
        n=500,
    )
    return Record(
        suite=suite,
        model=model.name,
        dataset=dataset,
        seed=seed,
        status="completed" if done else "failed",
        facts=ModelFacts(
            mixer=model.mixer,
            family=model.family,
            modality=modality,
            source="scratch",
            parameters=model.parameters,
            pretraining_examples=0,
        ),
        data=DataFacts(
            label_names=tuple(f"class {k}" for k in range(classes)), rows={"test": 1000}
        ),
        temperature=temperature if done else None,
        scores=scores,
        timing=make_timing(model) if done else None,
        failure=failure,
        provenance=PROVENANCE,
        finished_at=FINISHED,
    )


def write_tree(
    results: Path,
    models: Sequence[FakeModel] = MODELS,
    datasets: Sequence[str] = ("mnist-5k",),
    *,
    suite: str = "embedded",
    seeds: Sequence[int] = (0, 1),
    rows: int = 1000,
    classes: int = 10,
    shifts: Sequence[str] = ("noise-1", "noise-2", "noise-3"),
    failed: Sequence[str] = (),
    with_logits: bool = True,
) -> Path:
    """Write records and logits of every (model, dataset, seed); return the results folder."""
    for model in models:
        for dataset in datasets:
            for seed in seeds:
                folder = results / suite / model.name / dataset / f"seed-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                if model.name in failed:
                    failure = Failure(
                        stage="training", kind="OutOfMemory", message="out of memory at batch 1"
                    )
                    record = make_record(model, dataset, seed, {}, suite=suite, failure=failure)
                    RunFolder(folder).write_record(record)
                    continue
                key = [ord(c) for c in model.name + dataset] + [seed]
                rng = np.random.default_rng(key)
                scores, splits = {}, {}
                labels = make_labels(dataset, "calibration", rows // 2, classes)
                splits["calibration"] = (make_logits(model, labels, classes, rng), labels)
                for split in ("test", *shifts):
                    amount = 0.0 if split == "test" else 0.15 * int(split.rsplit("-", 1)[1])
                    labels = make_labels(dataset, split, rows, classes)
                    logits = make_logits(model, labels, classes, rng, amount)
                    splits[split] = (logits, labels)
                    after = (logits / model.sharpness).astype(np.float32)
                    scores[split] = SplitScores(
                        n=rows,
                        shifted=split != "test",
                        maps={"none": score(logits, labels), "temperature": score(after, labels)},
                    )
                RunFolder(folder).write_record(
                    make_record(model, dataset, seed, scores, suite=suite, classes=classes)
                )
                if with_logits:
                    write_logits(folder, splits)
    return results


def write_logits(
    folder: Path, splits: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]
) -> None:
    stored = {
        name: LogitsSplit(np.arange(len(labels)), logits, labels)
        for name, (logits, labels) in splits.items()
    }
    store.write_logits(RunFolder(folder), stored, key="synthetic")
