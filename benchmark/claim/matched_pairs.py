"""Pairs of like models, one of each mixer, compared on the same test rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import optimize

from benchmark.claim.data import COVARIATE_COLUMNS, PRIMARY_METRIC
from benchmark.claim.paired_errors import RunErrors, run_errors
from benchmark.claim.pooled_ratio import PairedSquares, pooled_ratio
from benchmark.claim.result import CLAIM_MAPS, ClaimMap, MatchedPairs, Pair, PooledPairs
from benchmark.records import ResultsError, RunFolder
from benchmark.registry import Claim
from benchmark.statistics import METRICS, PairedDifference, SquaredContrast, holm, signed_root

if TYPE_CHECKING:
    import pandas as pd

MAX_SIZE_RATIO = 2.0
MAX_ACCURACY_DIFFERENCE = 0.03
MAX_PRETRAINING_RATIO = 3.0
RESAMPLES = 500
MAX_COMPARED = 60
"""Runs that are compared row by row, closest pairs first; the others are listed by ratio only."""
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

    A comparison is a `statistics.SquaredContrast` of the test rows: the difference of squared
    errors, averaged over the seeds that both models have, after scaling with what refits of the
    temperature on the same resampled calibration rows add. It is shown as its signed root. Holm's
    correction runs over the pairs of a map. Models are fixed here: the p values speak of these
    pairs. All pairs of a map are pooled into one ratio, with families as what is replicated.

    Args:
        frame: runs, with the folder of their logits; pairs without are listed by ratio only.
        clean: averaged unshifted rows, which are matched.
        claim: the contrast.
        metric: the outcome; only the debiased calibration error is compared row by row.
    """
    pairs: list[Pair] = []
    pooled: list[PooledPairs] = []
    problems: list[str] = []
    folders = _folders(frame) if metric == PRIMARY_METRIC else {}
    matched = sorted(_match_all(clean, claim), key=lambda match: match.distance)
    for map_name in CLAIM_MAPS.values():
        if f"{metric}_{map_name}" not in clean.columns:
            continue
        compared = []
        runs = 0
        for match in matched:
            pair = _pair(match, metric, map_name)
            both = _common_seeds(folders, pair)
            runs += len(both)
            if runs > MAX_COMPARED:
                problems.append(
                    f"only the {MAX_COMPARED} closest pairs of runs were compared row by row"
                )
                both = []
            compared.append((pair, _compare(both, pair, problems)))
        pairs += _tested(compared)
        pooled += _pooled(matched, metric, map_name)
    said = tuple(dict.fromkeys(problems))
    return MatchedPairs(
        rule=RULE, metric=metric, pairs=tuple(pairs), pooled=tuple(pooled), problems=said
    )


class _Match(NamedTuple):
    dataset: str
    first: pd.Series[Any]
    second: pd.Series[Any]
    distance: float


def _match_all(clean: pd.DataFrame, claim: Claim) -> Iterator[_Match]:
    for dataset, rows in clean.groupby("dataset"):
        first, second = (rows[rows["mixer"] == side] for side in claim.contrast)
        if first.empty or second.empty:
            continue
        cost = _costs(first, second)
        for i, j in zip(*optimize.linear_sum_assignment(cost), strict=True):
            if cost[i, j] < FORBIDDEN:
                yield _Match(str(dataset), first.iloc[i], second.iloc[j], float(cost[i, j]))


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


def _pair(match: _Match, metric: str, map_name: ClaimMap) -> Pair:
    """Return the pair with what the averaged rows say of it."""
    column = f"{metric}_{map_name}"
    first, second = match.first, match.second
    size = float(np.exp(first["log_parameters"] - second["log_parameters"]))
    errors = float(first[column]), float(second[column])
    return Pair(
        dataset=match.dataset,
        map=map_name,
        first=str(first["model"]),
        second=str(second["model"]),
        size_ratio=None if np.isnan(size) else size,
        accuracy_difference=float(second["test_error"] - first["test_error"]),
        seeds=0,
        ratio=errors[0] / errors[1] if min(errors) > 0 else None,
        difference=_difference(metric, *errors),
    )


