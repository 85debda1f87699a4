"""Time whole methods beside ours: texts to logits, the seed notebook's calibration, image files.

    python scripts/measure_methods.py texts --checkpoint FOLDER --texts FILE.csv [FILE.csv ...]
    python scripts/measure_methods.py notebook --checkpoint FOLDER --texts TRAIN.csv TEST.csv
    python scripts/measure_methods.py images --parquet FILE.parquet

Every contender of a table runs in this process on one thread, and what is compared is CPU time:
this machine may have other work. `images` uses all cores on both sides, and says wall time, too.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
import transformers
from PIL import Image
from scipy.special import log_softmax
from tabulate import tabulate
from torch.utils.data import DataLoader

from benchmark import Registry, execute, plan
from benchmark.data import Rows
from benchmark.execution.forward import predict_logits
from benchmark.execution.launch import make_accelerator
from benchmark.execution.progress import SilentProgress
from benchmark.models import Padding, encode, encode_rows, load_batches
from benchmark.models.fitting import choose_padding, fit_to_model
from benchmark.models.preprocessor import LoadedPreprocessor

BATCH = 32
LABELS = 4


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children, ended or not, in seconds."""
    own = psutil.Process()
    times = [own.cpu_times()]
    total = times[0].user + times[0].system + times[0].children_user + times[0].children_system
    for child in own.children(recursive=True):
        found = child.cpu_times()
        total += found.user + found.system
    return total


@contextmanager
def timed(lines: dict[str, tuple[float, float]], name: str) -> Iterator[None]:
    """Note CPU and wall seconds of a block."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    yield
    lines[name] = (cpu_seconds() - cpu, time.perf_counter() - wall)
    print(f"  {name}: {lines[name][0]:.1f} s of CPU, {lines[name][1]:.1f} s", flush=True)


def read_rows(files: list[Path], count: int | None = None) -> tuple[list[str], list[int]]:
    """Return texts and labels of csv files with those columns."""
    rows = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            rows += list(csv.DictReader(stream))
    names = sorted({row["label"] for row in rows})
    chosen = (rows * (-(-(count or len(rows)) // len(rows))))[:count]
    return [row["text"] for row in chosen], [names.index(row["label"]) for row in chosen]


def classifier(checkpoint: Path) -> tuple[Any, Any]:
    """Return the model with a new head, and its tokenizer."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=LABELS
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(checkpoint)


# --- texts to logits ------------------------------------------------------------------------------


def measure_texts(options: argparse.Namespace) -> None:
    """Compare logits of texts: ours, padded batches in file order, transformers' pipeline."""
    texts, labels = read_rows(options.texts, options.rows)
    model, tokenizer = classifier(options.checkpoint)
    found: dict[str, Any] = {}
    lines: dict[str, tuple[float, float]] = {}
    with timed(lines, "ours"):
        loaded = fit_to_model(LoadedPreprocessor(tokenizer, "key"), model, None)
        rows = Rows(np.arange(len(texts)), np.asarray(labels), texts=texts)
        split = encode_rows(rows, loaded)
        padding = choose_padding(model, loaded, split)
        found["ours"] = predict_logits(
            model, split, accelerator=make_accelerator(), padding=padding,
            progress=SilentProgress(),
        ).logits  # fmt: skip
    with timed(lines, "padded batches in file order"), torch.inference_mode():
        parts = []
        for start in range(0, len(texts), BATCH):
            some = texts[start : start + BATCH]
            inputs = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            parts.append(model(**inputs).logits)
        found["padded batches in file order"] = torch.cat(parts).numpy()
    with timed(lines, "transformers pipeline"):
        pipe = transformers.pipeline(
            "text-classification", model=model, tokenizer=tokenizer, device="cpu",
            batch_size=BATCH, function_to_apply="none", top_k=None,
        )  # fmt: skip
        outputs = pipe(texts, truncation=True)
        by_name = [{one["label"]: one["score"] for one in row} for row in outputs]
        found["transformers pipeline"] = np.array(
            [[row[f"LABEL_{k}"] for k in range(LABELS)] for row in by_name]
        )
    table = [
        [name, f"{cpu:.1f}", f"{cpu / lines['ours'][0]:.2f}",
         f"{np.abs(found[name] - found['ours']).max():.1e}"]
        for name, (cpu, _) in lines.items()
    ]  # fmt: skip
    header = [f"{len(texts):,} texts to logits", "CPU s", "times ours", "largest difference"]
    print(tabulate(table, header, tablefmt="pipe"))


