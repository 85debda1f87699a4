"""A claim's result as markdown for a terminal or a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmark.claim.result import (
    ClaimResult,
    Effect,
    Interval,
    Permutation,
    SpecificationCurve,
)
from benchmark.claim.verdict import range_of, short_number
from benchmark.markup import MISSING, Cell, Column, Table, decimals, escape_markdown, plural

MOST_ROWS = 40
"""Rows of a listing that are printed; the JSON output has all."""


def render_markdown(result: ClaimResult, title: str = "") -> str:
    """Return the whole result as markdown; texts from the data are escaped."""
    blocks = [
        f"# The claim{': ' + escape_markdown(title) if title else ''}",
        *map(escape_markdown, result.verdict.sentences),
        *_effects(result),
        *_permutation(result.permutation),
        *_datasets(result),
        *_shares(result),
        *_curve(result.specification_curve),
        *_pairs(result),
        *_data_notes(result),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(headers: str, rows: Sequence[tuple[str, ...]], left: int = 1) -> str:
    """Return a table whose first `left` columns hold text; headers are split at '|'."""
    names = [name.strip() for name in headers.split("|")]
    columns = tuple(
        Column(name, name, "left" if index < left else "right") for index, name in enumerate(names)
    )
    cells = [tuple(Cell(text) for text in row) for row in rows]
    return Table(columns, cells).to_markdown(MOST_ROWS).rstrip("\n")


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _percent(value: float) -> str:
    # Adding 0.0 turns a negative zero into a zero.
    return f"{round(100 * value) + 0.0:.0f}%"


def _interval_cells(interval: Interval | None) -> tuple[str, str, str]:
    if interval is None:
        return MISSING, MISSING, MISSING
    return short_number(interval.ratio), range_of(interval), _p(interval.p_value)


def _effects(result: ClaimResult) -> Iterator[str]:
    first, second = result.contrast
    yield "## Effect"
    yield (
        f"Ratio of calibration errors {first} / {second} ({escape_markdown(result.metric)}); below"
        f" 1, {first} models are better calibrated. Equivalence margin:"
        f" {1 / result.equivalence_ratio:.2f} to {result.equivalence_ratio:.2f}."
    )
    rows = []
    for label, effect in _named_effects(result):
        rows.append((label, "mixed model", *_interval_cells(effect.estimate), *_sizes(effect)))
        rows.append((label, "cluster-robust", *_interval_cells(effect.cluster_robust), "", "", ""))
    if not rows:
        yield escape_markdown(f"No estimate: {result.primary_problem}.")
        return
    level = f"{100 * (1 - result.alpha):g}% interval"
    yield _table(
        f"outcome | model | ratio | {level} | p | rows | checkpoints | families", rows, left=2
    )
    shown = result.primary or result.secondary
    if shown is not None:
        yield _adjustment(shown)


def _named_effects(result: ClaimResult) -> Iterator[tuple[str, Effect]]:
    if result.primary is not None:
        yield f"{result.primary_moment} scaling (primary)", result.primary
    if result.secondary is not None:
        yield f"{result.secondary.moment} scaling", result.secondary
    for effect in result.repeated:
        used = result.primary.covariates if result.primary else ()
        without = [name for name in used if name not in effect.covariates]
        yield f"{effect.moment} scaling, without {', '.join(without)}", effect


def _sizes(effect: Effect) -> tuple[str, str, str]:
    families = " + ".join(str(count) for count in effect.families.values())
    return str(effect.rows), str(effect.checkpoints), families


def _adjustment(effect: Effect) -> str:
    used = ", ".join(effect.covariates) or "none"
    lines = [f"Adjusted for: {escape_markdown(used)} (and the dataset)."]
    lines += [
        f"Not adjusted for {escape_markdown(item.name)}: {escape_markdown(item.reason)}."
        for item in effect.left_out
    ]
    spreads = [
        f"{name} {decimals(value, 2)}"
        for name, value in (
            ("between families", effect.family_sd),
            ("between checkpoints of a family", effect.checkpoint_sd),
            ("remaining", effect.residual_sd),
        )
        if value is not None
    ]
    lines.append(f"Standard deviations of log errors: {', '.join(spreads)}.")
    if effect.at_floor:
        lines.append(
            f"{effect.at_floor} of {effect.contrast_rows} errors were too small to be told from"
            " zero and count as the smallest measurable one."
        )
    return "\n".join(f"- {line}" for line in lines)


def _permutation(permutation: Permutation | None) -> Iterator[str]:
    if permutation is None:
        return
    how = "all" if permutation.exact else "the observed and random"
    strata = plural(permutation.strata, "stratum", "strata")
    yield (
        f"Exchanging mixer labels among families ({how} {permutation.assignments:,} labellings,"
        f" within {strata}): p = {_p(permutation.p_value)};"
        f" the smallest p it could have reached is {permutation.smallest_p:.2g}."
    )


def _datasets(result: ClaimResult) -> Iterator[str]:
    if result.primary is None:
        return
    yield "## By dataset and by mixer"
    rows = [
        (
            item.dataset,
            item.problem or "",
            *_interval_cells(item.estimate),
            " + ".join(str(count) for count in item.families.values()),
        )
        for item in result.primary.datasets
    ]
    yield _table("dataset | problem | ratio | interval | p | families", rows, left=2)
    rows = [
        (
            item.mixer,
            *_interval_cells(item.estimate),
            str(item.families),
            str(item.checkpoints),
        )
        for item in result.primary.levels
    ]
    yield _table(
        f"mixer, relative to {result.contrast[1]} | ratio | interval | p | families | checkpoints",
        rows,
    )


def _shares(result: ClaimResult) -> Iterator[str]:
    shares = result.variance_shares
    yield "## Do size and pretraining account for it?"
    if not shares.shares:
        yield escape_markdown(f"No shares of variance: {shares.problem}.")
        return
    rows = [
        (
            item.factor,
            _percent(item.share),
            f"{_percent(item.low)} to {_percent(item.high)}",
            _percent(item.by_chance),
            str(item.columns),
            f"{item.probability_largest:.0%}",
        )
        for item in sorted(shares.shares, key=lambda item: -item.share)
    ]
    yield _table("factor | share | 95% interval | by chance | columns | largest in", rows)
    answers = {True: "is", False: "is not", None: "cannot be shown to be"}
    yield (
        f"The mixer {answers[result.verdict.primary_factor]} the primary factor: that needs the"
        " largest share of the variance of log errors within datasets. What noise alone would give"
        f" is subtracted; intervals are over {shares.resamples} resamples of"
        f" {plural(shares.families, 'family', 'families')}."
    )
    if shares.problem:
        yield escape_markdown(f"Family has no share: {shares.problem}.")


def _curve(curve: SpecificationCurve) -> Iterator[str]:
    if not curve.specifications:
        return
    yield "## Other ways to analyse it"
    ratios = [item.estimate.ratio for item in curve.specifications]
    yield (
        f"Of {len(ratios)} specifications {curve.below_one} give a ratio below 1"
        f" ({curve.excluding_one_below} with an interval that excludes 1) and {curve.above_one}"
        f" above 1 ({curve.excluding_one_above} excluding 1); {curve.not_estimable} could not be"
        f" estimated. Ratios go from {short_number(ratios[0])} to {short_number(ratios[-1])}, with"
        f" median {short_number(ratios[len(ratios) // 2])}."
    )
    groups = Counter((item.metric, item.moment, item.shifted) for item in curve.specifications)
    rows = []
    for metric, moment, shifted in groups:
        chosen = [
            item.estimate
            for item in curve.specifications
            if (item.metric, item.moment, item.shifted) == (metric, moment, shifted)
        ]
        rows.append(
            (
                metric,
                moment,
                "shifted" if shifted else "in distribution",
                str(len(chosen)),
                f"{short_number(chosen[0].ratio)} to {short_number(chosen[-1].ratio)}",
                str(sum(item.high < 1 for item in chosen)),
                str(sum(item.low > 1 for item in chosen)),
            )
        )
    yield _table(
        "estimator | scaling | test rows | specifications | ratios | below 1 | above 1",
        sorted(rows),
        left=3,
    )


def _pairs(result: ClaimResult) -> Iterator[str]:
    matched = result.matched_pairs
    yield "## Matched pairs"
    yield escape_markdown(matched.rule)
    if not matched.pairs:
        yield "No two models are alike enough."
        return
    rows = [
        (
            pair.dataset,
            pair.moment,
            pair.first,
            pair.second,
            decimals(pair.size_ratio, 2),
            f"{100 * pair.accuracy_difference:+.1f}",
            MISSING if pair.ratio is None else short_number(pair.ratio),
            f"{pair.difference:+.4f}",
            MISSING if pair.low is None else f"{pair.low:+.4f} to {pair.high:+.4f}",
            _p(pair.p_adjusted),
        )
        for pair in matched.pairs
    ]
    yield _table(
        f"dataset | scaling | {result.contrast[0]} | {result.contrast[1]} | size ratio"
        " | accuracy, points | ratio | difference | 95% interval | p (Holm)",
        rows,
        left=4,
    )
    if matched.problems:
        yield "\n".join(f"- {escape_markdown(problem)}" for problem in matched.problems)


def _data_notes(result: ClaimResult) -> Iterator[str]:
    yield "## Data"
    seeds = result.seed_variance
    if seeds.standard_deviation is not None:
        yield (
            f"Seeds were averaged first; between seeds of one checkpoint, log errors vary by a"
            f" standard deviation of {seeds.standard_deviation:.2f}."
        )
    if not result.dropped:
        yield "No run was left out."
        return
    counts = Counter((item.status, item.reason) for item in result.dropped)
    yield f"{plural(len(result.dropped), 'row')} left out, none imputed:"
    yield "\n".join(
        f"- {count}: {escape_markdown(status)}, {escape_markdown(reason)}"
        for (status, reason), count in counts.most_common()
    )
    rows = [(item.name, item.status, item.reason) for item in result.dropped]
    yield _table("left out | status | reason", rows, left=3)
