"""Does the test keep its promises? Made-up studies with a known effect, analysed as real ones.

A study has families of two mixers, one to four checkpoints each, two datasets with some runs
missing, a family effect as variable as the noise, and in half of the designs a checkpoint
effect and two covariates that differ between mixers and matter for the outcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.data import ClaimError, Outcomes
from benchmark.claim.design import build_design
from benchmark.claim.effect import estimate_effect, permute_labels
from benchmark.claim.mixed_model import fit_least_squares
from benchmark.claim.result import VarianceShares
from benchmark.claim.verdict import decide
from benchmark.markup import Cell, Column, Table
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd

NOISE_SD = 0.3
"""Of log errors, between runs of one checkpoint; families vary as much."""
MISSING_RUNS = 0.1
TRUE_RATIO = 0.7


@dataclass(frozen=True)
class StudyDesign:
    """What a simulated study looks like; `ratio` is the true effect."""

    name: str
    families: tuple[int, int]
    covariates: bool = False
    ratio: float = 1.0


@dataclass(frozen=True)
class StudyOutcome:
    """What the tests said of one study."""

    mixed_p: float
    robust_p: float
    permutation_p: float
    permutation_p_randomised: float
    naive_p: float
    covered: bool
    robust_covered: bool
    decided: bool


def study_designs() -> list[StudyDesign]:
    """Return the designs of the validation table, without an effect."""
    sizes = {6: (3, 3), 10: (4, 6), 20: (8, 12)}
    return [
        StudyDesign(f"{count} families, {label}", families, covariates)
        for covariates, label in ((False, "no covariates"), (True, "confounded covariates"))
        for count, families in sizes.items()
    ]


def draw_study(
    design: StudyDesign, generator: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return averaged rows, as `checkpoints` would, and their log errors."""
    import pandas as pd

    rows, outcomes = [], []
    for side, mixer in enumerate(("attention", "convolution")):
        effect = np.log(design.ratio) if mixer == "attention" else 0.0
        for number in range(design.families[side]):
            family = generator.normal(0, NOISE_SD)
            for copy in range(generator.integers(1, 5)):
                size, error, checkpoint = generator.normal(0, 1, 3)
                size += 1 - side
                level = effect + family
                if design.covariates:
                    level += NOISE_SD * (checkpoint + size + error) / 2
                for dataset in ("first", "second"):
                    if dataset == "second" and generator.random() < MISSING_RUNS:
                        continue
                    rows.append(
                        {
                            "dataset": dataset,
                            "model": f"{mixer}-{number}-{copy}",
                            "family": f"{mixer}-{number}",
                            "mixer": mixer,
                            "log_parameters": size,
                            "test_error": error,
                        }
                    )
                    outcomes.append(level + generator.normal(0, NOISE_SD))
    return pd.DataFrame(rows), np.array(outcomes)


def analyse(
    frame: pd.DataFrame, y: np.ndarray, design: StudyDesign, tie_breaker: float
) -> StudyOutcome:
    """Analyse a study with the code that analyses real ones, and with the naive regression."""
    claim = Claim(covariates=("log_parameters", "test_error") if design.covariates else ())
    outcomes = Outcomes(y, np.zeros(len(y), dtype=bool))
    chosen = build_design(frame, y, claim)
    effect = estimate_effect(frame, outcomes, claim, "simulated", "none", chosen)
    permutation = permute_labels(frame, outcomes, claim, chosen)
    verdict = decide(claim, effect, None, permutation, None, VarianceShares())
    # Ties included only in part: exactly uniform without an effect, whatever the granularity.
    below = permutation.p_value - permutation.tied
    return StudyOutcome(
        mixed_p=effect.estimate.p_value,
        robust_p=effect.cluster_robust.p_value,
        permutation_p=permutation.p_value,
        permutation_p_randomised=below + tie_breaker * permutation.tied,
        naive_p=fit_least_squares(y[chosen.rows], chosen.x, 0).p_value,
        covered=effect.estimate.low <= design.ratio <= effect.estimate.high,
        robust_covered=effect.cluster_robust.low <= design.ratio <= effect.cluster_robust.high,
        decided=verdict.outcome in ("supported", "contradicted"),
    )


def run_studies(design: StudyDesign, studies: int, seed: int) -> list[StudyOutcome]:
    """Simulate and analyse `studies` studies; one that cannot show the contrast is redrawn."""
    generator = np.random.default_rng(seed)
    outcomes: list[StudyOutcome] = []
    while len(outcomes) < studies:
        frame, y = draw_study(design, generator)
        try:
            outcomes.append(analyse(frame, y, design, generator.random()))
        except ClaimError:
            continue
    return outcomes


def rates(outcomes: list[StudyOutcome], alpha: float = 0.05) -> dict[str, float]:
    """Return rejection rates at `alpha`, coverage and decisions, as fractions of the studies."""
    p_values = {
        "mixed model": [item.mixed_p for item in outcomes],
        "cluster-robust": [item.robust_p for item in outcomes],
        "label exchange": [item.permutation_p for item in outcomes],
        "label exchange, ties broken": [item.permutation_p_randomised for item in outcomes],
        "naive regression": [item.naive_p for item in outcomes],
    }
    rejected = {name: float(np.mean(np.array(p) <= alpha)) for name, p in p_values.items()}
    return rejected | {
        "coverage": float(np.mean([item.covered for item in outcomes])),
        "robust coverage": float(np.mean([item.robust_covered for item in outcomes])),
        "decided": float(np.mean([item.decided for item in outcomes])),
    }


def simulate(studies: int = 1000, seed: int = 0) -> str:
    """Return the validation table as markdown: `studies` studies for each design and effect."""
    lines = [
        _summary_table(designs, studies, seed, f"true ratio {ratio:g}")
        for ratio in (1.0, TRUE_RATIO)
        for designs in [[replace(design, ratio=ratio) for design in study_designs()]]
    ]
    return "\n".join(lines)


def _summary_table(designs: list[StudyDesign], studies: int, seed: int, label: str) -> str:
    rows = list(_table_rows(designs, studies, seed))
    columns = [Column(name, name, "left" if name == "design" else "right") for name in rows[0]]
    cells = [tuple(Cell(text) for text in row.values()) for row in rows]
    title = f"Rejections at 5% and coverage of 95% intervals, {label}, {studies:,} studies a row:"
    return f"{title}\n\n{Table(tuple(columns), cells).to_markdown()}"


def _table_rows(designs: list[StudyDesign], studies: int, seed: int) -> Iterator[dict[str, str]]:
    for design in designs:
        found = rates(run_studies(design, studies, seed))
        yield {"design": design.name} | {name: f"{value:.1%}" for name, value in found.items()}
