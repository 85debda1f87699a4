"""What a report says of the claim in words and tables. All text is plain; pages escape it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchmark.markup import MISSING, Cell, Column, Table, compact, decimals, interval, plural

if TYPE_CHECKING:
    from benchmark.claim import ClaimResult, Effect, Interval

COVARIATE_NAMES = {
    "log_parameters": "size",
    "log_pretraining_examples": "pretraining",
    "test_error": "test error",
}


class Passage(NamedTuple):
    """A titled piece of the claim's section: sentences, then perhaps a table."""

    title: str
    sentences: tuple[str, ...]
    table: Table | None = None


def sentence(text: str) -> str:
    """Return `text` with a capital at its start and a full stop at its end."""
    text = text.strip()
    # Names keep their case: only a plain word is given a capital.
    first = text.split(" ", 1)[0]
    if first.isalpha() and first.islower():
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def verdict_text(result: ClaimResult) -> str:
    """Return the verdict in two sentences."""
    return " ".join(result.verdict.sentences)


def claim_passages(result: ClaimResult, about_pairs: Sequence[str] = ()) -> list[Passage]:
    """Return the details behind the verdict, in reading order.

    Args:
        result: the test's result.
        about_pairs: sentences to add to the passage on matched pairs.
    """
    passages = [
        Passage("Why this verdict", (*result.verdict.reasons, *_power_sentences(result))),
        _effects(result),
        _levels(result),
        _permutation(result),
        _pairs(result, about_pairs),
        _variance(result),
        _seeds(result),
        _dropped(result),
    ]
    return [
        passage._replace(sentences=tuple(sentence(text) for text in passage.sentences))
        for passage in passages
        if passage.sentences or passage.table
    ]


def _power_sentences(result: ClaimResult) -> tuple[str, ...]:
    power = result.verdict.power
    if power is None:
        return ()
    chance = f"{100 * power.power:.0f}%"
    if power.smallest_detectable_ratio is None:
        sentences = [
            f"With {plural(power.families_now, 'family', 'families')} no ratio that was tried "
            f"would be detected with a chance of {chance}."
        ]
    else:
        ratio = power.smallest_detectable_ratio
        sentences = [
            f"The smallest effect that {plural(power.families_now, 'family', 'families')} can "
            f"detect with a chance of {chance} is a ratio of {ratio:.2f} (or {1 / ratio:.2f}), by "
            f"{power.studies:,} simulated studies at the observed variances."
        ]
    for wanted, count in (
        ("to detect the observed effect", power.families_for_observed_effect),
        ("to show equivalence", power.families_for_equivalence),
    ):
        if count is not None and count > power.families_now:
            more = count - power.families_now
            sentences.append(f"About {plural(more, 'more family', 'more families')} {wanted}.")
    return tuple(sentences)


_EFFECT_COLUMNS = (
    Column("analysis", "analysis", "left"),
    Column("ratio", "ratio"),
    Column("interval", "interval"),
    Column("p", "p"),
    Column("families", "families", "left"),
    Column("checkpoints", "checkpoints"),
    Column("covariates", "adjusted for", "left"),
)


def _effects(result: ClaimResult) -> Passage:
    first, second = result.contrast
    sentences = [
        f"Ratios are {first} over {second}: below 1, {first} is better calibrated. Intervals are "
        f"{100 * (1 - result.alpha):g}%."
    ]
    if result.primary_problem:
        sentences.append(f"The primary test could not be made: {result.primary_problem}")
    rows = []
    named = [("primary", result.primary), ("secondary", result.secondary)]
    named += [(f"repeated ({n})", effect) for n, effect in enumerate(result.repeated, 1)]
    for label, effect in named:
        if effect is None:
            continue
        rows.append(_effect_row(f"{label}: {effect.moment} scaling", effect, effect.estimate))
        if label == "primary":
            row = _effect_row("primary, cluster-robust check", effect, effect.cluster_robust)
            rows.append(row)
        sentences += [
            f"{label.capitalize()}: {text}"
            for text in _left_out(effect)
            if text not in " ".join(sentences)
        ]
        if effect.at_floor:
            sentences.append(
                f"{label.capitalize()}: {plural(effect.at_floor, 'value')} of "
                f"{effect.contrast_rows} could not be told from zero error."
            )
    table = Table(_EFFECT_COLUMNS, rows) if rows else None
    return Passage("The contrast", tuple(sentences), table)


def _left_out(effect: Effect) -> list[str]:
    """Say which covariates are not adjusted for, one sentence per reason."""
    by_reason: dict[str, list[str]] = {}
    for out in effect.left_out:
        by_reason.setdefault(out.reason, []).append(covariate_name(out.name))
    return [
        f"not adjusted for {', '.join(names)} ({reason})." for reason, names in by_reason.items()
    ]


def covariate_name(name: str) -> str:
    """Return a covariate's name in words."""
    return COVARIATE_NAMES.get(name, name.replace("_", " "))