# --- the seed notebook's method -------------------------------------------------------------------

REGISTRY = """
version: 1
suites: {{methods: {{models: [model], datasets: [rows], seeds: 1}}}}
recipes:
  all: {{epochs: 2, batch_size: 32, learning_rate: 1.0e-4, schedule: linear, warmup: 0.0}}
models:
  model: {{path: {checkpoint}, modality: text, mixer: attention, family: any, recipe: all}}
datasets:
  rows:
    path: {folder}
    modality: text
    columns: {{text: text, label: label}}
    splits: {{train: train, calibration: calibration, test: test}}
"""


def measure_notebook(options: argparse.Namespace) -> None:
    """Compare our run with Trainer, then a temperature by SGD, on the same model and rows."""
    train, calibration, test = options.sizes
    texts, labels = read_rows(options.texts[:1], train + calibration)
    tested = read_rows(options.texts[1:], test)
    splits = {
        "train": (texts[:train], labels[:train]),
        "calibration": (texts[train:], labels[train:]),
        "test": tested,
    }
    lines: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "rows")
        folder.mkdir()
        for name, (some, own) in splits.items():
            with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([["text", "label"], *zip(some, own, strict=True)])
        registry = Path(place, "registry.yaml")
        registry.write_text(REGISTRY.format(checkpoint=options.checkpoint.resolve(), folder=folder))
        (spec,) = plan(Registry.load(registry)).specs
        with timed(lines, "ours"):
            record = execute(spec, Path(place, "results"))
        assert record.temperature is not None, record.failure
        scores = record.scores["test"].maps
        ours = [scores["none"]["nll"].value, scores["temperature"]["nll"].value]
        with timed(lines, "Trainer, then SGD"):
            theirs = notebook(options.checkpoint, splits, Path(place, "trainer"))
    ratio = lines["Trainer, then SGD"][0] / lines["ours"][0]
    table = [
        ["ours, with intervals of 40 metrics", f"{lines['ours'][0]:.1f}", "1",
         *(f"{value:.4f}" for value in ours), f"{record.temperature.value:.3f}"],
        ["Trainer, then SGD", f"{lines['Trainer, then SGD'][0]:.1f}", f"{ratio:.2f}",
         *(f"{value:.4f}" for value in theirs)],
    ]  # fmt: skip
    header = ["method", "CPU s", "times ours", "test NLL before", "after", "T"]
    print(tabulate(table, header, tablefmt="pipe"))


def notebook(
    checkpoint: Path, splits: dict[str, tuple[list[str], list[int]]], output: Path
) -> list[float]:
    """Do as the notebook does; return test NLL before and after, and T."""
    model, tokenizer = classifier(checkpoint)
    encoded = {
        name: datasets.Dataset.from_dict({**tokenizer(texts, truncation=True), "labels": labels})
        for name, (texts, labels) in splits.items()
    }
    collator = transformers.DataCollatorWithPadding(tokenizer)
    arguments = transformers.TrainingArguments(
        output_dir=str(output), learning_rate=1e-4, per_device_train_batch_size=32,
        per_device_eval_batch_size=64, num_train_epochs=2, weight_decay=0.01, use_cpu=True,
        eval_strategy="epoch", save_strategy="epoch", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(
        model=model, args=arguments, data_collator=collator, train_dataset=encoded["train"],
        eval_dataset=encoded["calibration"],
    ).train()  # fmt: skip
    model.eval()

    def batches(name: str, size: int) -> DataLoader[Any]:
        return DataLoader(encoded[name], batch_size=size, collate_fn=collator)

    def test_nll(temperature: float) -> float:
        losses = []
        with torch.inference_mode():
            for batch in batches("test", 128):
                labels = batch.pop("labels").numpy()
                scores = log_softmax(model(**batch).logits.double().numpy() / temperature, axis=1)
                losses.append(-scores[np.arange(len(labels)), labels])
        return float(np.concatenate(losses).mean())

    before = test_nll(1.0)
    temperature = torch.ones(1, requires_grad=True)
    optimiser = torch.optim.SGD([temperature], lr=0.01)
    for _ in range(3):
        for batch in batches("calibration", 64):
            labels = batch.pop("labels")
            with torch.no_grad():
                logits = model(**batch).logits
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits / temperature, labels).backward()
            optimiser.step()
    return [before, test_nll(float(temperature)), float(temperature)]


