"""Scores of one folder of logits: the same in every process, with maps and what they gain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark import average_seeds, load_results
from benchmark.claim import evaluate_claim
from benchmark.claim.data import checkpoints
from benchmark.execution.scoring import score_run
from benchmark.records import RunFolder
from benchmark.records.logits import LogitsSplit, write_logits
from benchmark.report.data import over_seeds
from benchmark.report.reading import read_suite
from benchmark.report.tabulation import quality_table

SCORE = """
import sys
from pathlib import Path
from benchmark.execution import score_run
from benchmark.records import RunFolder
found = score_run(RunFolder(Path(sys.argv[1])))
for part in (found.temperature, *found.maps.values(), *found.scores.values()):
    print(part.model_dump_json())
"""


def split(n: int, n_classes: int, seed: int) -> LogitsSplit:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, n_classes)).astype(np.float32)
    labels = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return LogitsSplit(np.arange(n), logits, labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    found = RunFolder(tmp_path_factory.mktemp("logits"))
    splits = {"calibration": split(900, 4, 0), "test": split(3000, 4, 1)}
    write_logits(found, splits | {"noise-1": split(500, 4, 2)}, key="made-up")
    return found


def test_record_does_not_depend_on_the_number_of_threads(folder: RunFolder) -> None:
    """Byte for byte, in fresh processes whose BLAS may use one, two or all threads."""
    printed = []
    for threads in ("1", "2", None):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {} if threads is None else dict.fromkeys(names, threads)
        command = [sys.executable, "-c", SCORE, str(folder.path)]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        printed.append(done.stdout)
    assert printed[0] == printed[1] == printed[2]
    assert len(printed[0]) > 5000


def test_every_split_is_scored_after_every_map(folder: RunFolder) -> None:
    found = score_run(folder)
    assert found.scores.keys() == {"test", "noise-1"}
    fitted = [name for name, facts in found.maps.items() if facts.unsuitable is None]
    assert found.maps["beta"].unsuitable == "for two classes only, not 4"
    for scores in found.scores.values():
        assert list(scores.maps) == fitted
        assert scores.maps["temperature"]["nll"].low is not None
        assert scores.maps["isotonic"]["nll"].low is None
        assert scores.against_temperature.keys() == set(fitted) - {"none", "temperature"}
    gain = found.scores["test"].against_temperature["isotonic"]["nll"]
    nll = {name: estimates["nll"].value for name, estimates in found.scores["test"].maps.items()}
    assert gain.value == pytest.approx(nll["isotonic"] - nll["temperature"])


def test_one_number_in_table_figure_claim_and_sample(tmp_path: Path) -> None:
    """Two seeds whose debiased errors after scaling differ in sign: the squares are averaged."""
    from synthetic import write_tree

    write_tree(tmp_path)
    column = "debiased_calibration_error_temperature"
    runs = load_results(tmp_path)
    sample = average_seeds(runs)
    row = sample[(sample["split"] == "test")].sort_values(["dataset", "model"]).iloc[0]
    own = runs[(runs["model"] == row["model"]) & (runs["dataset"] == row["dataset"])]
    values = own.loc[own["split"] == "test", column]
    squared = float((np.sign(values) * values**2).mean())
    expected = np.sign(squared) * np.sqrt(abs(squared))
    assert len(values) == 2

    def of(frame: pd.DataFrame) -> float:
        chosen = (frame["model"] == row["model"]) & (frame["dataset"] == row["dataset"])
        return float(frame.loc[chosen & (frame["split"] == "test"), column].iloc[0])

    suite = read_suite(tmp_path, "embedded")
    table = over_seeds(suite.in_distribution)
    cells = quality_table(table[table["dataset"] == row["dataset"]])
    (line,) = (line for line in cells.rows if line[0].text == row["model"])
    position = [c.key for c in cells.columns].index("debiased_after")
    assert of(sample) == of(table) == of(checkpoints(runs)) == pytest.approx(expected, abs=1e-15)
    assert line[position].value == of(sample)
    assert evaluate_claim(runs).primary_map == "none"
