"""The one sentence that says which model to take and what to apply to its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchmark.markup import decimals, percent, plural

if TYPE_CHECKING:
    from benchmark.report.choice import Candidate

LATENCY_NOISE = 1.10
"""Two medians nearer than this ratio are not told apart: each may drift by 5% within a timing that
is not called disturbed."""

MAX_NAMED = 3
"""Models that are named as not told apart from the best."""


class Advice(NamedTuple):
    """A sentence, and the model it names."""

    sentence: str
    best: str | None


def advise(candidates: Sequence[Candidate]) -> Advice:
    """Return which model to take: the most accurate, and what a faster one would cost.

    Args:
        candidates: of one group, with their standing. Models at chance level and those that lack
            a dataset are not advised.
    """
    eligible = [c for c in candidates if c.standing in ("front", "dominated")]
    if not eligible:
        return Advice(_nothing(candidates), None)
    best = max(eligible, key=lambda c: (c.accuracy.value, -c.nll.value, c.model))
    timed = [c for c in eligible if not math.isnan(c.p50_ms)]
    fastest = min(timed, key=lambda c: (c.p50_ms, c.model), default=best)
    accuracy = f"({percent(best.accuracy.value)})"
    if len(eligible) == 1:
        parts = [f"{best.model}: the only model to choose {accuracy}", _to_apply(best)]
    else:
        speed = _speed(best, fastest)
        alike = _not_told_apart(best, eligible)
        parts = [f"{best.model}: most accurate {accuracy}{speed}{alike}", _to_apply(best)]
    if fastest.model != best.model and not best.p50_ms <= fastest.p50_ms * LATENCY_NOISE:
        parts.append(_alternative(fastest, best))
    if best.flags:
        parts.append(f"flagged: {', '.join(best.flags)}")
    return Advice("; ".join(parts) + ".", best.model)


def _speed(best: Candidate, fastest: Candidate) -> str:
    if math.isnan(best.p50_ms):
        return ""
    if fastest.model == best.model:
        return " and fastest"
    return " and none clearly faster" if best.p50_ms <= fastest.p50_ms * LATENCY_NOISE else ""


def _nothing(candidates: Sequence[Candidate]) -> str:
    if all(c.standing == "chance level" for c in candidates):
        return "No model to take: none does better than always answering the most frequent class."
    return "No model to take: none was scored on every dataset and is better than chance."


def _not_told_apart(best: Candidate, others: Sequence[Candidate]) -> str:
    alike = [
        c.model
        for c in sorted(others, key=lambda c: (-c.accuracy.value, c.model))
        if c.model != best.model and not c.accuracy.clearly_below(best.accuracy)
    ]
    if not alike:
        return ""
    named = ", ".join(alike[:MAX_NAMED])
    more = f" and {len(alike) - MAX_NAMED} more" if alike[MAX_NAMED:] else ""
    return f", not told apart in accuracy from {named}{more}"


def _to_apply(best: Candidate) -> str:
    applied = sorted(best.applied.values())
    if not applied:
        few = "too few calibration rows" in best.flags
        return "too few calibration rows for a temperature" if few else "no scaling needed"
    least, most = decimals(applied[0], 2), decimals(applied[-1], 2)
    if len(best.datasets) == 1:
        mean = f" (mean of {best.seeds} seeds)" if best.seeds > 1 else ""
        return f"apply T = {least}{mean}"
    some = "" if len(applied) == len(best.datasets) else f" on {plural(len(applied), 'dataset')}"
    which = f"T = {least}" if least == most else f"each dataset's T ({least} to {most})"
    return f"apply {which}{some}"


def _alternative(fastest: Candidate, best: Candidate) -> str:
    times = best.p50_ms / fastest.p50_ms
    speed = f"{decimals(fastest.p50_ms, 2)} ms"
    if not math.isnan(times):
        speed += f" against {decimals(best.p50_ms, 2)} ms"
    loss = 100 * (best.accuracy.value - fastest.accuracy.value)
    return f"fastest is {fastest.model} ({speed}, accuracy {loss:.1f} points lower)"
