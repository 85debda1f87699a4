"""Pairs of like models, one of each mixer, compared on the same test rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, stats

from benchmark.claim_data import COVARIATE_COLUMNS
from benchmark.claim_result import MatchedPairs, Moment, Pair
from benchmark.intervals import ModelOutputs, compare, holm
from benchmark.logits_store import read_split
from benchmark.registry import Claim
from benchmark.results import ResultsError
from benchmark.temperature import fit_temperature

if TYPE_CHECKING:
    import pandas as pd

MAX_SIZE_RATIO = 2.0
MAX_ACCURACY_DIFFERENCE = 0.03
MAX_PRETRAINING_RATIO = 3.0
RESAMPLES = 200
"""Enough for the standard deviation (to 5%) that a comparison's normal interval rests on."""
FORBIDDEN = 1e6
"""Cost of a pair that breaks the rule: larger than that of any number of allowed pairs."""

RULE = (
    "One model of each mixer on the same dataset, each used once: parameters within a factor of"
    f" {MAX_SIZE_RATIO:g}, accuracy within {100 * MAX_ACCURACY_DIFFERENCE:g} points, pretraining"
    f" examples within a factor of {MAX_PRETRAINING_RATIO:g} and the same recipe flags (two"
    " unknowns count as equal); among all such pairings the one with most pairs, then the closest."
)


def matched_pairs(
    frame: pd.DataFrame, clean: pd.DataFrame, claim: Claim, metric: str
) -> MatchedPairs:
    """Match models by `RULE` and compare each pair before and after temperature scaling.

    A comparison is the paired bootstrap over test rows, after scaling with the temperature
    refitted in every resample. It is made seed by seed and averaged; since seeds share the
    test rows, the standard error of the average is taken as the average of theirs, which is never
    too small. Holm's correction runs over the pairs of a moment. Models are fixed here: the
    p values speak of these pairs, not of mixers at large.

    Args:
        frame: runs, with the folder of their logits; pairs without are listed by ratio only.
        clean: averaged unshifted rows, on which matching is done.
        claim: the contrast.
        metric: the outcome compared.
    """
    pairs: list[Pair] = []
    problems: list[str] = []
    moments: tuple[Moment, ...] = ("before", "after")
    matched = list(_match_all(clean, claim))
    for moment in moments:
        if f"{metric}_{moment}" not in clean.columns:
            continue
        compared = [_compare(frame, pair, metric, moment, problems) for pair in matched]
        pairs += _corrected(compared)
    return MatchedPairs(
        rule=RULE, metric=metric, pairs=tuple(pairs), problems=tuple(dict.fromkeys(problems))
    )


class _Match(NamedTuple):
    dataset: str
    first: pd.Series
    second: pd.Series


def _match_all(clean: pd.DataFrame, claim: Claim) -> Iterator[_Match]:
    for dataset, rows in clean.groupby("dataset"):
        first, second = (rows[rows["mixer"] == side] for side in claim.contrast)
        if first.empty or second.empty:
            continue
        cost = _costs(first, second)
        for i, j in zip(*optimize.linear_sum_assignment(cost), strict=True):
            if cost[i, j] < FORBIDDEN:
                yield _Match(str(dataset), first.iloc[i], second.iloc[j])


def _costs(first: pd.DataFrame, second: pd.DataFrame) -> np.ndarray:
    """Return distances in units of the rule's limits; `FORBIDDEN` where it is broken."""
    distances = np.zeros((len(first), len(second)))
    allowed = np.ones(distances.shape, dtype=bool)
    for column, limit in (
        ("log_parameters", np.log(MAX_SIZE_RATIO)),
        ("test_error", MAX_ACCURACY_DIFFERENCE),
        ("log_pretraining_examples", np.log(MAX_PRETRAINING_RATIO)),
    ):
        gaps = _gaps(first, second, column) / limit
        # Rounding must not forbid two models exactly at the limit.
        allowed &= gaps <= 1 + 1e-9
        distances += gaps
    for flag in COVARIATE_COLUMNS["recipe"]:
        allowed &= _gaps(first, second, flag) == 0
    return np.where(allowed, distances, FORBIDDEN)