def _effect_row(label: str, effect: Effect, estimate: Interval) -> tuple[Cell, ...]:
    families = ", ".join(f"{count} {mixer}" for mixer, count in effect.families.items())
    covariates = ", ".join(covariate_name(name) for name in effect.covariates) or "nothing"
    return (
        Cell(label),
        Cell(decimals(estimate.ratio, 2)),
        Cell(interval(estimate.low, estimate.high, 2)),
        Cell(p_value(estimate.p_value)),
        Cell(families),
        Cell(str(effect.checkpoints)),
        Cell(covariates),
    )


def p_value(value: float | None) -> str:
    """Return a p value with two significant digits, never as 0."""
    if value is None:
        return MISSING
    return "under 0.0001" if value < 1e-4 else f"{value:.2g}"


def _levels(result: ClaimResult) -> Passage:
    effect = result.primary
    if effect is None or not effect.levels:
        return Passage("", ())
    columns = (
        Column("mixer", "mixer", "left"),
        Column("ratio", "ratio"),
        Column("interval", "interval"),
        Column("families", "families"),
        Column("checkpoints", "checkpoints"),
    )
    rows = []
    for level in effect.levels:
        estimate = level.estimate
        ratio = decimals(estimate.ratio, 2) if estimate else MISSING
        bounds = interval(estimate.low, estimate.high, 2) if estimate else "too few families"
        if level.mixer == result.contrast[1]:
            ratio, bounds = "1", "reference"
        counts = (Cell(str(level.families)), Cell(str(level.checkpoints)))
        rows.append((Cell(level.mixer), Cell(ratio), Cell(bounds), *counts))
    sentence = (
        f"Every mixer's calibration error over that of {result.contrast[1]}, from the primary "
        "model. Only the contrast was declared as a test; the others are shown for orientation."
    )
    return Passage("All mixers", (sentence,), Table(columns, rows))


def _permutation(result: ClaimResult) -> Passage:
    test = result.permutation
    if test is None:
        return Passage("", ())
    how = "all" if test.exact else "a random sample of"
    sentence = (
        f"Exchanging mixer labels among families ({how} {test.assignments:,} labellings, within "
        f"{plural(test.strata, 'group')} of families that share their datasets) gives "
        f"p = {p_value(test.p_value)}; the smallest p it could have reached is "
        f"{p_value(test.smallest_p)}."
    )
    return Passage("Permutation test", (sentence,))


_PAIR_COLUMNS = (
    Column("dataset", "dataset", "left"),
    Column("moment", "scaling", "left"),
    Column("first", "first", "left"),
    Column("second", "second", "left"),
    Column("size_ratio", "size ratio"),
    Column("accuracy_difference", "accuracy difference"),
    Column("ratio", "error ratio"),
    Column("difference", "error difference (pp)"),
    Column("p_adjusted", "p (Holm)"),
)


def _pairs(result: ClaimResult, more: Sequence[str]) -> Passage:
    matched = result.matched_pairs
    if not matched.rule:
        return Passage("", ())
    rows = []
    for pair in matched.pairs:
        bounds = interval(
            None if pair.low is None else 100 * pair.low,
            None if pair.high is None else 100 * pair.high,
            2,
        )
        rows.append(
            (
                Cell(pair.dataset),
                Cell(pair.moment),
                Cell(pair.first),
                Cell(pair.second),
                Cell(compact(pair.size_ratio)),
                Cell(f"{100 * pair.accuracy_difference:+.1f} pp"),
                Cell(decimals(pair.ratio, 2)),
                Cell(f"{decimals(100 * pair.difference, 2)} {bounds}".strip()),
                Cell(p_value(pair.p_adjusted)),
            )
        )
    rule = matched.rule if matched.rule.endswith(".") else f"{matched.rule}."
    sentences = [f"Rule: {rule}"]
    if not rows:
        sentences.append("No pair of models meets it.")
    table = Table(_PAIR_COLUMNS, rows) if rows else None
    return Passage("Matched pairs", (*sentences, *more, *matched.problems), table)


def _variance(result: ClaimResult) -> Passage:
    shares = result.variance_shares
    sentences = [shares.problem] if shares.problem else []
    if result.verdict.primary_factor is not None:
        answer = "has" if result.verdict.primary_factor else "does not have"
        sentences.append(f"The mixer {answer} the largest share of the explained variance.")
    return Passage("Do size and pretraining account for it?", tuple(sentences))


def _seeds(result: ClaimResult) -> Passage:
    variance = result.seed_variance
    if variance.standard_deviation is None:
        return Passage("Seeds", ("One seed per checkpoint: variation over seeds is not known.",))
    sentence = (
        f"Log errors of the same checkpoint on the same dataset vary between seeds with a standard "
        f"deviation of {variance.standard_deviation:.2f} "
        f"({plural(variance.checkpoints, 'checkpoint')}, up to "
        f"{plural(variance.seeds, 'seed')}). Seeds are averaged before families are "
        "compared."
    )
    return Passage("Seeds", (sentence,))


def _dropped(result: ClaimResult) -> Passage:
    if not result.dropped:
        return Passage("", ())
    columns = (
        Column("name", "run or checkpoint", "left"),
        Column("status", "status", "left"),
        Column("reason", "reason", "left"),
    )
    rows = [(Cell(d.name), Cell(d.status), Cell(d.reason)) for d in result.dropped]
    return Passage("Not in the test", (), Table(columns, rows))
