"""What the verdict's interval could have found, and how many families would decide the claim."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from benchmark.claim.estimating_equation import (
    ContrastTest,
    EstimatingEquation,
    Linearised,
    robust_rows,
)
from benchmark.claim.measurement import Matrix
from benchmark.claim.result import Effect, Power
from benchmark.registry import Claim

POWER = 0.8
STUDIES = 1_000
MOST_FAMILIES = 2_000


def power_of(claim: Claim, effect: Effect, equation: EstimatingEquation, seed: int = 0) -> Power:
    """Simulate the verdict's test on the design at the observed variances and noise.

    A study finds an effect d when |d + e| > t s, with e its error, s its standard error and t its
    quantile. None of the three depends on d, so one set of simulated studies without an effect
    serves all effects: the detectable effect is the quantile of t s + e at the wanted power. More
    families are taken to be like these: the standard error falls with the root of their number.
    """
    families = sum(effect.families.values())
    observed = equation.estimate()
    tested = equation.test(observed) if np.isfinite(observed) else None
    detectable = detectable_effect(equation, claim.alpha, seed)
    return Power(
        power=POWER,
        smallest_detectable_ratio=float(np.exp(-detectable)),
        studies=STUDIES,
        families_now=families,
        families_for_observed_effect=_search(
            families, lambda count: _power_of_difference(claim, tested, observed, count / families)
        ),
        families_for_equivalence=_search(
            families, lambda count: _power_of_equivalence(claim, tested, count / families)
        ),
    )


def detectable_effect(equation: EstimatingEquation, alpha: float, seed: int) -> float:
    """Return the smallest absolute log ratio found with probability `POWER`."""
    at = equation.at(0.0)
    rows = robust_rows(equation, at, 0)
    noise = _null_residuals(equation, at, np.random.default_rng(seed))
    steps = rows.direction @ noise
    measuring = float((rows.direction**2 * at.noise).sum())
    variance = np.maximum(((rows.clusters @ noise) ** 2).sum(axis=0), measuring)
    reach = float(stats.t.ppf(1 - alpha / 2, rows.df)) * np.sqrt(variance)
    # The noise is symmetric, so each study stands for its mirror image too.
    return float(np.quantile(np.concatenate([reach + steps, reach - steps]), POWER))


def _null_residuals(
    equation: EstimatingEquation, at: Linearised, generator: np.random.Generator
) -> Matrix:
    """Return working residuals [n, studies] of the working covariance."""
    sigma, family, checkpoint = equation.correlation
    noise = np.sqrt(at.own)[:, None] * generator.standard_normal((len(at.own), STUDIES))
    for share, codes in (
        (family, equation.sums.family),
        (checkpoint, equation.sums.checkpoint),
    ):
        levels = generator.standard_normal((codes.max() + 1, STUDIES))
        noise = noise + sigma * np.sqrt(share) * levels[codes]
    return noise


def _power_of_difference(
    claim: Claim, tested: ContrastTest | None, observed: float, times: float
) -> float:
    """Return the power against the observed effect with `times` as many families."""
    if tested is None:
        return 0.0
    df = tested.df * times
    shift = abs(observed) / tested.standard_error * np.sqrt(times)
    return float(stats.nct.sf(stats.t.ppf(1 - claim.alpha / 2, df), df, shift))


def _power_of_equivalence(claim: Claim, tested: ContrastTest | None, times: float) -> float:
    """Return the chance that the interval lies inside the margin when there is no effect."""
    if tested is None:
        return 0.0
    df = tested.df * times
    room = np.log(claim.equivalence_ratio) / tested.standard_error * np.sqrt(times)
    return float(2 * stats.t.cdf(room - stats.t.ppf(1 - claim.alpha / 2, df), df) - 1)


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
