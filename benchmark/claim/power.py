"""What the verdict could have found, and how many families would decide the claim."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
from scipy import optimize, stats

from benchmark.claim.estimating_equation import (
    ContrastTest,
    EstimatingEquation,
    Linearised,
    robust_rows,
)
from benchmark.claim.measurement import Matrix
from benchmark.claim.permutation import LabelExchange
from benchmark.claim.result import Effect, Power
from benchmark.registry import Claim

POWER = 0.8
STUDIES = 1_000
LABELLINGS = 400
"""Tried in each simulated study."""
LARGEST_EFFECT = 4.0
"""A log ratio (55 times) beyond which a detectable effect is of no use to anybody."""
WIDENING = 1.3
"""Steps upward in search of a detectable effect grow by this factor."""
MOST_FAMILIES = 2_000


def power_of(
    claim: Claim,
    effect: Effect,
    equation: EstimatingEquation,
    exchange: LabelExchange,
    seed: int = 0,
) -> Power:
    """Simulate the verdict on the design at the observed variances and noise.

    A study is decided when the interval excludes 1 and the exchange of labels rejects. More
    families are taken to be like these: standard errors fall with the root of their number, and
    the exchange goes on to ask for as much more than the interval as it does now.
    """
    families = sum(effect.families.values())
    observed = equation.estimate()
    tested = equation.test(observed) if np.isfinite(observed) else None
    by_interval, by_verdict = detectable_effects(equation, exchange, claim.alpha, seed)
    more = 1.0 if by_verdict is None or by_interval is None else by_verdict / by_interval
    share = effect.families[claim.contrast[0]] / families

    def difference(count: int) -> float:
        if _least_p(count, share) > claim.alpha:
            return 0.0
        return _power_of_difference(claim, tested, observed / more, count / families)

    return Power(
        power=POWER,
        smallest_detectable_ratio=None if by_verdict is None else float(np.exp(-by_verdict)),
        studies=STUDIES,
        families_now=families,
        families_for_observed_effect=_search(families, difference),
        families_for_equivalence=_search(
            families, lambda count: _power_of_equivalence(claim, tested, count / families)
        ),
    )


def detectable_effects(
    equation: EstimatingEquation, exchange: LabelExchange, alpha: float, seed: int
) -> tuple[float | None, float | None]:
    """Return the smallest absolute log ratios found with probability `POWER`.

    By the interval alone and by the whole verdict; None: not found at any size. The interval
    excludes 1 when |d + e| > t s, with e a study's error, s its standard error and t its quantile.
    None of the three depends on the effect d, so one set of simulated studies serves all effects.
    """
    at = equation.at(0.0)
    rows = robust_rows(equation, at, 0)
    noise = _null_residuals(equation, at, np.random.default_rng(seed))
    steps = rows.direction @ noise
    measuring = float((rows.direction**2 * at.noise).sum())
    variance = np.maximum(((rows.clusters @ noise) ** 2).sum(axis=0), measuring)
    reach = float(stats.t.ppf(1 - alpha / 2, rows.df)) * np.sqrt(variance)
    # The noise is symmetric, so each study stands for its mirror image too.
    by_interval = float(np.quantile(np.concatenate([reach + steps, reach - steps]), POWER))
    if not by_interval < LARGEST_EFFECT:
        return None, None
    few = exchange.thinned(LABELLINGS, seed)

    def lack(size: float) -> float:
        excluded = np.flatnonzero(np.abs(steps + size) > reach)
        shift = size * at.x[:, 0]
        decided = sum(few.p_value(noise[:, study] + shift) <= alpha for study in excluded)
        return POWER - decided / STUDIES

    size = by_interval
    while lack(size) > 0:
        size *= WIDENING
        if size > LARGEST_EFFECT:
            return by_interval, None
    if size == by_interval:
        return by_interval, by_interval
    found = optimize.brentq(lack, size / WIDENING, size, xtol=0.02)
    return by_interval, float(found)


def _least_p(families: int, share: float) -> float:
    """Return the least p value of an exchange among families, a share of them of one mixer."""
    first = min(max(round(families * share), 1), families - 1)
    return (2 if 2 * first == families else 1) / comb(families, first)


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
