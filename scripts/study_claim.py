"""Does the test of the claim keep its promises? Made-up studies, analysed as real ones.

    python scripts/study_claim.py --studies 1000    # every row of the table in docs/claim.md
    python scripts/study_claim.py --only giant --studies 100
    python scripts/study_claim.py --kind exact    # one of the two kinds, for one core each

Two kinds of study: *measured* ones, whose true calibration errors are seen through simulated
test rows, so that errors near what a test set can resolve and mixers measured with unlike
precision occur as in life; and *exact* ones, whose errors are known, with unbalanced, unequal,
heavy-tailed and giant families, confounding and incomplete crossing.

The former test, of logs above a floor, is run on the same studies with `--old` and PYTHONPATH at a
checkout of commit a08831a.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmark.registry import Claim
from benchmark.statistics.calibration_error import debiased_calibration_error

METRIC = "debiased_calibration_error"
MIXERS = ("attention", "convolution")
FAMILY_SD, CHECKPOINT_SD, NOISE_SD = 0.3, 0.15, 0.3
"""Of log errors in exact studies, unless a row says otherwise."""
RUN_SD, ACCURACY_SD = 0.2, 0.03
"""Of log errors and of accuracies around their family's in measured studies."""
LABELLINGS = 999
WITH_INTERVALS = 25
"""Studies of a row whose whole interval is found, to check that it agrees with the tests."""

Generator = np.random.Generator
Counts = Callable[[Generator, int, int], int]


@dataclass(frozen=True)
class Study:
    """One study: rows in the shape of `checkpoints`, and its truth.

    `truth` are true log errors, `parts` the true standard deviations (family, checkpoint, rest)
    by row, `own_ratio` the log ratio of these datasets, `next_ratio` that of one not tried.
    """

    frame: pd.DataFrame
    truth: np.ndarray
    parts: np.ndarray
    own_ratio: float
    next_ratio: float


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    draw: Callable[[Generator, float], Study]
    covariates: tuple[str, ...] = ()
    ratios: tuple[float, ...] = (1.0, 0.7)
    about: str = "these"


# --- measured studies -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """Test rows, accuracy by mixer and the typical true error of a dataset."""

    name: str
    rows: int
    accuracy: tuple[float, float]
    error: float


def measure(generator: Generator, rows: int, accuracy: float, error: float) -> dict[str, float]:
    """Return the debiased error of a model that is over-confident by `error` on every row."""
    level = min(accuracy + error, 0.995)
    if level > 0.5:
        share = 8 * (2 * level - 1)
        confidence = 0.5 + 0.5 * generator.beta(max(share, 0.05), max(8 - share, 0.05), rows)
    else:
        confidence = generator.beta(2, 2, rows)
    confidence = np.clip(confidence + accuracy + error - confidence.mean(), 0.01, 0.999999)
    correct = (generator.random(rows) < np.clip(confidence - error, 0, 1)).astype(float)
    found = debiased_calibration_error(confidence, correct)
    return {
        "accuracy_none": float(correct.mean()),
        f"{METRIC}_none": found.root,
        f"{METRIC}_squared_none": found.squared,
        f"{METRIC}_squared_none_low": found.squared_low,
        f"{METRIC}_squared_none_high": found.squared_high,
    }


def measured(
    datasets: tuple[Dataset, ...], families: tuple[int, int], accuracy_sd: float = ACCURACY_SD
) -> Callable[[Generator, float], Study]:
    """Return a drawer of studies of one checkpoint a family, seen through test rows.

    A dataset with a name that begins with + has families of its own, as texts and images have.
    """

    def draw(generator: Generator, ratio: float) -> Study:
        rows: list[dict[str, Any]] = []
        truth: list[float] = []
        for side, mixer in enumerate(MIXERS):
            for number in range(families[side]):
                level = generator.normal(0, FAMILY_SD)
                for place, data in enumerate(datasets):
                    own = data.name.startswith("+")
                    name = f"{mixer}-{number}" + (f"-{place}" if own else "")
                    level = generator.normal(0, FAMILY_SD) if own else level
                    log = level + generator.normal(0, RUN_SD) + np.log(ratio) * (1 - side)
                    accuracy = data.accuracy[side] + generator.normal(0, accuracy_sd)
                    error = data.error * float(np.exp(log))
                    with np.errstate(divide="ignore"):
                        truth.append(float(np.log(error)))
                    rows.append(
                        {"dataset": data.name, "model": name, "family": name, "mixer": mixer}
                        | measure(generator, data.rows, float(np.clip(accuracy, 0.3, 0.99)), error)
                    )
        parts = np.tile([FAMILY_SD, 0.0, RUN_SD], (len(rows), 1))
        return Study(
            pd.DataFrame(rows), np.array(truth), parts, float(np.log(ratio)), float(np.log(ratio))
        )

    return draw


