"""Matched pairs: the rule, comparisons on the same rows, and one ratio of a table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from claim_frames import runs, two_modalities
from scipy import stats

from benchmark.claim import matched_pairs as matching
from benchmark.claim.bin_variants import VARIANTS, with_bin_variants
from benchmark.claim.data import checkpoints
from benchmark.claim.matched_pairs import MAX_SIZE_RATIO, matched_pairs
from benchmark.claim.pooled_ratio import PairedSquares, pooled_ratio
from benchmark.records import RunFolder
from benchmark.records.logits import LogitsSplit, read_split, write_logits
from benchmark.registry import Claim
from benchmark.statistics.calibration_error import expected_calibration_error
from benchmark.statistics.comparison import ModelOutputs, compare
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.temperature import fit_temperature

METRIC = "debiased_calibration_error"


def clean_of(frame: pd.DataFrame) -> pd.DataFrame:
    averaged = checkpoints(frame)
    return averaged[~averaged["shifted"]].reset_index(drop=True)


def store_logits(folder: Path, seed: int, sharpness: float, rows: int = 800) -> None:
    """Write logits whose true temperature is `sharpness`; rows are the same for every seed."""
    rows_generator, noise = np.random.default_rng(0), np.random.default_rng(seed)
    splits = {}
    for name in ("calibration", "test"):
        truth = rows_generator.normal(0, 2, size=(rows, 4))
        labels = (truth + rows_generator.gumbel(size=truth.shape)).argmax(axis=1)
        logits = sharpness * (truth + noise.normal(0, 0.3, truth.shape))
        splits[name] = LogitsSplit(np.arange(rows), logits.astype(np.float32), labels)
    write_logits(RunFolder(folder), splits, key="made-up")


@pytest.fixture
def pair_frame(tmp_path: Path) -> pd.DataFrame:
    """One pair of models of equal size and accuracy; the first is overconfident."""
    frame = runs(families=(1, 1), checkpoints=1, seeds=2, shifts=())
    frame["parameters"], frame["accuracy_none"], frame["temperature"] = 1e6, 0.8, 1.0
    for index, row in frame.iterrows():
        folder = tmp_path / str(row["model"]) / f"seed-{row['seed']}"
        sharpness = 2.5 if row["mixer"] == "attention" else 1.0
        store_logits(folder, seed=int(row["seed"]) + 1, sharpness=sharpness)
        frame.loc[index, "folder"] = str(folder)
    return frame


def pairs_of(frame: pd.DataFrame):
    averaged = checkpoints(frame)
    return matched_pairs(frame, averaged[~averaged["shifted"]], Claim(), METRIC)


def test_pairs_are_compared_on_the_same_rows(pair_frame: pd.DataFrame) -> None:
    found = pairs_of(pair_frame)
    before, after = found.pairs
    assert (before.map, after.map) == ("none", "temperature")
    assert before.seeds == after.seeds == 2
    assert before.low is not None
    assert before.p_adjusted is not None
    assert before.low > 0
    assert before.p_adjusted < 1e-6
    # Temperature scaling removes the overconfidence, and with it the difference.
    assert after.low is not None
    assert after.high is not None
    assert after.low < 0 < after.high
    assert not found.problems


def test_a_model_does_not_differ_from_itself(pair_frame: pd.DataFrame) -> None:
    pair_frame["folder"] = pair_frame["folder"].iloc[0]
    before, after = pairs_of(pair_frame).pairs
    assert before.difference == after.difference == 0
    assert before.p_value == after.p_value == 1


def test_missing_logits_are_a_problem_not_an_error(pair_frame: pd.DataFrame) -> None:
    pair_frame["folder"] = "nowhere"
    found = pairs_of(pair_frame)
    assert [pair.p_value for pair in found.pairs] == [None, None]
    assert any("no such file" in problem for problem in found.problems)


def test_other_rows_cannot_be_compared(pair_frame: pd.DataFrame) -> None:
    store_logits(Path(pair_frame["folder"].iloc[0]), seed=1, sharpness=1.0, rows=700)
    found = pairs_of(pair_frame)
    assert found.pairs[0].seeds == 1
    assert any("not scored on the same test rows" in problem for problem in found.problems)


def test_only_the_closest_pairs_are_bootstrapped(
    pair_frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MAX_COMPARED", 1)
    found = pairs_of(pair_frame)
    assert [pair.p_value for pair in found.pairs] == [None, None]
    assert any("only the 1 closest" in problem for problem in found.problems)


@pytest.mark.parametrize("after", [False, True])
def test_one_seed_is_what_compare_says(pair_frame: pd.DataFrame, after: bool) -> None:
    frame = pair_frame[pair_frame["seed"] == 0]
    first, second = (
        outputs_of(RunFolder(Path(frame.loc[frame["mixer"] == mixer, "folder"].iloc[0])))
        for mixer in ("attention", "convolution")
    )
    theirs = compare(first, second, METRIC, after_scaling=after, resamples=matching.RESAMPLES)
    ours = pairs_of(frame).pairs[int(after)]
    for name in ("difference", "low", "high", "p_value"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name)), name


def outputs_of(folder: RunFolder) -> ModelOutputs:
    test, calibration = read_split(folder, "test"), read_split(folder, "calibration")
    return ModelOutputs(
        folder.name,
        test.logits,
        test.labels,
        test.ids,
        calibration.logits,
        calibration.labels,
        calibration.ids,
        fit_temperature(calibration.logits, calibration.labels),
    )


def test_a_pair_with_few_errors_says_so(pair_frame: pd.DataFrame) -> None:
    for folder in pair_frame["folder"]:
        store_logits(Path(folder), seed=1, sharpness=1.0, rows=9)
    assert {pair.no_interval for pair in pairs_of(pair_frame).pairs} <= {
        "too few errors",
        "too few right",
    }
    assert all(pair.p_value is None for pair in pairs_of(pair_frame).pairs)


class TestPooledRatio:
    def draw(self, rng, families, ratio, noise=0.2):
        levels = np.exp(rng.normal(0, 0.4, size=(2, families)))
        squares = 0.01 * levels * rng.gamma(10, 0.1, size=levels.shape)
        squares[0] *= ratio**2
        squares = squares + rng.normal(0, 0.01 * noise, size=squares.shape)
        return [
            PairedSquares("d", (f"a{k}", f"c{k}"), (float(squares[0, k]), float(squares[1, k])))
            for k in range(families)
        ]

    @pytest.mark.parametrize("families", [6, 20])
    def test_coverage(self, families):
        rng = np.random.default_rng(families)
        found = [pooled_ratio(self.draw(rng, families, 0.7)) for _ in range(400)]
        covered = [(f.low or 0) <= 0.7 <= (f.high or math.inf) for f in found]
        assert 0.92 <= np.mean(covered) <= 0.985
        assert np.median([f.ratio for f in found]) == pytest.approx(0.7, rel=0.05)

    def test_ends_are_where_the_studentised_sum_is_rejected(self):
        pairs = self.draw(np.random.default_rng(0), 8, 0.8)
        found = pooled_ratio(pairs)
        squares = np.array([pair.squares for pair in pairs])
        for end in (found.low, found.high):
            sums = squares[:, 0] - end**2 * squares[:, 1]
            assert abs(stats.ttest_1samp(sums, 0).pvalue) == pytest.approx(0.05, rel=1e-6)

    def test_no_limits_are_said(self):
        one = [PairedSquares("d", ("a", "c"), (0.02, 0.01))]
        assert pooled_ratio(one)[:3] == (pytest.approx(math.sqrt(2)), None, None)
        noise = np.random.default_rng(1).normal(0, 1, size=(6, 2))
        pairs = [PairedSquares("d", (f"a{k}", f"c{k}"), tuple(s)) for k, s in enumerate(noise)]
        assert pooled_ratio(pairs).high is None

    def test_scale_of_a_dataset_does_not_matter(self):
        rng = np.random.default_rng(2)
        first, second = self.draw(rng, 6, 0.7), self.draw(rng, 6, 0.7)
        other = [p._replace(dataset="e") for p in second]
        scaled = [p._replace(squares=(100 * p.squares[0], 100 * p.squares[1])) for p in other]
        assert pooled_ratio(first + scaled).ratio == pytest.approx(
            pooled_ratio(first + other).ratio
        )


def test_pairs_keep_the_rule_and_use_each_model_once() -> None:
    frame = two_modalities(families=(6, 6), checkpoints=2, seeds=1)
    clean = clean_of(frame)
    found = matched_pairs(frame, clean, Claim(), METRIC)
    before = [pair for pair in found.pairs if pair.map == "none"]
    assert before
    for pair in before:
        assert pair.size_ratio is not None
        assert 1 / MAX_SIZE_RATIO <= pair.size_ratio <= MAX_SIZE_RATIO
        assert abs(pair.accuracy_difference) <= 0.03 + 1e-9
        assert pair.ratio is not None
    names = [name for pair in before for name in (pair.first, pair.second)]
    assert len(names) == len(set(names))


def test_a_recipe_only_one_side_has_forbids_the_pair(pair_frame: pd.DataFrame) -> None:
    pair_frame["mixup"] = pair_frame["mixer"] == "attention"
    assert not pairs_of(pair_frame).pairs
    pair_frame["mixup"] = None
    assert len(pairs_of(pair_frame).pairs) == 2


def test_bin_variants_come_from_the_logits(pair_frame: pd.DataFrame) -> None:
    wider = with_bin_variants(pair_frame)
    folder = Path(pair_frame["folder"].iloc[0])
    from benchmark.records.logits import read_split

    test = read_split(RunFolder(folder), "test")
    predicted = Predictions.from_logits(test.logits, test.labels)
    for name, bins, scheme in (
        ("ece_10", 10, "equal_width"),
        ("ece_30_equal_mass", 30, "equal_mass"),
    ):
        expected = expected_calibration_error(predicted.confidence, predicted.correct, bins, scheme)
        assert wider[f"{name}_none"].iloc[0] == pytest.approx(expected)
        assert wider[f"{name}_temperature"].iloc[0] == pytest.approx(expected)
    added = {
        f"{metric.name}_{map_name}" for metric in VARIANTS for map_name in ("none", "temperature")
    }
    assert set(wider.columns) - set(pair_frame.columns) == added
    assert with_bin_variants(runs()).columns.tolist() == runs().columns.tolist()
