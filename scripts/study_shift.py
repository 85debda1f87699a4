"""Does the test of the contrast under shift keep its promises? Made-up studies, as real ones.

    python scripts/study_shift.py --studies 400

Every model is seen through simulated test rows, clean and under three kinds of shift at three
severities. Shift raises log errors by a step for each severity; models depart from it by what
their family, they themselves, and each run add. `change` is the true ratio under shift over the
clean one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
from study_claim import METRIC, MIXERS, measure

from benchmark.claim.data import ClaimError
from benchmark.claim.shift_passage import differs
from benchmark.claim.shift_test import shift_effect
from benchmark.registry import Claim

KINDS, SEVERITIES = ("noise", "blur", "rotation"), (1, 2, 3)
FAMILY_SD, MODEL_SD, RUN_SD = 0.3, 0.15, 0.15
"""Of log errors, shared by all rows of a family, of a model, and of none."""
SHIFT_FAMILY_SD, SHIFT_MODEL_SD = 0.2, 0.15
"""Of how much more or less than others a family, or a model, is moved by shift."""
ALPHA = 0.05


@dataclass(frozen=True)
class Row:
    """One row of the table: families (or pairs) a side, clean error, rows, accuracy by mixer."""

    name: str
    families: tuple[int, int] = (6, 6)
    models: int = 1
    error: float = 0.03
    rows: tuple[int, int] = (1500, 500)
    accuracy: tuple[float, float] = (0.9, 0.9)
    clean_ratio: float = 1.0
    spread: tuple[float, float] = (1.0, 1.0)
    twins: bool = False


ROWS = (
    Row("6 + 6 families"),
    Row("6 + 6, attention's clean errors half as large", clean_ratio=0.5),
    Row("4 + 4 families of two models", families=(4, 4), models=2),
    Row("3 + 3 families", families=(3, 3)),
    Row("4 + 10 families", families=(4, 10)),
    Row("6 + 6, clean errors near the noise (.012)", error=0.012),
    Row("6 + 6, accuracy .75 v .95", accuracy=(0.75, 0.95)),
    Row("8 + 8, shift moves attention families 3x as unlike", families=(8, 8), spread=(3.0, 1.0)),
    Row("9 pairs of twins", families=(9, 9), twins=True),
)


def draw(generator: np.random.Generator, row: Row, change: float) -> pd.DataFrame:
    """Return one study in the shape of `checkpoints`."""
    shared = generator.normal(0, FAMILY_SD, max(row.families))
    found = []
    for side, mixer in enumerate(MIXERS):
        for number in range(row.families[side]):
            level = shared[number] if row.twins else generator.normal(0, FAMILY_SD)
            moved = generator.normal(0, SHIFT_FAMILY_SD) * row.spread[side]
            for copy in range(row.models):
                own = generator.normal(0, MODEL_SD)
                own_moved = moved + generator.normal(0, SHIFT_MODEL_SD)
                first = 1 - side
                facts = {
                    "dataset": "data",
                    "model": f"{mixer}-{number}-{copy}",
                    "family": f"{number}" if row.twins else f"{mixer}-{number}",
                    "mixer": mixer,
                }
                for split in ("test", *(f"{kind}-{s}" for kind in KINDS for s in SEVERITIES)):
                    severity = 0 if split == "test" else int(split[-1])
                    log = level + own + generator.normal(0, RUN_SD)
                    log += first * np.log(row.clean_ratio)
                    if severity:
                        log += 0.4 * severity + own_moved + first * np.log(change)
                    accuracy = max(row.accuracy[side] - 0.05 * severity, 0.4)
                    error = min(row.error * float(np.exp(log)), 0.4)
                    rows = row.rows[0 if severity == 0 else 1]
                    found.append(
                        facts
                        | {"split": split, "shifted": severity > 0}
                        | measure(generator, rows, accuracy, error)
                    )
    return with_variances(pd.DataFrame(found))


def with_variances(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the study with the parts of the variance of its squares, as `checkpoints` has them."""
    from benchmark.claim.data import with_variance_parts

    return with_variance_parts(frame)


def line_of(row: Row, change: float, studies: int) -> str:
    """Simulate one row of the table."""
    estimates, covered, excluded, exchanged, said, failed = [], 0, 0, 0, 0, 0
    claim, unit = Claim(alpha=ALPHA), "twins" if row.twins else "family"
    for seed in range(studies):
        frame = draw(np.random.default_rng([seed, ROWS.index(row)]), row, change)
        try:
            effect = shift_effect(frame, claim, METRIC, "none", unit)
        except ClaimError:
            failed += 1
            continue
        estimates.append(effect.estimate.ratio)
        covered += effect.estimate.low <= change <= effect.estimate.high
        excluded += effect.estimate.p_value <= ALPHA
        exchanged += effect.permutation.p_value <= ALPHA
        said += differs(effect, ALPHA)
    done = studies - failed
    shares = (f"{100 * count / done:.1f}" for count in (covered, excluded, exchanged, said))
    return f"| {row.name} | {change:g} | {np.median(estimates):.2f} | {' | '.join(shares)} |"


def main() -> None:
    """Parse arguments and print rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--changes", default="1,1.6", help="true changes of the ratio")
    parser.add_argument("--only", help="rows whose name contains this")
    options = parser.parse_args()
    print("| study | true change | estimate | coverage % | interval % | exchange % | said % |")
    print("| --- | --: | --: | --: | --: | --: | --: |", flush=True)
    for row in ROWS:
        if options.only and options.only not in row.name:
            continue
        for change in map(float, options.changes.split(",")):
            print(line_of(row, change, options.studies), flush=True)


if __name__ == "__main__":
    main()
