"""Matched pairs in words and a table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.claim.passage import Passage, table_of
from benchmark.claim.result import ClaimResult, Pair, PooledPairs, when
from benchmark.claim.wording import p_value, points_text, ratio_text
from benchmark.markup import MISSING, compact, plural


def pairs_passage(result: ClaimResult, more: Sequence[str]) -> Passage | None:
    """Return the passage on matched pairs, `more` sentences added; None where none were sought."""
    matched = result.matched_pairs
    if not matched.rule:
        return None
    sentences = [f"Rule: {matched.rule}"]
    if not matched.pairs:
        sentences.append("No two models are alike enough")
    sentences += [_pooled(pooled, result.contrast) for pooled in matched.pooled]
    table = table_of(
        ("dataset", "scaling", *result.contrast),
        (
            "size ratio",
            "accuracy difference (pp)",
            "error ratio",
            "difference of squares, root (pp)",
            "95% interval (pp)",
            "p (Holm)",
        ),
        [_pair_row(pair) for pair in matched.pairs],
    )
    return Passage("Matched pairs", (*sentences, *more, *matched.problems), table)


def _pair_row(pair: Pair) -> tuple[str, ...]:
    return (
        pair.dataset,
        when(pair.map),
        pair.first,
        pair.second,
        compact(pair.size_ratio),
        f"{100 * pair.accuracy_difference:+.1f}",
        MISSING if pair.ratio is None else ratio_text(pair.ratio),
        f"{100 * pair.difference:+.2f}",
        pair.no_interval or points_text(pair.low, pair.high),
        p_value(pair.p_adjusted),
    )


def _pooled(pooled: PooledPairs, contrast: tuple[str, str]) -> str:
    """Say what all pairs of a map come to, with families as what is replicated."""
    value = "cannot be told" if pooled.ratio is None else f"is {ratio_text(pooled.ratio)}"
    limits = (("at least", pooled.low), ("at most", pooled.high))
    ends = [f"{word} {ratio_text(end)}" for word, end in limits if end is not None]
    counts = zip(pooled.families, contrast, strict=True)
    return (
        f"Over all {plural(pooled.pairs, 'pair')} {when(pooled.map)} scaling the ratio of root mean"
        f" squared errors {value}: {' and '.join(ends) or 'no limit can be given'} (95%, clustered"
        f" by {' and '.join(f'{count} {side}' for count, side in counts)} families)"
    )