# --- exact studies --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Structure:
    """How an exact study is built; pairs are (attention, convolution)."""

    families: tuple[int, int] = (8, 12)
    datasets: str = "ab"
    checkpoints: Counts = lambda generator, side, number: int(generator.integers(1, 5))
    family_sd: tuple[float, float] = (FAMILY_SD, FAMILY_SD)
    noise_sd: tuple[float, float] = (NOISE_SD, NOISE_SD)
    family_draw: Callable[[Generator], float] = lambda generator: float(generator.normal())
    present: Callable[[Generator, int, str], bool] = lambda generator, side, dataset: True
    size_shift: float = 0.0
    size_effect: float = 0.0
    size_family_sd: float = 0.0
    noise_by_size: float = 0.0
    dataset_sd: float = 0.0


def exact(structure: Structure) -> Callable[[Generator, float], Study]:
    """Return a drawer of studies whose log errors are known."""

    def draw(generator: Generator, ratio: float) -> Study:
        s = structure
        shifts = generator.normal(0, s.dataset_sd, len(s.datasets) + 1)
        rows: list[dict[str, Any]] = []
        truth, parts = [], []
        for side, mixer in enumerate(MIXERS):
            for number in range(s.families[side]):
                level = s.family_draw(generator) * s.family_sd[side]
                family_size = generator.normal(0, s.size_family_sd)
                for copy in range(s.checkpoints(generator, side, number)):
                    size = generator.normal() + family_size + s.size_shift * (1 - side)
                    own = generator.normal(0, CHECKPOINT_SD)
                    noise = s.noise_sd[side] * float(np.exp(s.noise_by_size * size))
                    met = [d for d in s.datasets if s.present(generator, side, d)]
                    for name in met or [s.datasets[-side]]:
                        log = level + own + s.size_effect * size + generator.normal(0, noise)
                        log += (1 - side) * (np.log(ratio) + shifts[s.datasets.index(name)])
                        truth.append(log)
                        parts.append([s.family_sd[side], CHECKPOINT_SD, noise])
                        rows.append(
                            {
                                "dataset": name,
                                "model": f"{mixer}-{number}-{copy}",
                                "family": f"{mixer}-{number}",
                                "mixer": mixer,
                                "log_parameters": size,
                                f"{METRIC}_none": float(np.exp(log)),
                            }
                        )
        return Study(
            pd.DataFrame(rows),
            np.array(truth),
            np.array(parts),
            float(np.log(ratio) + shifts[:-1].mean()),
            float(np.log(ratio) + shifts[-1]),
        )

    return draw


def _giant(generator: Generator, side: int, number: int) -> int:
    return 60 if side == number == 0 else int(generator.integers(1, 5))


def _separated(generator: Generator, side: int, dataset: str) -> bool:
    """Attention meets the first two datasets mostly, convolution the last two."""
    return bool(generator.random() < (0.8 if (dataset in "ab") == (side == 0) else 0.15))


def _one(generator: Generator, side: int, number: int) -> int:
    return 1


# --- the table ------------------------------------------------------------------------------------

_EQUAL, _HIGH, _APART, _NEAR = (0.85, 0.85), (0.93, 0.93), (0.75, 0.97), (0.85, 0.96)


