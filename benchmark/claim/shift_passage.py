"""The contrast under shift, in words and a table."""

from __future__ import annotations

import math

from benchmark.claim.passage import Passage, table_of
from benchmark.claim.result import ClaimResult, ShiftEffect, when
from benchmark.claim.wording import (
    level_text,
    limits_text,
    p_statement,
    p_value,
    range_text,
    ratio_text,
    units_text,
)
from benchmark.markup import MISSING, plural

TITLE = "Under shift"


def shift_passage(result: ClaimResult) -> Passage | None:
    """Return the passage; None where no model was scored on shifted rows."""
    found = result.under_shift
    if found.primary is None:
        if not found.problem or found.problem.startswith("no model of the contrast"):
            return None
        return Passage(TITLE, (f"Not tested: {found.problem}",))
    sentences = (_answer(result, found.primary), _how(result, found.primary))
    rows = [_row(f"all, {when(found.primary.map)} scaling (primary)", found.primary)]
    rows += [_row(f"severity {effect.severity}", effect) for effect in found.severities]
    if found.secondary is not None:
        rows.append(_row(f"all, {when(found.secondary.map)} scaling", found.secondary))
    numbers = ("ratio, clean", "ratio, shifted", "shifted / clean", "interval", "p", "p (Holm)")
    return Passage(TITLE, sentences, table_of(("shifts",), (*numbers, "exchange p"), rows))


def differs(effect: ShiftEffect, alpha: float) -> bool:
    """Say whether the contrast is another one on shifted rows, by the rule of the verdict.

    Where the errors of one side cannot be told from zero there is no ratio to speak of.
    """
    excludes = _is_measurable(effect) and (effect.estimate.high < 1 or effect.estimate.low > 1)
    return excludes and effect.permutation.p_value <= alpha


def _is_measurable(effect: ShiftEffect) -> bool:
    return 0 < effect.estimate.ratio < math.inf


def _answer(result: ClaimResult, effect: ShiftEffect) -> str:
    first, second = result.contrast
    estimate, level = effect.estimate, level_text(result.alpha)
    if not _is_measurable(effect):
        return (
            "Whether shift changes the ratio cannot be told: errors of one mixer cannot be told"
            " from zero"
        )
    evidence = (
        f"{limits_text(estimate, level)}, {p_statement(estimate.p_value)}; exchange of labels"
        f" {p_statement(effect.permutation.p_value)}"
    )
    change = (
        f"the ratio of {first} to {second} on shifted rows is {ratio_text(estimate.ratio)} times"
        f" that on clean ones ({evidence})"
    )
    if not differs(effect, result.alpha):
        return f"No difference between clean and shifted rows can be shown: {change}"
    better = first if estimate.ratio < 1 else second
    return f"Shift favours {better} models: {change}"


def _how(result: ClaimResult, effect: ShiftEffect) -> str:
    replicated = (
        units_text("twins", max(effect.families.values()))
        if result.unit == "twins"
        else " and ".join(f"{count} {mixer}" for mixer, count in effect.families.items())
        + " families"
    )
    return (
        f"{plural(len(effect.shifts), 'shifted test set')} and the clean rows of the same datasets,"
        f" {replicated}; every model against itself, so nothing is adjusted for. Where a"
        " difference is said, the interval excludes 1 and the exchange of labels agrees. All shifts"
        " pooled are the one primary test; severities are secondary, corrected for their number"
    )


def _row(name: str, effect: ShiftEffect) -> tuple[str, ...]:
    estimate = effect.estimate
    ratios = tuple(map(ratio_text, (effect.clean_ratio, effect.shifted_ratio, estimate.ratio)))
    if not _is_measurable(effect):
        return (name, *ratios, *[MISSING] * 4)
    return (
        name,
        *ratios,
        range_text(estimate),
        p_value(estimate.p_value),
        p_value(effect.p_adjusted),
        p_value(effect.permutation.p_value),
    )
