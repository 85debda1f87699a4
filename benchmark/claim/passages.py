"""A claim's result in words and tables: what the command prints and what a report shows.

All text is plain; whoever shows it escapes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from benchmark.claim.result import (
    ClaimResult,
    Effect,
    Pair,
    PooledPairs,
    Power,
    RatioInterval,
    Specification,
    when,
)
from benchmark.claim.wording import (
    as_sentence,
    covariate_list,
    covariate_name,
    estimator_name,
    level_text,
    p_statement,
    p_value,
    range_text,
    ratio_text,
)
from benchmark.markup import MISSING, Cell, Column, Table, compact, decimals, interval, plural


class Passage(NamedTuple):
    """A titled piece of the result: sentences, then perhaps a table."""

    title: str
    sentences: tuple[str, ...]
    table: Table | None = None


def claim_passages(result: ClaimResult, about_pairs: Sequence[str] = ()) -> list[Passage]:
    """Return what stands behind the verdict, in reading order.

    Args:
        result: the test's result.
        about_pairs: sentences to add to the passage on matched pairs.
    """
    passages = (
        Passage("Why this verdict", (*result.verdict.reasons, *_power(result.verdict.power))),
        _contrast(result),
        _datasets(result),
        _mixers(result),
        _permutation(result),
        _shares(result),
        _specifications(result),
        _pairs(result, about_pairs),
        _seeds(result),
        _dropped(result),
    )
    return [
        passage._replace(sentences=tuple(as_sentence(text) for text in passage.sentences))
        for passage in passages
        if passage is not None and (passage.sentences or passage.table)
    ]


def _table(
    texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]
) -> Table | None:
    """Return a table with columns of text, then columns of numbers; None without rows."""
    columns = [Column(name, name, "left") for name in texts]
    columns += [Column(name, name) for name in numbers]
    cells = [tuple(Cell(text) for text in row) for row in rows]
    return Table(tuple(columns), cells) if cells else None


def _power(power: Power | None) -> Iterator[str]:
    if power is None:
        return
    chance = f"{power.power:.0%}"
    families = plural(power.families_now, "family", "families")
    ratio = power.smallest_detectable_ratio
    if ratio is None:
        yield f"With {families} no ratio that was tried would be detected with a chance of {chance}"
    else:
        yield (
            f"The smallest effect that {families} can detect with a chance of {chance} is a ratio"
            f" of {ratio_text(ratio)} (or {ratio_text(1 / ratio)}), by {power.studies:,} simulated"
            " studies at the observed variances"
        )
    for wanted, count in (
        ("to detect the observed effect", power.families_for_observed_effect),
        ("to show equivalence", power.families_for_equivalence),
    ):
        if count is not None and count > power.families_now:
            more = plural(count - power.families_now, "more family", "more families")
            yield f"About {more} {wanted}"


def _contrast(result: ClaimResult) -> Passage:
    first, second = result.contrast
    margin = result.equivalence_ratio
    effects = list(_named_effects(result))
    sentences = [
        f"Ratios of calibration errors ({estimator_name(result.metric)}), {first} over {second}:"
        f" below 1, {first} is better calibrated. Intervals are {level_text(result.alpha)};"
        f" ratios of {1 / margin:.2f} to {margin:.2f} count as equivalent"
    ]
    if result.primary_problem:
        sentences.append(f"The primary test could not be made: {result.primary_problem}")
    if effects:
        sentences += _spreads(*effects[0])
    sentences += _not_adjusted(effects)
    sentences += [
        f"{label}: {effect.at_floor} of {effect.contrast_rows} errors were too small to be told"
        " from zero and count as the smallest measurable one"
        for label, effect in effects
        if effect.at_floor
    ]
    table = _table(
        ("analysis", "model", "adjusted for"),
        ("ratio", "interval", "p", "rows", "checkpoints", "families"),
        [row for label, effect in effects for row in _effect_rows(label, effect)],
    )
    return Passage("The contrast", tuple(sentences), table)


def _named_effects(result: ClaimResult) -> Iterator[tuple[str, Effect]]:
    if result.primary is not None:
        yield f"{when(result.primary_map)} scaling (primary)", result.primary
    if result.secondary is not None:
        yield f"{when(result.secondary.map)} scaling (secondary)", result.secondary
    for effect in result.repeated:
        used = result.primary.covariates if result.primary else ()
        without = [name for name in used if name not in effect.covariates]
        yield f"{when(effect.map)} scaling, without {covariate_list(without)}", effect


def _effect_rows(label: str, effect: Effect) -> list[tuple[str, ...]]:
    adjusted = covariate_list((*effect.covariates, "dataset"))
    sizes = (str(effect.rows), str(effect.checkpoints), _families(effect.families))
    return [
        (label, model, adjusted, *_estimate_cells(estimate), *sizes)
        for model, estimate in (
            ("mixed model", effect.estimate),
            ("cluster-robust check", effect.cluster_robust),
        )
    ]


def _families(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {mixer}" for mixer, count in counts.items())


def _estimate_cells(estimate: RatioInterval | None) -> tuple[str, str, str]:
    if estimate is None:
        return MISSING, MISSING, MISSING
    return ratio_text(estimate.ratio), range_text(estimate), p_value(estimate.p_value)


def _spreads(label: str, effect: Effect) -> Iterator[str]:
    spreads = [
        f"{decimals(value, 2)} {name}"
        for name, value in (
            ("between families", effect.family_sd),
            ("between checkpoints of a family", effect.checkpoint_sd),
            ("remaining", effect.residual_sd),
        )
        if value is not None
    ]
    yield f"{label}: standard deviations of log errors are {', '.join(spreads)}"


def _not_adjusted(effects: Iterable[tuple[str, Effect]]) -> Iterator[str]:
    """Say which covariates are left out, one sentence per reason, where it first applies."""
    told: set[tuple[str, str]] = set()
    for label, effect in effects:
        by_reason: dict[str, list[str]] = {}
        for out in effect.left_out:
            if (out.name, out.reason) not in told:
                by_reason.setdefault(out.reason, []).append(covariate_name(out.name))
                told.add((out.name, out.reason))
        for reason, names in by_reason.items():
            yield f"{label}: not adjusted for {', '.join(names)} ({reason})"


def _datasets(result: ClaimResult) -> Passage | None:
    if result.primary is None:
        return None
    sentences = (
        []
        if result.primary.disagreement_p is None
        else [
            "Whether the datasets' ratios are the same (Welch's test):"
            f" {p_statement(result.primary.disagreement_p)}"
        ]
    )
    table = _table(
        ("dataset", "families", "problem"),
        ("ratio", "interval", "p"),
        [
            (
                item.dataset,
                _families(item.families),
                item.problem or "",
                *_estimate_cells(item.estimate),
            )
            for item in result.primary.datasets
        ],
    )
    return Passage("By dataset", tuple(sentences), table)


def _mixers(result: ClaimResult) -> Passage | None:
    effect = result.primary
    if effect is None or not effect.levels:
        return None
    reference = result.contrast[1]
    rows = []
    for level in effect.levels:
        cells = _estimate_cells(level.estimate)
        if level.mixer == reference:
            cells = ("1", "reference", "")
        elif level.estimate is None:
            cells = (MISSING, "too few families", MISSING)
        rows.append((level.mixer, *cells, str(level.families), str(level.checkpoints)))
    sentence = (
        f"Every mixer's calibration error over that of {reference}, from the primary model. Only"
        " the contrast was declared as a test; the others are shown for orientation"
    )
    numbers = ("ratio", "interval", "p", "families", "checkpoints")
    return Passage("All mixers", (sentence,), _table(("mixer",), numbers, rows))


def _permutation(result: ClaimResult) -> Passage | None:
    test = result.permutation
    if test is None:
        return None
    how = "all" if test.exact else "the observed and random, together"
    sentence = (
        f"Exchanging mixer labels among families ({how} {test.assignments:,} labellings, within"
        f" {plural(test.strata, 'group')} of families that share their datasets) gives"
        f" {p_statement(test.p_value)}; the smallest p it could have reached is"
        f" {p_value(test.smallest_p)}"
    )
    return Passage("Permutation test", (sentence,))


def _shares(result: ClaimResult) -> Passage:
    title = "Do size and pretraining account for it?"
    shares = result.variance_shares
    if not shares.shares:
        return Passage(title, (f"No shares of variance: {shares.problem}",))
    answer = {True: "is", False: "is not", None: "cannot be shown to be"}
    sentences = [
        f"The mixer {answer[result.verdict.primary_factor]} the primary factor: that needs the"
        " largest share of the variance of log errors within datasets. What noise alone would give"
        f" is subtracted; intervals are 95%, over {shares.resamples:,} resamples of"
        f" {plural(shares.families, 'family', 'families')}"
    ]
    if shares.problem:
        sentences.append(f"Family has no share: {shares.problem}")
    rows = [
        (
            item.factor,
            _percent(item.share),
            f"{_percent(item.low)} to {_percent(item.high)}",
            _percent(item.by_chance),
            str(item.columns),
            _percent(item.probability_largest),
        )
        for item in sorted(shares.shares, key=lambda item: -item.share)
    ]
    numbers = ("share", "interval", "by chance", "columns", "largest in")
    return Passage(title, tuple(sentences), _table(("factor",), numbers, rows))


def _percent(share: float) -> str:
    return f"{decimals(100 * share, 0)}%"


def _specifications(result: ClaimResult) -> Passage | None:
    curve = result.specification_curve
    if not curve.specifications:
        return None
    ratios = [ratio_text(item.estimate.ratio) for item in curve.specifications]
    sentence = (
        f"Of {len(ratios)} specifications {curve.below_one} give a ratio below 1"
        f" ({curve.excluding_one_below} with an interval that excludes 1) and {curve.above_one}"
        f" above 1 ({curve.excluding_one_above} excluding 1); {curve.not_estimable} could not be"
        f" estimated. Ratios go from {ratios[0]} to {ratios[-1]}, with median"
        f" {ratios[len(ratios) // 2]}"
    )
    groups: dict[tuple[str, str, str], list[Specification]] = {}
    for item in curve.specifications:
        rows = "shifted" if item.shifted else "in distribution"
        groups.setdefault((estimator_name(item.metric), when(item.map), rows), []).append(item)
    table = _table(
        ("estimator", "scaling", "test rows"),
        ("specifications", "ratios", "below 1", "above 1"),
        [(*group, *_group_cells(items)) for group, items in sorted(groups.items())],
    )
    return Passage("Other ways to analyse it", (sentence,), table)


def _group_cells(items: Sequence[Specification]) -> tuple[str, ...]:
    """Return the count, range of ratios, and how many intervals lie on each side of 1."""
    estimates = [item.estimate for item in items]
    return (
        str(len(estimates)),
        f"{ratio_text(estimates[0].ratio)} to {ratio_text(estimates[-1].ratio)}",
        str(sum(estimate.high < 1 for estimate in estimates)),
        str(sum(estimate.low > 1 for estimate in estimates)),
    )


def _pairs(result: ClaimResult, more: Sequence[str]) -> Passage | None:
    matched = result.matched_pairs
    if not matched.rule:
        return None
    sentences = [f"Rule: {matched.rule}"]
    if not matched.pairs:
        sentences.append("No two models are alike enough")
    sentences += [_pooled(pooled, result.contrast) for pooled in matched.pooled]
    table = _table(
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
    low, high = (None if end is None else 100 * end for end in (pair.low, pair.high))
    return (
        pair.dataset,
        when(pair.map),
        pair.first,
        pair.second,
        compact(pair.size_ratio),
        f"{100 * pair.accuracy_difference:+.1f}",
        MISSING if pair.ratio is None else ratio_text(pair.ratio),
        f"{100 * pair.difference:+.2f}",
        interval(low, high, 2) or pair.no_interval or MISSING,
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


def _seeds(result: ClaimResult) -> Passage:
    variance = result.seed_variance
    if variance.standard_deviation is None:
        return Passage("Seeds", ("One seed per checkpoint: variation over seeds is not known",))
    sentence = (
        "Log errors of the same checkpoint on the same dataset vary between seeds with a standard"
        f" deviation of {variance.standard_deviation:.2f}"
        f" ({plural(variance.checkpoints, 'checkpoint')}, up to {plural(variance.seeds, 'seed')})."
        " Seeds are averaged before families are compared"
    )
    return Passage("Seeds", (sentence,))


def _dropped(result: ClaimResult) -> Passage:
    title = "Not in the test"
    if not result.dropped:
        return Passage(title, ("No run was left out",))
    counts = Counter((item.status, item.reason) for item in result.dropped)
    sentences = [
        f"{plural(len(result.dropped), 'run or checkpoint', 'runs or checkpoints')} left out, none"
        " imputed",
        *(f"{count}: {status}, {reason}" for (status, reason), count in counts.most_common()),
    ]
    rows = [(item.name, item.status, item.reason) for item in result.dropped]
    return Passage(title, tuple(sentences), _table(("left out", "status", "reason"), (), rows))