def _measured_rows() -> Iterator[Row]:
    poor, good = Dataset("a", 1500, _HIGH, 0.008), Dataset("b", 8000, _EQUAL, 0.04)
    for count in (6, 12):
        name = f"a .008 (n 1,500), b .04 (n 8,000), {count}+{count}"
        yield Row(name, measured((poor, good), (count, count)), ratios=(1.0, 0.7, 2.5))
    fair = Dataset("b", 8000, _EQUAL, 0.06)
    zero = Dataset("a", 1500, _APART, 0.0)
    yield Row("a 0 (accuracy .75 v .97), b .06, 8+8", measured((zero, fair), (8, 8)))
    yield Row("a .008, b .06, 6+6", measured((poor, fair), (6, 6)))
    both = (Dataset("a", 1500, _APART, 0.02), Dataset("b", 3000, _APART, 0.02))
    yield Row("both .02, accuracy .75 v .97, 8+8", measured(both, (8, 8)))
    both = (Dataset("a", 3000, _NEAR, 0.02), Dataset("b", 3000, _NEAR, 0.02))
    yield Row("both .02, accuracy .85 v .96, 20+20", measured(both, (20, 20)))
    yield Row(
        ".012 (n 1,500), 8+8",
        measured((Dataset("a", 1500, _HIGH, 0.012),), (8, 8)),
        ratios=(1.0, 0.7, 2.0),
    )
    yield Row(
        ".01 (n 10,000), accuracy .75 v .97, 20+20",
        measured((Dataset("a", 10000, _APART, 0.01),), (20, 20)),
    )
    yield Row(
        ".005 (n 5,000), accuracy .85 v .96, 20+20",
        measured((Dataset("a", 5000, _NEAR, 0.005),), (20, 20)),
    )
    yield Row(
        ".04 (n 2,000), accuracy .72 v .88 (sd .02), 10+10",
        measured((Dataset("a", 2000, (0.72, 0.88), 0.04),), (10, 10), 0.02),
    )
    plain = (Dataset("a", 3000, _EQUAL, 0.05), Dataset("b", 3000, _EQUAL, 0.05))
    for count in (3, 5, 10):
        yield Row(f".05 on both, {count}+{count}", measured(plain, (count, count)))
    apart = (Dataset("+a", 8000, (0.73, 0.73), 0.07), Dataset("+b", 1500, (0.95, 0.95), 0.008))
    yield Row("+a .07, +b .008 (own families), 3+3 each", measured(apart, (3, 3)))


def _exact_rows() -> Iterator[Row]:
    base = Structure()
    size = ("log_parameters",)
    for name, changes, covariates in (
        ("8+12", {}, ()),
        ("2 v 20", {"families": (2, 20)}, ()),
        (
            "3 v 30, attention families vary twice as much",
            {"families": (3, 30), "family_sd": (0.6, 0.3)},
            (),
        ),
        (
            "3 v 30, convolution families vary twice as much",
            {"families": (3, 30), "family_sd": (0.3, 0.6)},
            (),
        ),
        ("8+8, attention families vary 3x", {"families": (8, 8), "family_sd": (0.6, 0.2)}, ()),
        ("one giant family (60 of 80)", {"families": (4, 6), "checkpoints": _giant}, ()),
        (
            "a giant family each side",
            {"families": (5, 5), "checkpoints": lambda g, side, number: 2 if number else 40},
            (),
        ),
        ("heavy-tailed families (t2)", {"family_draw": lambda g: 0.6 * g.standard_t(2)}, ()),
        (
            "skewed families (lognormal), 4+12",
            {"families": (4, 12), "family_draw": lambda g: (np.exp(g.normal()) - 1.6487) / 1.3},
            (),
        ),
        (
            "noise grows with size",
            {"noise_by_size": 0.7, "size_shift": 1.0, "size_effect": 0.3},
            size,
        ),
        ("noise 3x in attention, 6+14", {"families": (6, 14), "noise_sd": (0.9, 0.3)}, ()),
        ("size confounded, r .8", {"size_shift": 2.7, "size_effect": 0.3}, size),
        (
            "size is a family trait, r .8",
            {"size_shift": 2.7, "size_effect": 0.3, "size_family_sd": 1.0},
            size,
        ),
        (
            "incomplete crossing, 6 datasets, 6+10",
            {
                "families": (6, 10),
                "datasets": "abcdef",
                "present": lambda g, side, dataset: g.random() < 0.35,
            },
            (),
        ),
        (
            "missing by mixer, 4 datasets, 6+10",
            {"families": (6, 10), "datasets": "abcd", "present": _separated},
            (),
        ),
        (
            "one checkpoint a family, 1 dataset, 5+6",
            {"families": (5, 6), "datasets": "a", "checkpoints": _one},
            (),
        ),
    ):
        yield Row(name, exact(replace(base, **changes)), covariates)
    for datasets in ("ab", "abcdef"):
        structure = replace(base, datasets=datasets, dataset_sd=0.3)
        name = f"dataset by mixer sd .3, {len(datasets)} datasets"
        yield Row(f"{name}: these", exact(structure))
        yield Row(f"{name}: a new one", exact(structure), about="new")