# --- image files ----------------------------------------------------------------------------------


def write_images(parquet: Path, folder: Path, count: int, side: int) -> None:
    """Write JPEG files of real pictures, enlarged, in folders named after their labels."""
    table = datasets.Dataset.from_parquet(str(parquet))
    for index in range(count):
        row = table[index % len(table)]
        stored = row["image"]
        picture = Image.open(io.BytesIO(stored["bytes"])) if isinstance(stored, dict) else stored
        place = folder / str(row["label"])
        place.mkdir(parents=True, exist_ok=True)
        large = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        large.save(place / f"{index:05d}.jpg", quality=90)


def measure_images(options: argparse.Namespace) -> None:
    """Compare rows a second of two epochs: our cache, `datasets` with a processor in a loader."""
    lines: dict[str, tuple[float, float]] = {}
    processor = transformers.ViTImageProcessorPil()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        write_images(options.parquet, folder, options.rows, options.side)
        ours(folder, processor, Path(place, "cache"), lines)
        theirs(folder, processor, lines)
    table = [
        [name, f"{options.rows / wall:,.0f}", f"{options.rows / cpu:,.0f}"]
        for name, (cpu, wall) in lines.items()
    ]
    header = [f"{options.rows:,} JPEG files of {options.side} px", "rows/s", "rows/s of CPU"]
    print(tabulate(table, header, tablefmt="pipe"))


class Files:
    """Image files, decoded on access."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.files[index]) as picture:
            return np.asarray(picture.convert("RGB"))


def ours(folder: Path, processor: Any, cache: Path, lines: dict[str, Any]) -> None:
    """Time our first epoch, which fills the cache, and the second."""
    files = sorted(folder.rglob("*.jpg"))
    rows = Rows(np.arange(len(files)), np.zeros(len(files), dtype=np.int64), images=Files(files))
    loaded = LoadedPreprocessor(processor, "key")
    order = np.random.default_rng(0).permutation(len(files))
    batches = np.array_split(order, -(-len(files) // BATCH))
    for epoch in (1, 2):
        with timed(lines, f"ours, epoch {epoch}"):
            split = encode(lambda: rows, loaded, cache=cache, key="rows")
            for _ in load_batches(split, batches, Padding()):
                pass


def theirs(folder: Path, processor: Any, lines: dict[str, Any]) -> None:
    """Time two epochs of an image folder with the processor as its transform."""
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(folder.parent / "hf")
    )

    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in rows["image"]]
        return {**processor(images, return_tensors="pt"), "labels": rows["label"]}

    loader: DataLoader[Any] = DataLoader(
        table.with_transform(transform), batch_size=BATCH, shuffle=True, num_workers=2
    )
    for epoch in (1, 2):
        with timed(lines, f"datasets and a loader, epoch {epoch}"):
            for _ in loader:
                pass


def main() -> None:
    """Run one comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds: dict[str, Callable[[argparse.Namespace], None]] = {
        "texts": measure_texts, "notebook": measure_notebook, "images": measure_images,
    }  # fmt: skip
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--texts", type=Path, nargs="+", default=[])
    parser.add_argument("--parquet", type=Path)
    parser.add_argument("--rows", type=int, help="texts or images")
    parser.add_argument("--side", type=int, default=320, help="pixels of an image file")
    parser.add_argument("--sizes", type=int, nargs=3, default=(2000, 1000, 4000))
    options = parser.parse_args()
    if options.kind != "images":
        torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    kinds[options.kind](options)


if __name__ == "__main__":
    main()
