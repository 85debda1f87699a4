"""An earlier publication's figures beside ours, and its way of fitting the temperature."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark import Registry
from benchmark.importing.command import main as import_logits
from benchmark.registry import Published, StochasticFit
from benchmark.report import declared_published, write_report
from benchmark.report import main as report_main
from benchmark.statistics.classification import roc_auc
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.stochastic_temperature import fit_by_gradient_descent
from benchmark.statistics.temperature import fit_temperature
from benchmark.statistics.two_classes import positive_rms_calibration_error

NOTEBOOK = StochasticFit(epochs=3, batch_size=64, learning_rate=0.01)
ROWS = 36_387
SHARPNESS = 1.22


def binary_rows(
    rows: int, temperature: float, seed: int, spread: float = 5.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw labels from a model's own probabilities, then make its logits too sharp."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(-1, spread, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.int64)
    logits = np.stack([-margin / 2, margin / 2], axis=1) * temperature
    return logits.astype(np.float32), labels


def torch_path(
    logits: NDArray[np.float32], labels: NDArray[np.int64], fit: StochasticFit
) -> list[float]:
    """Fit with torch's optimiser and autograd, on the same batches."""
    values, classes = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)
    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([temperature], lr=fit.learning_rate)
    path = [1.0]
    for _ in range(fit.epochs):
        for start in range(0, len(values), fit.batch_size):
            at = slice(start, start + fit.batch_size)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(values[at] / temperature, classes[at]).backward()
            optimiser.step()
            path.append(float(temperature.detach()))
    return path


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 90),
    classes=st.integers(2, 5),
    batch_size=st.integers(1, 100),
    epochs=st.integers(1, 3),
)
def test_the_path_is_torchs(
    seed: int, rows: int, classes: int, batch_size: int, epochs: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, classes)).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    fit = StochasticFit(epochs=epochs, batch_size=batch_size, learning_rate=0.01)
    ours = fit_by_gradient_descent(logits, labels, **fit.model_dump())
    np.testing.assert_allclose(ours.path, torch_path(logits, labels, fit), rtol=1e-10)
    assert ours.steps_per_epoch == math.ceil(rows / batch_size)


def test_many_epochs_reach_the_optimum() -> None:
    logits, labels = binary_rows(4_000, temperature=1.3, seed=0)
    fit = fit_by_gradient_descent(logits, labels, epochs=200, batch_size=4_000, learning_rate=1.0)
    assert fit.temperature == pytest.approx(fit_temperature(logits, labels).temperature, rel=1e-6)


def test_a_masked_class_changes_nothing() -> None:
    logits, labels = binary_rows(500, temperature=1.3, seed=0)
    masked = np.column_stack([logits, np.full(500, -np.inf, dtype=np.float32)])
    fits = [
        fit_by_gradient_descent(values, labels, **NOTEBOOK.model_dump()).temperature
        for values in (logits, masked)
    ]
    assert fits[0] == pytest.approx(fits[1], rel=1e-12)


def test_a_fit_that_runs_off_has_no_temperature() -> None:
    logits, labels = binary_rows(500, temperature=50, seed=0)
    fit = fit_by_gradient_descent(logits, labels, epochs=1, batch_size=50, learning_rate=1e308)
    assert math.isnan(fit.temperature)


# --- in the report --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebook's case as a run: its number of rows, its log loss, two classes."""
    folder = tmp_path_factory.mktemp("published")
    arrays = {}
    for split, rows, seed in (("calibration", ROWS, 1), ("test", 4_000, 2)):
        arrays[f"{split}_logits"], arrays[f"{split}_labels"] = binary_rows(rows, SHARPNESS, seed)
    np.savez(folder / "logits.npz", **arrays)
    assert import_logits([
        "import", str(folder / "logits.npz"), "--model", "mobilebert-seed", "--dataset", "quora",
        "--mixer", "attention", "--family", "MobileBERT", "--modality", "text",
        "--suite", "seed-notebook", "--results", str(folder / "results"), "--no-report",
    ]) == 0  # fmt: skip
    return folder / "results"


def notebook(**changes: object) -> Published:
    (published,) = Registry.load().suites["seed-notebook"].published
    return published.model_copy(update=changes)