def table_rows() -> list[Row]:
    """Return the rows of the table."""
    return [*_measured_rows(), *_exact_rows()]


# --- analyses -------------------------------------------------------------------------------------


def oracle(study: Study, covariates: tuple[str, ...], alpha: float = 0.05) -> bool:
    """Say whether a z test finds a difference from the true errors with the true variances."""
    known = np.isfinite(study.truth)
    frame, parts = study.frame[known], study.parts[known]
    covariance = np.diag(parts[:, 2] ** 2)
    for column, name in ((0, "family"), (1, "model")):
        same = frame[name].to_numpy()[:, None] == frame[name].to_numpy()
        covariance = covariance + same * np.outer(parts[:, column], parts[:, column])
    x = _columns(frame, covariates)
    solved = np.linalg.solve(covariance, x)
    spread = np.linalg.inv(x.T @ solved)
    estimate = spread[0] @ (solved.T @ study.truth[known])
    return bool(2 * stats.norm.sf(abs(estimate) / np.sqrt(spread[0, 0])) <= alpha)


def _columns(frame: pd.DataFrame, covariates: tuple[str, ...]) -> np.ndarray:
    datasets = frame["dataset"].to_numpy()
    first = (frame["mixer"] == MIXERS[0]).to_numpy(dtype=float)
    columns = [first, *(datasets[:, None] == np.unique(datasets)).T.astype(float)]
    return np.column_stack([*columns, *(frame[name].to_numpy() for name in covariates)])


def _as_rows(study: Study) -> pd.DataFrame:
    """Return a study in the shape of `load_results`, one seed."""
    facts = {"suite": "made-up", "split": "test", "shifted": False, "status": "completed"}
    return study.frame.assign(seed=0, **facts)


def analyse(study: Study, row: Row, whole: bool) -> dict[str, float]:
    """Analyse a study by the functions that analyse real ones; raise ClaimError if none can."""
    from benchmark.claim.data import squared_errors, with_variance_parts
    from benchmark.claim.design import build_design
    from benchmark.claim.effect import contrast_equation, label_exchange, ratio_interval
    from benchmark.claim.new_dataset import predict_new_dataset
    from benchmark.claim.verdict import judge

    claim = Claim(covariates=row.covariates)  # type: ignore[arg-type]
    clean = with_variance_parts(_as_rows(study))  # one seed each: nothing to average
    errors = squared_errors(clean, METRIC, "none")
    design = build_design(clean, errors.squared, claim, row.covariates)
    equation = contrast_equation(clean, errors, design)
    found: dict[str, float] = {"ratio": equation.estimate()}
    if row.about == "new":
        datasets = clean.iloc[design.rows]["dataset"].to_numpy(dtype=str)
        interval, _ = predict_new_dataset(equation, datasets, claim.alpha)
        assert interval is not None
        covers = interval.low <= np.exp(study.next_ratio) <= interval.high
        decided = not interval.low <= 1 <= interval.high
        return found | {"decided": decided, "coverage": covers, "exchange": np.nan}
    found["decided"] = equation.test(0.0).rejects(claim.alpha)
    found["coverage"] = not equation.test(study.own_ratio).rejects(claim.alpha)
    exchange = label_exchange(clean, claim, design, equation).test()
    found["exchange"] = exchange.p_value <= claim.alpha
    found["verdict"] = found["decided"] and found["exchange"]
    if whole:
        interval = ratio_interval(equation, claim.alpha)
        outcome = judge(claim, interval)
        agree = (not interval.low <= 1 <= interval.high) == found["decided"]
        found |= {"agree": agree, "unbounded": interval.low == 0 or np.isinf(interval.high)}
        found["equivalent"] = outcome == "equivalent"
    return found


