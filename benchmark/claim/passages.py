"""A claim's result in words and tables: what the command prints and what a report shows.

All text is plain; whoever shows it escapes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from benchmark.claim.declaration import declaration_passage
from benchmark.claim.pair_passage import pairs_passage
from benchmark.claim.passage import Passage, table_of
from benchmark.claim.prior_passage import prior_passage
from benchmark.claim.result import (
    ClaimResult,
    Effect,
    Permutation,
    Power,
    RatioInterval,
    Specification,
    Unit,
    VarianceShares,
    when,
)
from benchmark.claim.shift_passage import shift_passage
from benchmark.claim.wording import (
    as_sentence,
    covariate_list,
    covariate_name,
    estimator_name,
    level_text,
    p_statement,
    p_value,
    percent_text,
    points_text,
    range_text,
    ratio_text,
    unit_nouns,
    units_text,
)
from benchmark.markup import MISSING, decimals, plural


def claim_passages(result: ClaimResult, about_pairs: Sequence[str] = ()) -> list[Passage]:
    """Return what stands behind the verdict, in reading order.

    Args:
        result: the test's result.
        about_pairs: sentences to add to the passage on matched pairs.
    """
    passages = (
        Passage(
            "Why this verdict",
            (*result.verdict.reasons, *_power(result.verdict.power, result.unit)),
        ),
        declaration_passage(result.declaration),
        _contrast(result),
        _datasets(result),
        _mixers(result),
        _gaps(result),
        _permutation(result),
        _twins(result),
        _shares(result),
        shift_passage(result),
        prior_passage(result),
        _specifications(result),
        pairs_passage(result, about_pairs),
        _seeds(result),
        _dropped(result),
    )
    return [
        passage._replace(sentences=tuple(as_sentence(text) for text in passage.sentences))
        for passage in passages
        if passage is not None and (passage.sentences or passage.table)
    ]


def _power(power: Power | None, unit: Unit) -> Iterator[str]:
    if power is None:
        return
    ratio, families = power.smallest_detectable_ratio, units_text(unit, power.families_now)
    studies = f"{power.studies:,} simulated studies at the observed variances"
    if ratio is None:
        yield (
            f"No ratio at all would be found by this test with a chance of {power.power:.0%} in"
            f" {families} like these, by {studies}"
        )
        return
    yield (
        f"The smallest effect that {families} can show with a chance of {power.power:.0%} is a"
        f" ratio of {ratio_text(ratio)} (or {ratio_text(1 / ratio)}), by {studies}, judged as the"
        " verdict is: by interval and exchange of labels"
    )


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
        f"{label}: {effect.unresolved} of {effect.contrast_rows} errors lie below twice their"
        " standard error; they weigh by what they say, and none is raised to a floor"
        for label, effect in effects
        if effect.unresolved
    ]
    table = table_of(
        ("analysis", "adjusted for"),
        ("ratio", "interval", "p", "rows", "checkpoints", unit_nouns(result.unit)),
        [_effect_row(label, effect) for label, effect in effects],
    )
    return Passage("The contrast", tuple(sentences), table)


def _named_effects(result: ClaimResult) -> Iterator[tuple[str, Effect]]:
    if result.primary is not None:
        yield f"{when(result.primary_map)} scaling (primary)", result.primary
    for how, effect in (("unadjusted", result.unadjusted), ("and accuracy", result.adjusted)):
        if effect is not None:
            yield f"{when(effect.map)} scaling, {how}", effect
    if result.secondary is not None:
        yield f"{when(result.secondary.map)} scaling (secondary)", result.secondary
    for effect in result.repeated:
        used = result.primary.covariates if result.primary else ()
        without = [name for name in used if name not in effect.covariates]
        yield f"{when(effect.map)} scaling, without {covariate_list(without)}", effect


def _effect_row(label: str, effect: Effect) -> tuple[str, ...]:
    adjusted = covariate_list((*effect.covariates, "dataset"))
    sizes = (str(effect.rows), str(effect.checkpoints), _units(effect.unit, effect.families))
    return (label, adjusted, *_estimate_cells(effect.estimate), *sizes)


def _units(unit: Unit, counts: dict[str, int]) -> str:
    if unit == "twins":
        return str(max(counts.values(), default=0))
    return ", ".join(f"{count} {mixer}" for mixer, count in counts.items())


def _estimate_cells(estimate: RatioInterval | None) -> tuple[str, str, str]:
    if estimate is None:
        return MISSING, MISSING, MISSING
    return ratio_text(estimate.ratio), range_text(estimate), p_value(estimate.p_value)


def _spreads(label: str, effect: Effect) -> Iterator[str]:
    spreads = [
        f"{decimals(value, 2)} {name}"
        for name, value in (
            (f"between {unit_nouns(effect.unit)}", effect.family_sd),
            ("between their checkpoints", effect.checkpoint_sd),
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
    effect, new = result.primary, result.primary.new_dataset
    sentence = f"Of a new dataset nothing can be said: {effect.new_dataset_problem}"
    if new is not None:
        sentence = (
            f"On a new dataset the ratio is predicted to be {ratio_text(new.ratio)}"
            f" ({level_text(result.alpha)} prediction interval {range_text(new)}), from how much"
            " the ratios of these datasets differ beyond their errors"
        )
    table = table_of(
        ("dataset", unit_nouns(result.unit), "problem"),
        ("ratio", "interval", "p"),
        [
            (
                item.dataset,
                _units(result.unit, item.families),
                item.problem or "",
                *_estimate_cells(item.estimate),
            )
            for item in effect.datasets
        ],
    )
    return Passage("By dataset", (sentence,), table)


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
    return Passage("All mixers", (sentence,), table_of(("mixer",), numbers, rows))


def _gaps(result: ClaimResult) -> Passage | None:
    sentence = (
        "Mean confidence minus accuracy, in points: the mean over families with its 95% interval;"
        " above 0 models are over-confident, below 0 under-confident"
    )
    table = table_of(
        ("scaling", "mixer"),
        ("signed gap (pp)", "95% interval (pp)", "families", "over-confident", "under-confident"),
        [
            (
                when(item.map),
                item.mixer,
                f"{100 * item.gap:+.2f}",
                points_text(item.low, item.high),
                str(item.families),
                str(item.over_confident),
                str(item.under_confident),
            )
            for item in result.signed_gaps
        ],
    )
    return None if table is None else Passage("Over- or under-confident", (sentence,), table)


def _permutation(result: ClaimResult) -> Passage | None:
    test = result.permutation
    if test is None:
        return None
    among = f"among families (within {plural(test.strata, 'group')} that share their datasets)"
    if result.unit == "twins":
        among = f"within {units_text(result.unit, test.strata)}"
    sentence = (
        f"{_exchanged(test, among)}. It assumes nothing of how {unit_nouns(result.unit)} vary; a"
        " verdict of a difference needs it beside the interval"
    )
    return Passage("Exchange of labels", (sentence,))


def _exchanged(test: Permutation, among: str) -> str:
    how = "all" if test.exact else "the observed and random, together"
    return (
        f"Exchanging mixer labels {among}, {how} {test.assignments:,} labellings, gives"
        f" {p_statement(test.p_value)}; the smallest p it could have reached is"
        f" {p_value(test.smallest_p)}"
    )


def _twins(result: ClaimResult) -> Passage | None:
    """Tell what twins say in a study that has other models too."""
    within = result.within_twins
    if within is None:
        return None
    named = [("twins", within.effect), ("and accuracy", within.adjusted)]
    rows = [_effect_row(label, effect) for label, effect in named if effect is not None]
    pairs = units_text("twins", within.permutation.strata)
    sentence = (
        f"{pairs} differ in the mixer and little else, so nothing need be adjusted for."
        f" {_exchanged(within.permutation, 'within them')}. The verdict is about all models"
    )
    numbers = ("ratio", "interval", "p", "rows", "checkpoints", "pairs of twins")
    return Passage(
        "Within twins", (sentence,), table_of(("analysis", "adjusted for"), numbers, rows)
    )


def _shares(result: ClaimResult) -> Passage:
    title = "Do size and pretraining account for it?"
    shares = result.variance_shares
    if not shares.shares:
        return Passage(title, (f"No shares of variance: {shares.problem}",))
    answer = {True: "is", False: "is not", None: "cannot be shown to be"}
    sentences = [
        f"The mixer {answer[result.verdict.primary_factor]} the primary factor: that needs the"
        " largest share of the variance of log errors within datasets, with an interval above 0."
        f" {_mixer_share(shares)} What noise alone would give is subtracted; intervals are 95%,"
        f" over {shares.resamples:,} resamples of {plural(shares.families, 'family', 'families')}"
    ]
    if shares.problem:
        sentences.append(f"Family has no share: {shares.problem}")
    rows = [
        (
            item.factor,
            percent_text(item.share),
            f"{percent_text(item.low)} to {percent_text(item.high)}",
            percent_text(item.by_chance),
            str(item.columns),
            percent_text(item.probability_largest),
        )
        for item in sorted(shares.shares, key=lambda item: -item.share)
    ]
    numbers = ("share", "interval", "by chance", "columns", "largest in")
    return Passage(title, tuple(sentences), table_of(("factor",), numbers, rows))


def _mixer_share(shares: VarianceShares) -> str:
    """Return the mixer's share with its interval, never without."""
    item = next(item for item in shares.shares if item.factor == "mixer")
    ends = f"{percent_text(item.low)} to {percent_text(item.high)}"
    return f"The mixer's share is {percent_text(item.share)} (95% interval {ends})."


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
        f" {ratios[len(ratios) // 2]}."
        " They are mixed models of log errors, with a floor under errors too small to measure; the"
        " verdict does not rest on them"
    )
    groups: dict[tuple[str, str, str], list[Specification]] = {}
    for item in curve.specifications:
        rows = "shifted" if item.shifted else "in distribution"
        groups.setdefault((estimator_name(item.metric), when(item.map), rows), []).append(item)
    table = table_of(
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
    return Passage(title, tuple(sentences), table_of(("left out", "status", "reason"), (), rows))
