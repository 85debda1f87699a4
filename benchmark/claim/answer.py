"""The verdict in sentences: the answer, how sure it is, what would settle it; then the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmark.claim.result import (
    Effect,
    Outcome,
    Permutation,
    Power,
    RatioInterval,
    Unit,
    when,
)
from benchmark.claim.wording import (
    SMALLEST_P,
    covariate_name,
    level_text,
    limits_text,
    p_statement,
    range_text,
    ratio_text,
    size_text,
    times_text,
    units_text,
)
from benchmark.markup import plural
from benchmark.registry import Claim

FAMILIES_THAT_EXIST = 100
"""Attention and convolution families that have been published, in round numbers: the 1,116 ImageNet
classifiers of timm are of 89 (docs/examples/imagenet_timm_columns.yaml). A study of published
models that needs more cannot be made."""
MANY_TIMES = 10
"""More than this many times the pairs of twins there are is said as that."""


def without_estimate(claim: Claim, reason: str) -> tuple[str, str, str]:
    """Return the three sentences where the contrast could not be estimated."""
    first, second = claim.contrast
    return (
        f"Undecided: whether {first} or {second} models are better calibrated cannot be told from"
        " these models.",
        f"There is no estimate, because {reason}.",
        f"To settle it takes several families of {first} and of {second} models with calibration"
        " errors on the same datasets.",
    )


def answer(claim: Claim, effect: Effect, outcome: Outcome) -> str:
    """Return the one sentence that answers; it stands alone."""
    first, second = claim.contrast
    is_twins = effect.unit == "twins"
    rivals = f"their {second} twins" if is_twins else f"{second} models"
    margin = f"{100 * (claim.equivalence_ratio - 1):.0f}%"
    told = {
        "supported": f"better calibrated than {rivals}",
        "contradicted": f"worse calibrated than {rivals}",
        "equivalent": f"calibrated like {rivals}, to within {margin}",
        "undecided": f"not shown to be better or worse calibrated than {rivals}",
    }
    given = f" and at equal {_enumerated(effect.covariates)}" if effect.covariates else ""
    return (
        f"{outcome.capitalize()}: on {_datasets(effect)}, {when(effect.map)} temperature"
        f" scaling{given}, {first} models are {told[outcome]}."
    )


def _datasets(effect: Effect) -> str:
    """Name the datasets that the estimate is about: one or two by name."""
    names = [item.dataset for item in effect.datasets if item.estimate or not item.problem]
    if not names:
        return "this dataset"
    return " and ".join(names) if len(names) < 3 else f"these {len(names)} datasets"


def how_sure(
    claim: Claim, effect: Effect, outcome: Outcome, permutation: Permutation | None
) -> str:
    """Return the sentence that says what chance would do with as many families, or twins."""
    units, interval = size_text(effect.unit, effect.families), effect.estimate
    if outcome == "equivalent":
        margin = f"{100 * (claim.equivalence_ratio - 1):.0f}%"
        return (
            f"With {units}, a difference of more than {margin} is excluded at the"
            f" {level_text(claim.alpha)} level."
        )
    p = max(interval.p_value, 0.0 if permutation is None else permutation.p_value)
    if interval.low == 0 and math.isinf(interval.high):
        return f"With {units}, no difference at all can be excluded."
    if outcome != "undecided":
        return (
            f"It is hardly chance: with {units}, chance alone gives a difference as large in"
            f" {_frequency(p)} such studies."
        )
    doubt = "It may be chance" if p < 0.3 else "It may well be chance"
    return (
        f"{doubt}: with {units}, chance alone gives a difference as large in {_frequency(p)} such"
        f" studies{_what_fits(claim, interval)}{_too_few(claim, effect.unit, permutation)}."
    )


def _frequency(p: float) -> str:
    """Return how often something of that probability happens, as a share of studies.

    >>> _frequency(0.24), _frequency(0.013), _frequency(0.72), _frequency(1e-6), _frequency(0.99)
    ('about 1 of 4', 'about 1 of 77', 'about 7 of 10', 'fewer than 1 of 10,000', 'nearly all')
    """
    if p < SMALLEST_P:
        return f"fewer than 1 of {round(1 / SMALLEST_P):,}"
    if p < 0.3:
        return f"about 1 of {round(1 / p):,}"
    return "nearly all" if p >= 0.95 else f"about {round(10 * p)} of 10"


def _what_fits(claim: Claim, interval: RatioInterval) -> str:
    """Return which true differences fit the data, to go on with a sentence; empty: no doubt."""
    if interval.high < 1 or interval.low > 1:
        return ""  # what casts doubt is the exchange of labels, which gives no interval
    low, high = _change(interval.low), _change(interval.high)
    return f", and the errors of {claim.contrast[0]} models may truly be from {low} to {high}"


def _too_few(claim: Claim, unit: Unit, permutation: Permutation | None) -> str:
    if permutation is None or permutation.smallest_p <= claim.alpha:
        return ""
    nouns = "pairs" if unit == "twins" else "families"
    return f"; so few {nouns} could not have settled it whatever they showed"


def _change(ratio: float) -> str:
    """Return a ratio as a change.

    >>> _change(0.68), _change(1.1), _change(2.34), _change(0.0), _change(0.999)
    ('32% lower', '10% higher', '2.3 times as high', 'any amount lower', 'the same')
    """
    if ratio <= 0:
        return "any amount lower"
    if math.isinf(ratio):
        return "any amount higher"
    if ratio >= 2:
        return f"{ratio:.1f} times as high" if ratio < 10 else f"{ratio:,.0f} times as high"
    percent = round(100 * abs(ratio - 1))
    return f"{percent}% {'lower' if ratio < 1 else 'higher'}" if percent else "the same"


def what_would_settle(effect: Effect, outcome: Outcome, power: Power | None) -> str:
    """Return the sentence that says what it would take, or what is left open."""
    is_twins = effect.unit == "twins"
    if outcome == "equivalent":
        return "What is left open is other datasets and other kinds of models."
    if outcome != "undecided":
        if is_twins:
            return (
                "What is left open is larger or otherwise trained models: twins of that kind would"
                " settle it."
            )
        return (
            "What is left open is the cause, for families differ in more than the mixer: pairs of"
            " models that differ in nothing else (twins) would settle it."
        )
    if 2 * effect.unresolved > effect.contrast_rows:
        return (
            f"Larger test sets would settle it first: {effect.unresolved} of {effect.contrast_rows}"
            " errors are too small to be told from zero on these rows, which no number of"
            f" {'pairs' if is_twins else 'families'} mends."
        )
    return _more_units(power, effect.unit)


def _more_units(power: Power | None, unit: Unit) -> str:
    """Say what more families, or twins, would decide, and whether there can be so many."""
    if power is None:
        return "More families of both mixers would settle it."
    real, none = (
        _needed(power.families_now, count, unit)
        for count in (power.families_for_observed_effect, power.families_for_equivalence)
    )
    if real is None and none is None:
        return _beyond_reach(unit)
    beyond = "more families than exist"
    if unit == "twins":
        beyond = f"more than {MANY_TIMES} times as many"
    if real is None:
        return (
            f"To show that there is no difference takes {none}; to show one as small as that seen,"
            f" if it is real, takes {beyond}."
        )
    return (
        f"If the difference seen is real, to show it takes {real}; if there is none, to show that"
        f" takes {none or beyond}."
    )


def _needed(now: int, count: int | None, unit: Unit) -> str | None:
    """Return in words how many it takes; None: more than there can be."""
    if count is not None and count <= now:
        return "another study of this size"
    if count is None or count > (MANY_TIMES * now if unit == "twins" else FAMILIES_THAT_EXIST):
        return None
    more = units_text(unit, count - now).replace(" ", " more ", 1)
    return f"about {more} like these"


def _beyond_reach(unit: Unit) -> str:
    if unit == "twins":
        return (
            f"Whether it is small or nothing, to show it takes more than {MANY_TIMES} times as many"
            " pairs of twins."
        )
    return (
        "Published models cannot settle it, for that takes more families than exist; pairs of"
        " models trained to differ in nothing but the mixer (twins) may."
    )


def in_numbers(
    claim: Claim, effect: Effect, power: Power | None, permutation: Permutation | None
) -> Iterator[str]:
    """Yield the sentences with the estimate, and with the power of the test."""
    first, second = claim.contrast
    level = level_text(claim.alpha)
    exchange = ""
    if permutation is not None:
        exchange = f"; exchange of labels {p_statement(permutation.p_value)}"
    yield (
        f"The calibration error of {first} models is {times_text(effect.estimate, second)}"
        f" ({limits_text(effect.estimate, level)}{exchange}), with"
        f" {size_text(effect.unit, effect.families)}."
    )
    if power is None:
        return
    found, chance = power.smallest_detectable_ratio, f"{power.power:.0%}"
    if found is None:
        yield f"In {chance} of studies like this no ratio, however far from 1, would be found."
    else:
        yield (
            f"A ratio of {ratio_text(found)} or {ratio_text(1 / found)} would be found in {chance}"
            " of studies like this."
        )


def secondary_sentence(claim: Claim, secondary: Effect) -> str:
    """Tell the effect after the other calibration map, which the verdict is not about."""
    level = level_text(claim.alpha)
    limits = limits_text(secondary.estimate, level)
    return (
        f"{when(secondary.map).capitalize()} temperature scaling, which the verdict is not about,"
        f" it is {times_text(secondary.estimate, claim.contrast[1])} ({limits})."
    )


def new_dataset_sentence(claim: Claim, effect: Effect, outcome: Outcome | None) -> str:
    """Say what the datasets tried tell of another one; `outcome` is that of the prediction."""
    new = effect.new_dataset
    if new is None:
        return f"Of a new dataset nothing can be said: {effect.new_dataset_problem}."
    level, known = level_text(claim.alpha), plural(int(new.df) + 1, "dataset")
    opening = f"For a new dataset, {known} put the ratio at {ratio_text(new.ratio)}"
    if outcome == "undecided":
        return (
            f"{opening} ({level} prediction interval: {range_text(new)}), so of it nothing is"
            " decided: that takes more datasets."
        )
    return f"{opening} ({level} prediction interval: {range_text(new)}): {outcome} there too."


def _enumerated(covariates: Sequence[str]) -> str:
    """Return e.g. "size, pretraining and test error"."""
    *others, last = [covariate_name(name) for name in covariates]
    return f"{', '.join(others)} and {last}" if others else last
