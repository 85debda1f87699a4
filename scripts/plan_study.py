"""Work out what the full study takes on 1, 8 and 64 GPUs, and write the tables of it.

    python scripts/plan_study.py [--document docs/scaling.md]

Nothing is run: runs, rows and parameters are the registry's, rates those that docs/performance.md
has of an H100, and what is assumed stands in one place below.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from document_tables import replace_table
from tabulate import tabulate

from benchmark.execution.estimates import TOKENS_OF_AN_IMAGE, split_rows
from benchmark.plan import RunSpec, plan
from benchmark.registry import Registry

ROOT = Path(__file__).parents[1]
MARKERS = "study"
GPUS = (1, 8, 64)
GPUS_OF_A_MACHINE = 8

# Measured on an H100 in bf16, docs/performance.md ("A GPU").
IMAGES_FED = 1_600
"""Training rows a second that the host fed: 1,564 for ViT-B/16, 1,617 for ResNet-50."""
IMAGES_FED_TO_SCORE = 1_850
"""1,768 and 1,949."""
BUSY_RATE = {"attention": 280e12, "convolution": 70e12}
"""FLOP/s while the device worked: 64 rows of ViT-B (6 x 86.6M x 200 each) in 58% of 40.9 ms; of
ResNet-50 (6 x 25.6M x 200) in 71% of 39.6 ms. Other mixers are taken for convolutions."""
STEP_OF_TEXTS_S = 0.0637
"""32 texts of about 110 tokens through BERT-base, which waited for the host in 83% of it."""
DECODED = 345 / 2
"""JPEG files of 320 pixels a second and core, docs/performance.md."""
SECONDS_TO_TIME = 7
"""A model on a data set at the level `quick`, docs/timing.md; alone on its machine."""

# Assumed.
BUSY_RATE_FLOAT32 = 33.5e12
"""Half of an H100's 67 TFLOP/s of float32 without TensorFloat-32, as its data sheet has it."""
TOKENS_OF_A_TEXT = 110
LARGE = 200_000_000
"""Parameters from which a text model has 24 layers, so twice the kernels to launch."""
SECONDS_A_RUN = 60
"""To start, load, verify, encode texts, score (seconds) and save."""
BYTES_OF_AN_IMAGE = 3 * 224 * 224
DOWNLOAD_GB = {
    "cifar10": 0.2, "cifar100": 0.2, "oxford-pets": 0.8, "food101": 5.0, "imagenet-1k": 6.7,
    "quora": 0.1, "sst2": 0.1, "mnli": 0.1, "snli": 0.1, "ag-news": 0.1, "emotion": 0.1,
    "rotten-tomatoes": 0.1, "trec": 0.1,
}  # fmt: skip
"""Rough sizes of the data files. Offline the hub does not tell them; `--dry-run` asks it."""
CLASSES = {
    "cifar10": 10, "cifar100": 100, "oxford-pets": 37, "food101": 101, "imagenet-1k": 1000,
    "mnli": 3, "snli": 3, "ag-news": 4, "emotion": 6, "trec": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What a run takes of a GPU, and what it leaves on disk."""

    spec: RunSpec
    hours: float
    model_bytes: float
    logits_bytes: float


def passes(spec: RunSpec) -> tuple[int, int]:
    """Return the training rows of all epochs and the rows that are scored."""
    rows = split_rows(spec)
    assert rows is not None
    shifted = 3 * len(spec.dataset.shifts) * min(rows["test"], spec.dataset.shift_rows or 10**9)
    epochs = 0 if spec.recipe is None or spec.model.evaluate else spec.recipe.epochs
    return epochs * rows["train"], rows["calibration"] + rows["test"] + shifted


def seconds(spec: RunSpec, *, bf16: bool) -> float:
    """Return the seconds of one run on one GPU, its start and scores included."""
    trained, scored = passes(spec)
    parameters = spec.model.parameters or 0
    rate = BUSY_RATE_FLOAT32
    if bf16:
        rate = BUSY_RATE.get(spec.model.mixer, BUSY_RATE["convolution"])
    if spec.model.modality == "image":
        pixels = (spec.model.evaluation_resolution or 224) / 224
        of_a_row = 2 * parameters * TOKENS_OF_AN_IMAGE * pixels**2 / rate
        work = trained * max(1 / IMAGES_FED, 3 * of_a_row)
        work += scored * max(1 / IMAGES_FED_TO_SCORE, of_a_row)
    else:
        batch = 32 if spec.recipe is None else spec.recipe.batch_size
        step = STEP_OF_TEXTS_S * (2 if parameters > LARGE else 1)
        busy = 6 * parameters * TOKENS_OF_A_TEXT * batch / rate
        step = max(step, busy)
        work = (trained + scored / 3) / batch * step
    return work + SECONDS_A_RUN


def load_of(spec: RunSpec, *, bf16: bool) -> Load:
    """Return what a run takes and leaves."""
    scored = passes(spec)[1]
    logits = 4 * scored * CLASSES.get(spec.dataset.name, 2)
    parameters = spec.model.parameters or 0
    return Load(spec, seconds(spec, bf16=bf16) / 3600, 4 * parameters, logits)


def makespan(hours: Sequence[float], workers: int) -> float:
    """Return when the last worker is done, each taking the longest run that is left."""
    ends = [0.0] * workers
    for run in sorted(hours, reverse=True):
        heapq.heapreplace(ends, ends[0] + run)
    return max(ends)


def by_kind(specs: Sequence[RunSpec]) -> str:
    """Return the hours of each kind of run in both precisions."""
    kinds = {
        "images, fine-tuned": lambda s: s.model.modality == "image" and not s.model.evaluate
        and s.dataset.name != "imagenet-1k",
        "images, published heads": lambda s: s.dataset.name == "imagenet-1k",
        "texts": lambda s: s.model.modality == "text",
    }  # fmt: skip
    lines = []
    for kind, belongs in [*kinds.items(), ("in all", lambda s: True)]:
        chosen = [spec for spec in specs if belongs(spec)]
        rows = [passes(spec) for spec in chosen]
        hours = [sum(seconds(s, bf16=bf16) for s in chosen) / 3600 for bf16 in (False, True)]
        trained, scored = (sum(some) / 1e6 for some in zip(*rows, strict=True))
        told = (f"{len(chosen):,}", f"{trained:.1f}", f"{scored:.1f}")
        lines.append((kind, *told, *(f"{one:,.0f}" for one in hours)))
    headers = ("runs of", "runs", "rows trained, millions", "rows scored, millions",
               "GPU hours, float32", "GPU hours, bf16")  # fmt: skip
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def on_gpus(specs: Sequence[RunSpec]) -> str:
    """Return how long it takes on more and more GPUs, with what is timed alone."""
    timed = len({(spec.model.name, spec.dataset.name) for spec in specs})
    lines = []
    for gpus in GPUS:
        machines = -(-gpus // GPUS_OF_A_MACHINE)
        timing = timed * SECONDS_TO_TIME / 3600 / machines
        found = []
        for bf16 in (False, True):
            hours = [load_of(spec, bf16=bf16).hours for spec in specs]
            whole = makespan(hours, gpus) + timing
            alone = makespan(hours, 1) + timed * SECONDS_TO_TIME / 3600
            found += [f"{whole:,.1f} h", f"{alone / whole / gpus:.0%}"]
        lines.append((str(gpus), str(machines), f"{60 * timing:.0f} min", *found))
    headers = ("GPUs", "machines", "timed alone", "float32", "of it used", "bf16", "of it used")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def on_disk(specs: Sequence[RunSpec]) -> str:
    """Return what it leaves on disk and fetches from the hub."""
    loads = [load_of(spec, bf16=True) for spec in specs]
    models = {spec.model.name: spec.model for spec in specs}
    pairs = {(s.model.name, s.dataset.name): s for s in specs if s.model.modality == "image"}
    encoded, decoded = 0.0, 0
    for spec in pairs.values():
        rows = split_rows(spec)
        assert rows is not None
        trained = 0 if spec.model.evaluate else rows["train"]
        once = trained + passes(spec)[1]
        decoded += once
        encoded += once * BYTES_OF_AN_IMAGE * ((spec.model.evaluation_resolution or 224) / 224) ** 2
    weights = sum(4 * (model.parameters or 0) for model in models.values())
    largest = max(4 * (model.parameters or 0) for model in models.values())
    data = sum(DOWNLOAD_GB[name] for name in {spec.dataset.name for spec in specs})
    lines = [
        ("fine-tuned models, 4 bytes a parameter", sum(one.model_bytes for one in loads)),
        ("logits, 4 bytes a class of each scored row", sum(one.logits_bytes for one in loads)),
        ("images as bytes, kept for each checkpoint", encoded),
        ("states of trainings under way, 64 at once, at most", 64 * 3 * largest),
        (f"from the hub: weights of {len(models)} checkpoints", weights),
        (f"from the hub: {len(DOWNLOAD_GB)} data sets (assumed)", 1e9 * data),
    ]
    told = [(what, f"{size / 1e9:,.0f} GB") for what, size in lines]
    hours = decoded / DECODED / 3600
    told.append((f"{decoded / 1e6:.0f} million images decoded", f"{hours:,.0f} core hours"))
    return tabulate(told, ("what", "size"), tablefmt="github", disable_numparse=True)


def main() -> None:
    """Reckon and print, or write the tables into a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--document", type=Path, help="write the tables between their markers")
    arguments = parser.parse_args()
    specs = plan(Registry.load(ROOT / "registry.yaml"), suite="full")
    text = "\n\n".join((by_kind(specs), on_gpus(specs), on_disk(specs)))
    print(text)
    if arguments.document:
        replace_table(arguments.document, MARKERS, text)


if __name__ == "__main__":
    main()
