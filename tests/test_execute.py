from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import AutoModelForImageClassification

import benchmark.records.logits as store
from benchmark import Registry, RunSpec, execute, plan
from benchmark.data.corpus import load_corpus
from benchmark.execution import SCORED_STAGES
from benchmark.execution.progress import StageProgress
from benchmark.execution.timing_stage import models_to_time
from benchmark.execution.workers import Finished, run_in_workers
from benchmark.records import Record, RecordHead, RunFolder
from benchmark.records.provenance import fingerprint_path


class Recorder:
    """Notes which stages were really done."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def advance(self, steps: int = 1) -> None:
        pass


def stages_done(spec: RunSpec, results: Path, **options: Any) -> list[str]:
    recorder = Recorder()
    record = execute(spec, results, progress=recorder, **options)
    assert record.status == "completed", record.failure
    begun = [stage for stage in recorder.stages if stage not in SCORED_STAGES]
    # What has no progress of its own is told, too, where something of it is needed.
    assert begun in ([], ["data", "checkpoint", "encoding"])
    return [stage for stage in recorder.stages if stage in SCORED_STAGES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path, Record]:
    """One run that has completed."""
    from conftest import REGISTRY

    folder = tmp_path_factory.mktemp("finished")
    (folder / "registry.yaml").write_text(REGISTRY)
    registry = Registry.load(folder / "registry.yaml")
    spec = plan(registry, models=["resnet"], limit=96)[0]
    return spec, folder / "results", execute(spec, folder / "results")


def test_a_run_leaves_what_the_design_says(finished: tuple[RunSpec, Path, Record]) -> None:
    spec, results, record = finished
    folder = spec.folder(results).path
    assert record.status == "completed"
    assert RunFolder(folder).read_record() == record
    assert {"spec.json", "logits.safetensors", "record.json", "model", "training.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert not list(folder.glob("training-state*"))
    assert set(record.scores) == {"test", "noise-1", "noise-2", "noise-3"}
    assert record.scores["test"].n == 96
    assert record.scores["noise-1"].n == 40
    assert record.provenance["packages"]["torch"]
    assert record.facts.pretraining_examples == 0


def test_logits_are_those_of_the_saved_model_in_row_order(
    finished: tuple[RunSpec, Path, Record],
) -> None:
    spec, results, _ = finished
    folder = spec.folder(results).path
    store.verify_checksum(RunFolder(folder))
    stored = store.read_split(RunFolder(folder), "test")
    test = load_corpus(spec.dataset, limit=96).test
    np.testing.assert_array_equal(stored.ids, test.ids)
    np.testing.assert_array_equal(stored.labels, test.labels)
    model = AutoModelForImageClassification.from_pretrained(folder / "model").eval()
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder / "model", backend="pil")
    assert test.images is not None
    images = [test.images[i] for i in range(96)]
    inputs = processor(images=images, return_tensors="pt", input_data_format="channels_last")
    logits = model(**inputs).logits.detach().numpy()
    np.testing.assert_allclose(stored.logits, logits, rtol=1e-4, atol=1e-4)


def test_only_stale_stages_are_redone(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    spec = make_spec("resnet")
    folder = spec.folder(tmp_path).path
    assert stages_done(spec, tmp_path) == ["training", "logits", "scores"]
    assert stages_done(spec, tmp_path) == []

    (folder / "record.json").unlink()
    assert stages_done(spec, tmp_path) == ["scores"]
    (folder / "record.json").write_text("{ half a record")
    assert stages_done(spec, tmp_path) == ["scores"]
    (folder / "logits.safetensors").unlink()
    (folder / "record.json").unlink()
    assert stages_done(spec, tmp_path) == ["logits", "scores"]
    (folder / "logits.safetensors").write_bytes(b"garbage")
    (folder / "record.json").unlink()
    assert stages_done(spec, tmp_path) == ["logits", "scores"]

    shifted = spec.model_copy(
        update={"dataset": spec.dataset.model_copy(update={"shifts": ("noise", "blur")})}
    )
    assert stages_done(shifted, tmp_path) == ["logits", "scores"]
    retrained = shifted.model_copy(
        update={"recipe": spec.recipe.model_copy(update={"learning_rate": 1e-3})}
    )
    assert stages_done(retrained, tmp_path) == ["training", "logits", "scores"]
    assert stages_done(retrained, tmp_path, force=True) == ["training", "logits", "scores"]


def test_same_seed_same_logits_other_seed_others(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    logits = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        spec = make_spec("vit", seed=seed)
        execute(spec, tmp_path / folder)
        logits.append(store.read_split(spec.folder(tmp_path / folder), "test").logits)
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 0.01


def test_failures_are_typed_and_tried_again(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    diverging = make_spec("diverging")
    record = execute(diverging, tmp_path)
    assert (record.status, record.failure and record.failure.stage) == ("failed", "training")
    assert record.failure is not None
    assert "learning rate" in record.failure.message
    assert diverging.folder(tmp_path).read_record() == record

    spec = make_spec("vit")
    bad_config = spec.model_copy(
        update={"model": spec.model.model_copy(update={"scratch": {"model_type": "vitt"}})}
    )
    record = execute(bad_config, tmp_path)
    assert record.failure is not None
    assert record.failure.stage == "checkpoint"
    assert "vitt" in record.failure.message

    missing = spec.model_copy(
        update={"model": spec.model.model_copy(update={"scratch": None, "path": Path("/none")})}
    )
    record = execute(missing, tmp_path)
    assert record.status == "unavailable"
    assert stages_done(spec, tmp_path) == ["training", "logits", "scores"]


def test_unknown_embedded_dataset_is_a_record(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("vit")
    unknown = spec.model_copy(
        update={"dataset": spec.dataset.model_copy(update={"embedded": "digit"})}
    )
    record = execute(unknown, tmp_path)
    assert record.failure is not None
    assert "did you mean 'digits'" in record.failure.message


def test_timing_in_a_record_outlives_new_scores(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec("vit")
    record = execute(spec, tmp_path)
    folder = spec.folder(tmp_path).path
    from benchmark.execution.resolution import resolve

    keys = {**record.keys, "timing": resolve(spec, tmp_path).key("timing"), "scores": "old"}
    RunFolder(folder).write_record(
        record.model_copy(update={"keys": keys, "timed_run": "vit/digits/seed-0"})
    )
    again = execute(spec, tmp_path)
    assert again.timed_run == "vit/digits/seed-0"
    assert again.keys["timing"] == keys["timing"]


def test_each_record_is_read_once_to_choose_what_to_time(
    finished: tuple[RunSpec, Path, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, results, _ = finished
    never_run = spec.model_copy(update={"seed": 7})
    reads: list[RunFolder] = []
    read = RunFolder.read_head

    def counted(folder: RunFolder) -> RecordHead | None:
        reads.append(folder)
        return read(folder)

    monkeypatch.setattr(RunFolder, "read_head", counted)
    (group,) = models_to_time([spec, never_run], results, "quick")
    assert [timed.name for timed in group] == [spec.name]
    assert reads == [spec.folder(results), never_run.folder(results)]


def test_a_killed_worker_costs_its_own_run_only(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """A worker is killed in mid-training; its run is a failure, the others complete."""
    victim = make_spec("vit", limit=None)
    long = victim.model_copy(update={"recipe": victim.recipe.model_copy(update={"epochs": 10_000})})
    others = [make_spec("resnet"), make_spec("vit", seed=1)]
    records: dict[str, Record] = {}
    events = run_in_workers([long, *others], tmp_path, workers=2, force=False, retries=0)
    killed = False
    for event in events:
        if isinstance(event, Finished):
            records[event.record.name] = event.record
        elif not killed and _is_training(event, long):
            os.kill(_worker_of(long, tmp_path), signal.SIGKILL)
            killed = True
    failed = records.pop(long.name)
    assert failed.failure is not None
    assert "SIGKILL" in failed.failure.message
    assert long.folder(tmp_path).read_record() == failed
    assert [record.status for record in records.values()] == ["completed", "completed"]


def _is_training(event: StageProgress, spec: RunSpec) -> bool:
    return event.run == spec.name and event.stage == "training" and event.done > 0


def _worker_of(spec: RunSpec, results: Path) -> int:
    """Return the process id of the worker that holds the run."""
    return int(json.loads(spec.folder(results).claim.read_text())["pid"])


def test_workers_end_when_the_consumer_stops(
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    import psutil

    spec = make_spec("vit", limit=None)
    long = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"epochs": 10_000})})
    events = run_in_workers([long], tmp_path, workers=1, force=False)
    next(events)
    children = [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
    assert children
    events.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60  # the grace that a worker has, on a busy machine
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(child.is_running() for child in children)


def test_a_completed_run_needs_no_input_again(
    make_spec: Callable[..., RunSpec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is done stays done when a source is gone; other settings are unavailable."""
    images = tmp_path / "images"
    spec = make_spec("resnet")
    for split, rows in (("train", 64), ("test", 32)):
        write_images(images / f"{split}.parquet", rows)
    dataset = {"embedded": None, "path": images, "columns": {"image": "image"}, "image_size": None}
    local = RunSpec.model_validate(
        spec.model_dump() | {"dataset": spec.dataset.model_dump() | dataset, "limit": None}
    )
    assert execute(local, tmp_path / "results").status == "completed"
    shutil.rmtree(images)
    fingerprint_path.cache_clear()
    assert stages_done(local, tmp_path / "results") == []
    assert "no such file or folder" in caplog.text
    assert "going on with the completed run's inputs" in caplog.text
    other = local.model_copy(update={"recipe": local.recipe.model_copy(update={"epochs": 1})})
    record = execute(other, tmp_path / "results")
    assert record.status == "unavailable"
    assert record.failure is not None
    assert "no such file or folder" in record.failure.message


def write_images(path: Path, rows: int) -> None:
    rng = np.random.default_rng(rows)
    values = {
        "image": [rng.integers(0, 256, (14, 14, 3), dtype=np.uint8) for _ in range(rows)],
        "label": list(np.arange(rows) % 2),
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["no", "yes"])
    )
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(values, features=features).to_parquet(path)