def analyse_old(study: Study, row: Row, whole: bool) -> dict[str, float]:
    """Analyse a study by the former test: needs its code (commit a08831a) on PYTHONPATH."""
    from benchmark.claim.data import checkpoints, log_outcomes
    from benchmark.claim.design import build_design
    from benchmark.claim.effect import estimate_effect, permute_labels
    from benchmark.claim.result import VarianceShares
    from benchmark.claim.verdict import decide

    claim = Claim(covariates=row.covariates)  # type: ignore[arg-type]
    clean = checkpoints(_as_rows(study))
    for name in row.covariates:
        known = study.frame.drop_duplicates("model").set_index("model")[name]
        clean[name] = clean["model"].map(known)
    outcomes = log_outcomes(clean, METRIC, "none")
    design = build_design(clean, outcomes.values, claim, row.covariates)
    effect = estimate_effect(clean, outcomes, claim, METRIC, "none", design)
    permutation = permute_labels(clean, outcomes, claim, design)
    verdict = decide(claim, effect, None, permutation, None, VarianceShares())
    truth = np.exp(study.next_ratio if row.about == "new" else study.own_ratio)
    return {
        "ratio": float(np.log(effect.estimate.ratio)),
        "decided": effect.estimate.low > 1 or effect.estimate.high < 1,
        "verdict": verdict.outcome in ("supported", "contradicted"),
        "coverage": effect.estimate.low <= truth <= effect.estimate.high,
        "exchange": permutation.p_value <= claim.alpha,
    }


def run(row: Row, ratio: float, studies: int, old: bool) -> dict[str, str]:
    """Draw and analyse studies of one row; one that cannot show the contrast is drawn again."""
    from benchmark.claim.data import ClaimError

    found: list[dict[str, float]] = []
    started, seed, analysis = time.process_time(), 0, analyse_old if old else analyse
    spent = 0.0
    while len(found) < studies:
        study = row.draw(np.random.default_rng([14, seed]), ratio)
        seed += 1
        began = time.process_time()
        try:
            result = analysis(study, row, len(found) < WITH_INTERVALS)
        except ClaimError:
            continue
        spent += time.process_time() - began
        if row.about != "new":
            result["oracle"] = oracle(study, row.covariates)
        found.append(result)
    table = pd.DataFrame(found).astype(float)
    mean = table.mean()
    median = float(np.exp(table["ratio"].median()))
    text = {"study": row.name, "true ratio": f"{ratio:g}", "estimate": f"{median:.2f}"}
    for name in (*COLUMNS[3:], "unbounded", "equivalent", "agree"):
        if name in mean and np.isfinite(mean[name]):
            text[name] = f"{100 * mean[name]:.1f}"
    return text | {
        "ms": f"{1000 * spent / len(found):.1f}",
        "s": f"{time.process_time() - started:.0f}",
    }


COLUMNS = (
    "study",
    "true ratio",
    "estimate",
    "coverage",
    "decided",
    "exchange",
    "verdict",
    "oracle",
)
MORE = ("unbounded", "equivalent", "agree", "ms", "s")


def main() -> int:
    """Print the table's rows as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000, help="studies a row")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--kind", choices=("measured", "exact"), help="one kind of study")
    parser.add_argument("--old", action="store_true", help="the former test (see above)")
    options = parser.parse_args()
    from benchmark.claim import permutation

    permutation.MAX_EXACT = permutation.RANDOM_ASSIGNMENTS = LABELLINGS
    columns = (*COLUMNS, *MORE)
    print(f"| {' | '.join(columns)} |\n| :-- |{' --: |' * (len(columns) - 1)}", flush=True)
    kinds = {"measured": _measured_rows, "exact": _exact_rows}
    rows = table_rows() if options.kind is None else kinds[options.kind]()
    for row in rows:
        if options.only in row.name:
            for ratio in row.ratios:
                found = run(row, ratio, options.studies, options.old)
                print(f"| {' | '.join(found.get(name, '') for name in columns)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