def section(results: Path, reports: Path, published: Published) -> str:
    folder = write_report(results, reports, suite="seed-notebook", published=[published]).folder
    assert "Beside published figures" in (folder / "index.html").read_text()
    readme = (folder / "README.md").read_text()
    return readme.split("## Beside published figures")[1].split("\n## ")[0]


def test_the_notebook_stands_beside_our_figures(results: Path, tmp_path: Path) -> None:
    text = section(results, tmp_path, notebook())
    logits, labels = binary_rows(4_000, SHARPNESS, seed=2)
    predictions = Predictions.from_logits(logits, labels)
    auc = next(line for line in text.splitlines() if line.startswith("| roc"))
    assert f"0.9627 | {roc_auc(predictions):.4f}" in re.sub(" +", " ", auc)
    rms = next(line for line in text.splitlines() if line.startswith("| positive"))
    assert "0.0415" in rms
    assert "0.0313" in rms
    assert f"{positive_rms_calibration_error(predictions):.4f}" in rms


def test_the_reader_sees_why_the_temperature_differs(results: Path, tmp_path: Path) -> None:
    text = section(results, tmp_path, notebook())
    logits, labels = binary_rows(ROWS, SHARPNESS, seed=1)
    optimum = fit_temperature(logits, labels).temperature
    descent = fit_by_gradient_descent(logits, labels, **NOTEBOOK.model_dump())
    assert 1 < descent.temperature < optimum - 0.01
    assert "stops early, after" in text
    assert f"T = {descent.temperature:.4f}, where the optimum is {optimum:.4f}" in text
    share = (descent.temperature - 1) / (optimum - 1)
    assert f"after {share:.0%}" in text.replace("\\", "")
    assert "published-mobilebert-seed-quora.svg" in text
    assert (tmp_path / "seed-notebook/figures/published-mobilebert-seed-quora.svg").exists()


def test_a_fit_that_reaches_the_optimum_explains_nothing(results: Path, tmp_path: Path) -> None:
    patient = StochasticFit(epochs=20, batch_size=4096, learning_rate=0.5)
    text = section(results, tmp_path, notebook(temperature_fit=patient))
    assert "reaches the optimum" in text
    assert "does not explain" in text
    assert "stops early" not in text


def test_a_fit_that_runs_off_is_told(results: Path, tmp_path: Path) -> None:
    wild = StochasticFit(epochs=1, batch_size=64, learning_rate=1e308)
    text = section(results, tmp_path, notebook(temperature_fit=wild))
    assert "has no end to compare with" in text


def test_gaps_are_named_not_filled(results: Path, tmp_path: Path) -> None:
    text = section(results, tmp_path, notebook(before={"log_loss": 0.2, "nll": 0.243}))
    assert "'log\\_loss'" in text or "'log_loss'" in text
    absent = section(results, tmp_path, notebook(model="other"))
    assert "No run of ours has completed" in absent
    assert "0.0415" not in absent


def test_the_report_command_finds_what_the_registry_declares(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_main(["--results", str(results), "--reports", str(tmp_path)]) == 0
    readme = (tmp_path / "seed-notebook" / "README.md").read_text()
    assert "## Beside published figures" in readme
    capsys.readouterr()


def test_a_limited_suite_is_compared_with_the_same_publication() -> None:
    registry = Registry.load()
    assert declared_published(registry, "seed-notebook-limit-200") == (notebook(),)
    assert declared_published(registry, "embedded") == ()
    assert declared_published(registry, "of another registry") == ()


@pytest.mark.parametrize(
    ("file", "share"), [("c10_resnet110.npz", 0.285), ("c10_resnet50_cross_entropy.npz", 0.326)]
)
def test_few_rows_stop_the_notebooks_way_long_before_the_optimum(
    shared_data: Path, file: str, share: float
) -> None:
    """With 5,000 rows and T near 2.4, three epochs are a third of the way (docs/statistics.md)."""
    arrays = np.load(shared_data / "logits" / file)
    rows = (arrays["val_logits"], arrays["val_labels"])
    reached = fit_by_gradient_descent(*rows, **NOTEBOOK.model_dump()).temperature
    assert (reached - 1) / (fit_temperature(*rows).temperature - 1) == pytest.approx(
        share, abs=1e-3
    )
