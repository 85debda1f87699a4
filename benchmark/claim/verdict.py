"""The verdict, by rules fixed before the data are seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.claim.result import (
    Effect,
    Outcome,
    Permutation,
    Power,
    RatioInterval,
    VarianceShares,
    Verdict,
    when,
)
from benchmark.claim.wording import (
    covariate_name,
    level_text,
    limits_text,
    p_statement,
    range_text,
    ratio_text,
    times_text,
)
from benchmark.markup import plural
from benchmark.registry import Claim

MANY_TIMES = 10
"""More than this many times the families there are is said as that: the number means nothing."""

_OPENINGS = {
    "supported": "Supported",
    "contradicted": "Contradicted",
    "equivalent": "Equivalent",
    "undecided": "Undecided",
}


def judge(claim: Claim, interval: RatioInterval, permutation: Permutation | None = None) -> Outcome:
    """Apply the rules in order; one interval serves them all.

    1. Equivalent: it lies inside the equivalence margin.
    2. Supported or contradicted: it lies below or above 1, and the exchange of labels, which does
       not take families to be about normal, rejects at the same level. With few families there
       are too few labellings for that.
    3. Undecided otherwise.
    """
    margin = claim.equivalence_ratio
    if 1 / margin < interval.low and interval.high < margin:
        return "equivalent"
    if _excludes_one(interval) and not _is_borne_out(claim, permutation):
        return "undecided"
    if interval.high < 1:
        return "supported"
    return "contradicted" if interval.low > 1 else "undecided"


def _excludes_one(interval: RatioInterval) -> bool:
    return interval.high < 1 or interval.low > 1


def _is_borne_out(claim: Claim, permutation: Permutation | None) -> bool:
    return permutation is None or permutation.p_value <= claim.alpha


def decide(
    claim: Claim,
    effect: Effect | None,
    problem: str | None,
    power: Power | None,
    shares: VarianceShares,
    permutation: Permutation | None = None,
) -> Verdict:
    """Judge the ratio on the datasets tried, and beside it that on a new one."""
    if effect is None:
        reason = problem or "the contrast could not be estimated"
        return Verdict(
            outcome="undecided",
            new_dataset=None,
            sentences=(
                f"Undecided: whether {claim.contrast[0]} or {claim.contrast[1]} models are better"
                " calibrated cannot be told from these runs.",
                f"There is no estimate, because {reason}.",
            ),
            reasons=(reason,),
            interval=None,
            power=None,
            primary_factor=None,
        )
    outcome = judge(claim, effect.estimate, permutation)
    reason = _reason(claim, effect.estimate, outcome, permutation)
    return Verdict(
        outcome=outcome,
        new_dataset=(
            None if effect.new_dataset is None else judge(claim, effect.new_dataset, permutation)
        ),
        sentences=(
            _first_sentence(claim, effect, outcome),
            _second_sentence(claim, effect, power, outcome, reason),
            new_dataset_sentence(claim, effect, permutation),
        ),
        reasons=(reason,),
        interval=effect.estimate,
        power=power,
        primary_factor=_is_primary_factor(shares),
    )


def _reason(
    claim: Claim, interval: RatioInterval, outcome: Outcome, permutation: Permutation | None
) -> str:
    margin = claim.equivalence_ratio
    inside = f"inside {1 / margin:.2f} to {margin:.2f}"
    if outcome == "equivalent":
        return f"the interval lies {inside}"
    if outcome != "undecided":
        return "the interval excludes 1 and the exchange of labels bears it out"
    if permutation is not None and _excludes_one(interval):
        return (
            "the interval excludes 1, but takes families to be about normal: exchanging labels"
            f" among them gives {p_statement(permutation.p_value)} (the least it could give is"
            f" {permutation.smallest_p:.2g})"
        )
    if interval.low == 0 and math.isinf(interval.high):
        return "no ratio at all can be excluded: the errors cannot be told from zero"
    return "the interval includes 1 and reaches beyond the equivalence margin"


def _first_sentence(claim: Claim, effect: Effect, outcome: Outcome) -> str:
    first, second = claim.contrast
    level = level_text(claim.alpha)
    count = len([item for item in effect.datasets if item.estimate or not item.problem])
    count = max(count, 1)
    about = "this dataset" if count == 1 else f"these {count} datasets"
    given = "" if not effect.covariates else " at equal " + _enumerated(effect.covariates)
    return (
        f"{_OPENINGS[outcome]} for {about}: {when(effect.map)} temperature scaling{given}, the"
        f" calibration error of {first} models is"
        f" {times_text(effect.estimate, second)} ({limits_text(effect.estimate, level)})."
    )


def _second_sentence(
    claim: Claim, effect: Effect, power: Power | None, outcome: Outcome, reason: str
) -> str:
    first, second = claim.contrast
    families = f"{effect.families[first]} {first} and {effect.families[second]} {second} families"
    sentence = f"With {families}, {reason}"
    if outcome != "undecided" or power is None:
        return sentence + "."
    if 2 * effect.unresolved > effect.contrast_rows:
        return (
            f"{sentence}; {effect.unresolved} of {effect.contrast_rows} errors lie below twice"
            " their standard error, so larger test sets come before more families."
        )
    return f"{sentence}; {what_would_decide(power)}."


def new_dataset_sentence(
    claim: Claim, effect: Effect, permutation: Permutation | None = None
) -> str:
    """Say what the datasets tried tell of another one."""
    new = effect.new_dataset
    if new is None:
        return f"Of a new dataset nothing can be said: {effect.new_dataset_problem}."
    level, outcome = level_text(claim.alpha), judge(claim, new, permutation)
    known = plural(int(new.df) + 1, "dataset")
    opening = f"For a new dataset, {known} put the ratio at {ratio_text(new.ratio)}"
    if outcome == "undecided":
        return (
            f"{opening} ({level} prediction interval: {range_text(new)}), so of it nothing is"
            " decided: that takes more datasets."
        )
    return f"{opening} ({level} prediction interval: {range_text(new)}): {outcome} there too."


def what_would_decide(power: Power) -> str:
    """Say what the test could have found, and how many families like these would decide."""
    found = power.smallest_detectable_ratio
    could = (
        f"no ratio would have decided it with {power.power:.0%} power"
        if found is None
        else f"a ratio of {ratio_text(found)} or {ratio_text(1 / found)} would have decided it with"
        f" {power.power:.0%} power"
    )
    parts = [
        text
        for count, condition in (
            (power.families_for_observed_effect, "if the true ratio is the observed one"),
            (power.families_for_equivalence, "if there is no difference"),
        )
        if (text := _more_families(power.families_now, count, condition))
    ]
    if not parts:
        return could
    return f"{could}, and families like these would do so for these datasets: " + ", ".join(parts)


def _more_families(now: int, count: int | None, condition: str) -> str:
    if count is not None and count <= now:
        return ""
    if count is None or count > MANY_TIMES * now:
        return f"more than {MANY_TIMES} times as many {condition}"
    return f"about {count - now} more {condition}"


def _is_primary_factor(shares: VarianceShares) -> bool | None:
    """Return whether the mixer has the largest share; None if that cannot be told.

    Without a share of its own, family may be behind what looks like the mixer's lead; and a lead
    whose interval reaches 0 is none.
    """
    if not shares.shares:
        return None
    largest = max(shares.shares, key=lambda item: item.share)
    if largest.factor != "mixer":
        return False
    has_family = any(item.factor == "family" for item in shares.shares)
    return True if has_family and largest.low > 0 else None


def _enumerated(covariates: Sequence[str]) -> str:
    """Return e.g. "size, pretraining and test error"."""
    *others, last = [covariate_name(name) for name in covariates]
    return f"{', '.join(others)} and {last}" if others else last
