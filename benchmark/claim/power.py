"""What a design could have found, and how many families would decide the claim."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
from scipy import stats

from benchmark.claim.design import Design
from benchmark.claim.mixed_model import Vector
from benchmark.claim.result import Effect, Permutation, Power
from benchmark.registry import Claim

POWER = 0.8
STUDIES = 200
MOST_FAMILIES = 2_000


def power_of(
    claim: Claim, effect: Effect, design: Design, permutation: Permutation, seed: int = 0
) -> Power:
    """Simulate the design at the observed variances.

    A study detects an effect d when |d + e| > t s, with e its error, s its standard error
    and t its quantile. None of the three depends on d, so one set of simulated studies without an
    effect serves all effects: the detectable effect is the quantile of t s + e at the
    wanted power. Where no labelling of the families can reach alpha, nothing is detectable.
    """
    families = sum(effect.families.values())
    reachable = permutation.smallest_p <= claim.alpha
    return Power(
        power=POWER,
        smallest_detectable_ratio=(
            float(np.exp(-detectable_effect(claim, effect, design, seed))) if reachable else None
        ),
        studies=STUDIES,
        families_now=families,
        families_for_observed_effect=_search(
            families, lambda count: _power_of_difference(claim, effect, families, count)
        ),
        families_for_equivalence=_search(
            families, lambda count: _power_of_equivalence(claim, effect, families, count)
        ),
    )


def detectable_effect(claim: Claim, effect: Effect, design: Design, seed: int) -> float:
    """Return the smallest absolute log ratio found with probability `POWER`."""
    generator = np.random.default_rng(seed)
    needed = []
    for y in _null_outcomes(effect, design, generator):
        tested = design.fit(y).test(0, claim.alpha)
        reach = (tested.high - tested.low) / 2
        # The noise is symmetric, so each study stands for its mirror image too.
        needed += [reach + tested.estimate, reach - tested.estimate]
    return float(np.quantile(needed, POWER))


def _null_outcomes(effect: Effect, design: Design, generator: np.random.Generator) -> Vector:
    nesting = design.nesting
    rows = len(nesting.family)
    noise = effect.residual_sd * generator.standard_normal((STUDIES, rows))
    for deviation, codes in (
        (effect.family_sd, nesting.family),
        (effect.checkpoint_sd, nesting.checkpoint),
    ):
        if deviation:
            levels = generator.standard_normal((STUDIES, codes.max() + 1))
            noise = noise + deviation * levels[:, codes]
    return noise


def _scaled(effect: Effect, families: int, count: int, alpha: float) -> tuple[float, float]:
    """Return the standard error and degrees of freedom of `count` such families."""
    interval = effect.estimate
    half_width = np.log(interval.high / interval.low) / 2
    standard_error = half_width / stats.t.ppf(1 - alpha / 2, interval.df)
    return float(standard_error * np.sqrt(families / count)), interval.df + count - families


def _power_of_difference(claim: Claim, effect: Effect, families: int, count: int) -> float:
    """Return the power against the observed effect, 0 where labels are too few for alpha."""
    if 2 / comb(count, count // 2) > claim.alpha:
        return 0.0
    standard_error, df = _scaled(effect, families, count, claim.alpha)
    shift = abs(np.log(effect.estimate.ratio)) / standard_error
    critical = stats.t.ppf(1 - claim.alpha / 2, df)
    return float(stats.nct.sf(critical, df, shift))


def _power_of_equivalence(claim: Claim, effect: Effect, families: int, count: int) -> float:
    """Return the chance that the interval lies inside the margin when there is no effect."""
    standard_error, df = _scaled(effect, families, count, claim.alpha)
    critical = stats.t.ppf(1 - claim.alpha / 2, df)
    room = np.log(claim.equivalence_ratio) / standard_error - critical
    return float(2 * stats.t.cdf(room, df) - 1)


def _search(families: int, power: Callable[[int], float]) -> int | None:
    """Return the least number of families, from `families` up, with the wanted power."""
    low, high = families, MOST_FAMILIES
    if not power(high) >= POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        if power(middle) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low