def _difference(metric: str, first: float, second: float) -> float:
    """Return the signed root of the difference of squares where squares are what is unbiased."""
    if metric in METRICS and METRICS[metric].over_seeds == "root_mean_square":
        return signed_root(first * abs(first) - second * abs(second))
    return first - second


class _Found(NamedTuple):
    """What a pair's rows say: over how many seeds, and the difference or why there is none."""

    seeds: int
    difference: PairedDifference | str


def _compare(
    folders: list[tuple[RunFolder, RunFolder]], pair: Pair, problems: list[str]
) -> _Found | None:
    """Compare the runs of a pair on their common rows, all seeds in one contrast."""
    runs: list[tuple[RunErrors, RunErrors]] = []
    for left, right in folders:
        try:
            one, other = (
                run_errors(folder, after_scaling=pair.map == "temperature", resamples=RESAMPLES)
                for folder in (left, right)
            )
        except (ResultsError, ValueError) as error:
            problems.append(str(error))
            continue
        first = runs[0][0] if runs else one
        if not (_same_rows(one, other) and _same_rows(one, first)):
            problems.append(f"{left.name} and {right.name} were not scored on the same test rows")
            continue
        runs.append((one, other))
    if not runs:
        return None
    flat = [run for both in runs for run in both]
    reason = next((run.too_few for run in flat if run.too_few), None)
    if reason:
        return _Found(len(runs), reason)
    weights = [1 / len(runs), -1 / len(runs)] * len(runs)
    contrast = SquaredContrast.of([run.parts for run in flat], weights)
    return _Found(len(runs), contrast.test().rooted())


def _same_rows(one: RunErrors, other: RunErrors) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)


Folders = dict[tuple[str, str], dict[int, RunFolder]]


def _folders(frame: pd.DataFrame) -> Folders:
    """Return the folders of completed runs that keep their logits, by dataset, model and seed."""
    folders: Folders = {}
    if "folder" not in frame.columns:
        return folders
    done = frame[
        (frame["status"] == "completed")
        & (frame["split"] == "test")
        & (frame["folder"].fillna("") != "")
    ]
    columns = (done[name].tolist() for name in ("dataset", "model", "seed", "folder"))
    for dataset, model, seed, folder in zip(*columns, strict=True):
        folders.setdefault((dataset, model), {})[int(seed)] = RunFolder(Path(folder))
    return folders


def _common_seeds(folders: Folders, pair: Pair) -> list[tuple[RunFolder, RunFolder]]:
    """Return the run folders of both models for each seed that both have."""
    first, second = (folders.get((pair.dataset, model), {}) for model in (pair.first, pair.second))
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def _tested(compared: list[tuple[Pair, _Found | None]]) -> list[Pair]:
    """Add intervals and p values, corrected for the number of pairs compared."""
    tested = [
        (pair, found.seeds, found.difference)
        for pair, found in compared
        if found and not isinstance(found.difference, str)
    ]
    corrected = holm([result.p_value for _, _, result in tested])
    done = [
        pair.model_copy(update={"seeds": seeds, "p_adjusted": p, **result._asdict()})
        for (pair, seeds, result), p in zip(tested, corrected, strict=True)
    ]
    bare = [
        pair.model_copy(update={"seeds": found.seeds, "no_interval": found.difference})
        for pair, found in compared
        if found and isinstance(found.difference, str)
    ]
    return done + bare + [pair for pair, found in compared if not found]


def _pooled(matched: list[_Match], metric: str, map_name: ClaimMap) -> list[PooledPairs]:
    """Return one ratio of the matched pairs, where records hold the squares."""
    column = f"{metric}_squared_{map_name}"
    if metric != PRIMARY_METRIC or not matched or column not in matched[0].first:
        return []
    pairs = [
        PairedSquares(
            match.dataset,
            (str(match.first["family"]), str(match.second["family"])),
            (float(match.first[column]), float(match.second[column])),
        )
        for match in matched
    ]
    found = pooled_ratio([pair for pair in pairs if np.isfinite(pair.squares).all()] or pairs)
    return [PooledPairs(map=map_name, pairs=len(pairs), **found._asdict())]
