"""pytest-benchmark cases at small sizes; CI runs them once, without timing."""

from __future__ import annotations

import compare_libraries
import numpy as np
import pytest

from benchmark.statistics.bin_resampling import bootstrap_interval, noise_floor
from benchmark.statistics.intervals import score_split
from benchmark.statistics.metrics import METRICS
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import refit_temperatures
from benchmark.statistics.temperature import fit_temperature

SIZES = [(10_000, 2), (2000, 10), (1000, 100)]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def split(request):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=request.param).astype(np.float32)
    labels = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, labels


def test_fit_temperature(benchmark, split):
    assert benchmark(fit_temperature, *split).status == "converged"


def test_predictions(benchmark, split):
    assert len(benchmark(Predictions.from_logits, *split).nll) == len(split[1])


@pytest.mark.parametrize(
    "name", ["ece_15", "ece_100_equal_mass", "smooth_ece", "ks_calibration_error", "aurc"]
)
def test_metric(benchmark, split, name):
    assert 0 <= benchmark(METRICS[name], Predictions.from_logits(*split)) <= 1


def test_bootstrap_interval(benchmark, split):
    scored = Predictions.from_logits(*split)
    interval = benchmark(bootstrap_interval, scored.confidence, scored.correct)
    assert interval.low < interval.high


def test_noise_floor(benchmark, split):
    floor = benchmark(noise_floor, Predictions.from_logits(*split).confidence)
    assert floor.mean < floor.q95


def test_refit_temperatures(benchmark, split):
    fit = fit_temperature(*split)
    assert len(benchmark(refit_temperatures, *split, fit).resampled) == 1000


def test_score_split(benchmark, split):
    fit = fit_temperature(*split)
    scores = benchmark(score_split, *split, *split, fit)
    assert scores.n_rows == len(split[1])


def test_peers_table(tmp_path, monkeypatch, capsys):
    """The comparison script times and tabulates whatever other libraries are installed."""

    document = tmp_path / "performance.md"
    document.write_text(f"Before\n{compare_libraries.BEGIN}\nold\n{compare_libraries.END}\nAfter\n")
    monkeypatch.setattr(compare_libraries, "SIZES", ((300, 3),))
    monkeypatch.setattr("sys.argv", ["peers", "--repeats", "1", "--document", str(document)])
    compare_libraries.main()
    text = document.read_text()
    assert text.startswith(f"Before\n{compare_libraries.BEGIN}\n| task")
    assert text.endswith(f"{compare_libraries.END}\nAfter\n")
    assert "old" not in text
    assert "| temperature | 300 x 3 | ours |" in text
    assert "| scikit-learn |" in text
    assert "| temperature | 300 x 3 | ours |" in capsys.readouterr().out
