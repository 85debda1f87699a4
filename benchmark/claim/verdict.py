"""The verdict, by rules fixed before the data are seen."""

from __future__ import annotations

import math

from benchmark.claim.answer import (
    answer,
    how_sure,
    in_numbers,
    new_dataset_sentence,
    secondary_sentence,
    what_would_settle,
    without_estimate,
)
from benchmark.claim.result import (
    Effect,
    Outcome,
    Permutation,
    Power,
    RatioInterval,
    VarianceShares,
    Verdict,
)
from benchmark.claim.wording import p_statement, unit_nouns
from benchmark.registry import Claim


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
    secondary: Effect | None = None,
    scope: str | None = None,
) -> Verdict:
    """Judge the ratio on the datasets tried and on a new one.

    `secondary`, after the other calibration map, is told and not judged; `scope` says of which
    models the verdict speaks.
    """
    if effect is None:
        return _undecided(claim, problem or "the contrast could not be estimated")
    outcome = judge(claim, effect.estimate, permutation)
    reason = _reason(claim, effect, outcome, permutation)
    new = None if effect.new_dataset is None else judge(claim, effect.new_dataset, permutation)
    return Verdict(
        outcome=outcome,
        new_dataset=new,
        sentences=(
            answer(claim, effect, outcome),
            how_sure(claim, effect, outcome, permutation),
            what_would_settle(effect, outcome, power),
        ),
        numbers=(
            *in_numbers(claim, effect, power, permutation),
            *([] if secondary is None else [secondary_sentence(claim, secondary)]),
            new_dataset_sentence(claim, effect, new),
            *([] if scope is None else [scope]),
        ),
        reasons=(reason,),
        interval=effect.estimate,
        power=power,
        primary_factor=_is_primary_factor(shares),
    )


def _undecided(claim: Claim, reason: str) -> Verdict:
    """Return the verdict where the contrast could not be estimated."""
    return Verdict(
        outcome="undecided",
        new_dataset=None,
        sentences=without_estimate(claim, reason),
        reasons=(reason,),
        interval=None,
        power=None,
        primary_factor=None,
    )


def _reason(claim: Claim, effect: Effect, outcome: Outcome, permutation: Permutation | None) -> str:
    interval = effect.estimate
    margin = claim.equivalence_ratio
    inside = f"inside {1 / margin:.2f} to {margin:.2f}"
    if outcome == "equivalent":
        return f"the interval lies {inside}"
    if outcome != "undecided":
        return "the interval excludes 1 and the exchange of labels bears it out"
    if permutation is not None and _excludes_one(interval):
        return (
            f"the interval excludes 1, but takes {unit_nouns(effect.unit)} to be about normal:"
            f" exchanging labels among them gives {p_statement(permutation.p_value)} (the least it"
            f" could give is {permutation.smallest_p:.2g})"
        )
    if interval.low == 0 and math.isinf(interval.high):
        return "no ratio at all can be excluded: the errors cannot be told from zero"
    return "the interval includes 1 and reaches beyond the equivalence margin"


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
