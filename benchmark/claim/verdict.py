"""The verdict, by rules fixed before the data are seen."""

from __future__ import annotations

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
    p_statement,
    p_value,
    range_text,
    ratio_text,
)
from benchmark.registry import Claim

MAX_AT_FLOOR = 0.5
"""With more of the values than this too small to measure, nothing is decided."""

_LISTED = 4
"""Datasets named in a sentence."""


def decide(
    claim: Claim,
    effect: Effect | None,
    problem: str | None,
    permutation: Permutation | None,
    power: Power | None,
    shares: VarianceShares,
) -> Verdict:
    """Apply the rules in order; the first that holds gives the verdict.

    1. Undecided: no estimate, or more than half of the values at their floor.
    2. Equivalent: the interval lies inside the equivalence margin.
    3. Undecided: the datasets disagree (Welch's test at alpha), so that one ratio for all of
       them says little about the next dataset.
    4. Supported or contradicted: the interval excludes 1, so does the cluster-robust one, on
       the same side, and the permutation test's p value is at most alpha.
    5. Undecided otherwise.
    """
    if effect is None or permutation is None:
        reason = problem or "the contrast could not be estimated"
        return Verdict(
            outcome="undecided",
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
    outcome, reasons = _apply_rules(claim, effect, permutation)
    return Verdict(
        outcome=outcome,
        sentences=(
            _first_sentence(claim, effect, outcome),
            _second_sentence(claim, effect, power, outcome, reasons),
        ),
        reasons=reasons,
        interval=effect.estimate,
        power=power,
        primary_factor=_is_primary_factor(shares),
    )


def _apply_rules(
    claim: Claim, effect: Effect, permutation: Permutation
) -> tuple[Outcome, tuple[str, ...]]:
    interval, margin = effect.estimate, claim.equivalence_ratio
    if _too_many_at_floor(effect):
        return "undecided", (
            f"{effect.at_floor} of {effect.contrast_rows} calibration errors are too small to be"
            " told from zero on their test sets",
        )
    if 1 / margin < interval.low and interval.high < margin:
        return "equivalent", (f"the interval lies inside {1 / margin:.2f} to {margin:.2f}",)
    disagreement = effect.disagreement_p
    if disagreement is not None and _datasets_disagree(claim, effect):
        found = [f"{d.estimate.ratio:.2f} on {d.dataset}" for d in effect.datasets if d.estimate]
        listed = ", ".join(found[:_LISTED]) + (", ..." if len(found) > _LISTED else "")
        return "undecided", (
            f"the datasets disagree ({listed}; {p_statement(disagreement)}), so one ratio for all"
            " says little about the next dataset",
        )
    side, check = _side_of_one(interval), _side_of_one(effect.cluster_robust)
    if side != 0 and side == check and permutation.p_value <= claim.alpha:
        outcome: Outcome = "supported" if side < 0 else "contradicted"
        return outcome, (
            "the interval and its cluster-robust check exclude 1",
            f"exchanging labels among families gives {p_statement(permutation.p_value)}",
        )
    reasons = []
    if side == 0:
        reasons.append("the interval includes 1 and reaches beyond the equivalence margin")
    elif side != check:
        reasons.append(
            "the interval excludes 1 but its cluster-robust check"
            f" ({range_text(effect.cluster_robust)}) does not"
        )
    if permutation.smallest_p > claim.alpha:
        reasons.append(
            "with these families no exchange of labels could give p below"
            f" {p_value(permutation.smallest_p)}"
        )
    elif permutation.p_value > claim.alpha:
        reasons.append(f"exchanging labels among families gives {p_statement(permutation.p_value)}")
    return "undecided", tuple(reasons)


def _side_of_one(interval: RatioInterval) -> int:
    """Return -1 or 1 for an interval wholly below or above 1, and 0 for one around it."""
    return int(interval.low > 1) - int(interval.high < 1)


def _first_sentence(claim: Claim, effect: Effect, outcome: Outcome) -> str:
    first, second = claim.contrast
    ratio = f"{effect.estimate.ratio:.2f} times"
    interval = f"({level_text(claim.alpha)} interval {range_text(effect.estimate)})"
    scaling = f"{when(effect.map)} temperature scaling"
    given = "" if not effect.covariates else " at equal " + _enumerated(effect.covariates)
    compared = f"the calibration error of {first} models is {ratio} that of {second} models"
    openings = {
        "supported": "Supported",
        "contradicted": "Contradicted",
        "equivalent": "Equivalent",
        "undecided": "Undecided",
    }
    return f"{openings[outcome]}: {scaling}{given}, {compared} {interval}."


def _second_sentence(
    claim: Claim, effect: Effect, power: Power | None, outcome: Outcome, reasons: tuple[str, ...]
) -> str:
    first, second = claim.contrast
    families = f"{effect.families[first]} {first} and {effect.families[second]} {second} families"
    sentence = f"With {families}, {', and '.join(reasons)}"
    if outcome != "undecided" or power is None:
        return sentence + "."
    if _too_many_at_floor(effect):
        return f"{sentence}; larger test sets are needed before more families."
    if _datasets_disagree(claim, effect):
        return f"{sentence}; more datasets are needed before more families."
    return f"{sentence}; {_what_would_decide(power)}."


def _datasets_disagree(claim: Claim, effect: Effect) -> bool:
    return effect.disagreement_p is not None and effect.disagreement_p <= claim.alpha


def _too_many_at_floor(effect: Effect) -> bool:
    return effect.at_floor > MAX_AT_FLOOR * effect.contrast_rows


def _what_would_decide(power: Power) -> str:
    found = power.smallest_detectable_ratio
    could = (
        "no effect of any size could have been found"
        if found is None
        else f"a ratio of {ratio_text(found)} or {ratio_text(1 / found)} would have been found"
        f" with {power.power:.0%} power"
    )
    needed = [
        (power.families_for_observed_effect, "if the true ratio is the observed one"),
        (power.families_for_equivalence, "if there is no difference"),
    ]
    parts = [
        f"{count - power.families_now} more {condition}"
        for count, condition in needed
        if count is not None and count > power.families_now
    ]
    if not parts:
        return could
    return f"{could}, and about this many families like these would decide it: {', '.join(parts)}"


def _is_primary_factor(shares: VarianceShares) -> bool | None:
    """Return whether the mixer has the largest share; None if that cannot be told.

    Without a share of its own, family may be behind what looks like the mixer's lead.
    """
    if not shares.shares:
        return None
    if max(shares.shares, key=lambda item: item.share).factor != "mixer":
        return False
    return True if any(item.factor == "family" for item in shares.shares) else None


def _enumerated(covariates: Sequence[str]) -> str:
    """Return e.g. "size, pretraining and test error"."""
    *others, last = [covariate_name(name) for name in covariates]
    return f"{', '.join(others)} and {last}" if others else last