def _gaps(first: pd.DataFrame, second: pd.DataFrame, column: str) -> np.ndarray:
    """Return absolute differences; 0 between two unknowns, infinite to a single one."""
    left = first[column].to_numpy(dtype=float)[:, None]
    right = second[column].to_numpy(dtype=float)[None, :]
    gaps = np.abs(left - right)
    gaps = np.where(np.isnan(left) & np.isnan(right), 0.0, gaps)
    return np.where(np.isnan(gaps), np.inf, gaps)


def _compare(
    frame: pd.DataFrame, match: _Match, metric: str, moment: Moment, problems: list[str]
) -> tuple[Pair, float | None]:
    """Return the pair without p value, and the standard error of its difference."""
    dataset, first, second = match
    column = f"{metric}_{moment}"
    size = float(np.exp(first["log_parameters"] - second["log_parameters"]))
    errors = float(first[column]), float(second[column])
    pair = Pair(
        dataset=dataset,
        moment=moment,
        first=str(first["model"]),
        second=str(second["model"]),
        size_ratio=None if np.isnan(size) else size,
        accuracy_difference=float(second["test_error"] - first["test_error"]),
        seeds=0,
        ratio=errors[0] / errors[1] if min(errors) > 0 else None,
        difference=errors[0] - errors[1],
    )
    differences, widths = [], []
    for left, right in _folders_by_seed(frame, pair):
        try:
            one, other = _outputs(left, pair.first), _outputs(right, pair.second)
            result = compare(
                one, other, metric, after_scaling=moment == "after", resamples=RESAMPLES
            )
        except (ResultsError, ValueError) as error:
            problems.append(str(error))
            continue
        differences.append(result.difference)
        widths.append((result.high - result.low) / (2 * stats.norm.ppf(0.975)))
    if not differences:
        return pair, None
    changes = {"difference": float(np.mean(differences)), "seeds": len(differences)}
    return pair.model_copy(update=changes), float(np.mean(widths))


def _folders_by_seed(frame: pd.DataFrame, pair: Pair) -> Iterator[tuple[Path, Path]]:
    """Yield the run folders of both models for each seed that both have."""
    if "folder" not in frame.columns:
        return
    done = frame[
        (frame["status"] == "completed")
        & (frame["dataset"] == pair.dataset)
        & (frame["split"] == "test")
        & (frame["folder"].fillna("") != "")
    ]
    folders = [
        done[done["model"] == model].set_index("seed")["folder"]
        for model in (pair.first, pair.second)
    ]
    for seed in folders[0].index.intersection(folders[1].index):
        yield Path(folders[0][seed]), Path(folders[1][seed])


def _outputs(folder: Path, name: str) -> ModelOutputs:
    test, calibration = read_split(folder, "test"), read_split(folder, "calibration")
    return ModelOutputs(
        name=name,
        test_logits=test.logits,
        test_labels=test.labels,
        test_ids=test.ids,
        calibration_logits=calibration.logits,
        calibration_labels=calibration.labels,
        calibration_ids=calibration.ids,
        fit=fit_temperature(calibration.logits, calibration.labels),
    )


def _corrected(compared: list[tuple[Pair, float | None]]) -> list[Pair]:
    """Add intervals and p values, corrected for the number of pairs compared."""
    tested = [(pair, error) for pair, error in compared if error is not None]
    p_values = [_p_value(pair.difference, error) for pair, error in tested]
    done = []
    for (pair, error), p_value, adjusted in zip(tested, p_values, holm(p_values), strict=True):
        difference, reach = pair.difference, float(stats.norm.ppf(0.975)) * error
        changes = {
            "low": difference - reach,
            "high": difference + reach,
            "p_value": p_value,
            "p_adjusted": adjusted,
        }
        done.append(pair.model_copy(update=changes))
    return done + [pair for pair, error in compared if error is None]


def _p_value(difference: float, error: float) -> float:
    if error == 0:
        return float(difference == 0)
    return float(2 * stats.norm.sf(abs(difference) / error))
