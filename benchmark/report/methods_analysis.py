"""The parts of a methods page on maps, metrics, the claim, timing, software and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmark.claim import ClaimResult, covariate_list, estimator_name, when
from benchmark.markup import escape_inline, plural
from benchmark.records import MapFacts
from benchmark.report.bibliography import Bibliography
from benchmark.report.data import SHOWN
from benchmark.report.methods_text import (
    MAX_LISTED,
    bullets,
    counted,
    distinct,
    pipe_table,
    shortened,
    spread,
)
from benchmark.report.reliability import BINS
from benchmark.report.run_method import RunMethod
from benchmark.statistics import (
    DEFAULT_BINS,
    MAPS,
    METRICS,
    RESAMPLES,
    Debiased,
    Metric,
    SimulatedFloor,
)

if TYPE_CHECKING:
    from benchmark.report.contents import Contents
    from benchmark.report.data import ReportData

MAX_PROBLEMS = 20
SOFTWARE = {"torch": "Paszke et al. 2019", "transformers": "Wolf et al. 2020"}
"""Packages with a paper of their own."""


def maps_section(runs: Sequence[RunMethod], works: Bibliography) -> str:
    """Return how the temperature and the other calibration maps were fitted."""
    fits = [run.temperature for run in runs if run.temperature]
    if not fits:
        return ""
    temperature = MAPS["temperature"]
    converged = [fit for fit in fits if fit.status == "converged"]
    reasons = [fit.no_interval for fit in fits if fit.no_interval]
    sentences = [
        f"{temperature.title.capitalize()} {works.in_text(temperature.source)}: the temperature "
        "that minimises the mean negative log-likelihood of the calibration rows, which is convex "
        "in its inverse; one number a run.",
        f"{plural(len(fits), 'fit')}: {counted(fit.status.replace('_', ' ') for fit in fits)}; "
        f"{spread(fit.n for fit in fits)} calibration rows.",
    ]
    if converged:
        gradient = max(abs(fit.gradient) for fit in converged)
        sentences.append(f"Largest gradient at an optimum: {gradient:.1g}.")
    if reasons:
        sentences.append(f"Fits without an interval: {len(reasons):,} ({counted(reasons)}).")
    return bullets([*sentences, *_other_maps(runs, works)])


def _other_maps(runs: Sequence[RunMethod], works: Bibliography) -> Iterator[str]:
    fitted: Counter[str] = Counter()
    left: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for name, facts in _other_maps_of(run).items():
            fitted[name] += facts.unsuitable is None
            if facts.unsuitable is not None:
                left[facts.unsuitable][name] += 1
    told = [
        f"{MAPS[name].title} {works.in_text(MAPS[name].source)} ({plural(count, 'run')})"
        for name, count in fitted.items()
        if count
    ]
    if told:
        yield f"Fitted on the same rows beside it: {'; '.join(told)}."
    for reason, names in left.items():
        which = "; ".join(f"{MAPS[n].title} ({plural(k, 'run')})" for n, k in names.items())
        yield f"Not fitted ({escape_inline(reason)}): {which}."


def _other_maps_of(run: RunMethod) -> dict[str, MapFacts]:
    known = {name: facts for name, facts in run.maps.items() if name in MAPS}
    return {name: facts for name, facts in known.items() if name not in ("none", "temperature")}


def metrics_section(contents: Contents, runs: Sequence[RunMethod], works: Bibliography) -> str:
    """Return what was measured on the scored rows, how it is binned, and how intervals are made."""
    frame = contents.data.in_distribution
    known = [
        metric
        for name, metric in METRICS.items()
        if f"{name}_none" in frame and frame[f"{name}_none"].notna().any()
    ]
    if not known:
        return ""
    header = ("metric", "column", "unit", "bins", "95% interval", "source")
    shown = "; ".join(METRICS[name].title for name in SHOWN if METRICS[name] in known)
    rooted = [metric.title for metric in known if metric.over_seeds == "root_mean_square"]
    sentences = [
        f"Tables and figures show {escape_inline(shown)}; `tables/runs.csv` has all of them.",
        f"Averages over seeds: of {escape_inline('; '.join(rooted))} by the signed root of the "
        "mean of signed squares, of all others by their mean."
        if rooted and len({run.seed for run in runs}) > 1
        else "",
        *_resampling(known, runs),
        "Intervals are of scores before and after temperature scaling; those after other maps have "
        "none, but what they win over the temperature has, with both maps held fixed."
        if any(_other_maps_of(run) for run in runs)
        else "",
        works.in_text(
            f"Reliability diagrams: {BINS} equal-width bins, bands binomial at a bin's mean "
            "confidence (Brocker & Smith 2007)."
        )
        if contents.pages
        else "",
    ]
    rows = [_metric_row(metric, works) for metric in known]
    return f"{bullets(sentences)}\n{pipe_table(header, rows)}"


def _resampling(known: Sequence[Metric], runs: Sequence[RunMethod]) -> Iterator[str]:
    """Say how many resamples there were, which only this version's scores are known to have."""
    versions = Counter(run.is_current for run in runs if run.is_completed)
    current, older, unknown = versions[True], versions[False], versions[None]
    if current:
        floor = any(isinstance(metric.interval, SimulatedFloor) for metric in known)
        noise = f", and noise floors are means of {RESAMPLES:,} simulations" if floor else ""
        yield (
            "What depends on the temperature includes its uncertainty: it was fitted again on "
            f"{RESAMPLES:,} bootstrap resamples of the calibration rows{noise} "
            f"({plural(current, 'run')})."
        )
    if older:
        yield f"{plural(older, 'run')} with scores of another version of the code."
    if unknown:
        yield f"{plural(unknown, 'run')} of which the version of the scoring code is not known."


def _metric_row(metric: Metric, works: Bibliography) -> tuple[str, ...]:
    return (
        escape_inline(metric.title),
        f"`{metric.name}`",
        metric.unit.name,
        _bins(metric),
        works.in_text(metric.interval.describe()),
        works.in_text(metric.source),
    )


def _bins(metric: Metric) -> str:
    """Say how a metric bins its rows; empty where it does not."""
    kind = metric.interval
    if isinstance(kind, SimulatedFloor):
        return f"{kind.n_bins} {kind.scheme.replace('_', '-')}"
    if isinstance(kind, Debiased) and not kind.by_class:
        return f"{DEFAULT_BINS} equal-mass"
    return "" if metric.bins is None else str(metric.bins)


def claim_section(contents: Contents, works: Bibliography) -> str:
    """Return what was tested, on what, and by which methods."""
    result = contents.claim_result
    if result is None:
        reason = contents.verdict[0] if contents.verdict else ""
        return bullets([escape_inline(reason)])
    first, second = (escape_inline(name) for name in result.contrast)
    estimator = escape_inline(estimator_name(result.metric))
    margin = result.equivalence_ratio
    sentences = [
        f"Tested: the ratio of calibration errors ({estimator}, {when(result.primary_map)} "
        f"temperature scaling) of {first} models over {second} models, a paraphrase of what "
        f"{works.in_text('Minderer et al. 2021')} found.",
        f"Level {result.alpha:g}; ratios of {1 / margin:.3f} to {margin:.3f} count as equivalent.",
        *_declared(result),
        *_primary(result, works),
        *_secondary(result, works),
    ]
    return bullets(sentences)


def _declared(result: ClaimResult) -> Iterator[str]:
    stamp = result.declaration
    if stamp is None or stamp.problem is not None:
        return
    if stamp.stamped_at is None:
        yield "When it was declared is not recorded."
        return
    digest, count = shortened(stamp.digest), stamp.records_before
    yield (
        f"Declared {stamp.stamped_at:%Y-%m-%d %H:%M} UTC (SHA-256 {digest}), when "
        f"{plural(count, 'run')} had a record; changed since: "
        f"{distinct(field.name for field in stamp.changed) or 'nothing'}."
    )


def _primary(result: ClaimResult, works: Bibliography) -> Iterator[str]:
    effect, exchange = result.primary, result.permutation
    if effect is None:
        reason = escape_inline(str(result.primary_problem))
        yield f"The primary analysis could not be made: {reason}."
        return
    unit = {"family": "families", "twins": "pairs of twins"}[effect.unit]
    sides = ", ".join(f"{count:,} {escape_inline(name)}" for name, count in effect.families.items())
    yield (
        f"Primary analysis: {effect.rows:,} rows (a model on a data set, seeds averaged), "
        f"{plural(effect.checkpoints, 'model')}, {unit}: {sides}."
    )
    yield f"Adjusted for: {escape_inline(covariate_list(effect.covariates))}."
    reasons: dict[str, list[str]] = defaultdict(list)
    for left in effect.left_out:
        reasons[left.reason].append(left.name)
    for reason, names in reasons.items():
        yield f"Not adjusted for {escape_inline(covariate_list(names))}: {escape_inline(reason)}."
    yield works.in_text(
        "Estimating equation of log errors (Liang & Zeger 1986), standard errors by "
        f"{'pair' if effect.unit == 'twins' else 'family'} (Bell & McCaffrey 2002)."
    )
    if exchange is not None:
        how = "all of them" if exchange.exact else "drawn at random"
        yield (
            f"Mixer labels were exchanged in {exchange.assignments:,} ways ({how}), within "
            f"{plural(exchange.strata, 'stratum', 'strata')}."
        )
    if effect.new_dataset is not None:
        yield works.in_text(
            "Prediction for another data set: Paule & Mandel 1982; Higgins et al. 2009."
        )


def _secondary(result: ClaimResult, works: Bibliography) -> Iterator[str]:
    """Yield the methods of what stands beside the verdict."""
    power, shares, pairs = result.verdict.power, result.variance_shares, result.matched_pairs
    if power is not None:
        yield f"Power: {power.studies:,} simulated studies at the observed variances."
    if shares.shares:
        yield (
            f"Shares of variance: {shares.resamples:,} bootstrap resamples of "
            f"{plural(shares.families, 'family', 'families')}."
        )
    if pairs.pairs:
        adjusted = any(pair.p_adjusted is not None for pair in pairs.pairs)
        holm = works.in_text(", p values adjusted (Holm 1979)") if adjusted else ""
        count = len({(pair.first, pair.second, pair.dataset) for pair in pairs.pairs})
        yield f"Matched pairs: {count:,}{holm}."
    shift = result.under_shift.primary
    if shift is not None:
        sets = distinct(shift.shifts, most=40)
        yield f"Under shift: {shift.rows:,} rows, on clean test sets and on {sets}."
    priors = result.prior_sensitivity.posteriors
    if priors:
        names = distinct(one.prior for one in priors)
        prior = "Priors of the deviation between units (Gelman 2006)"
        yield f"{works.in_text(prior)}: {names}."
    curve = result.specification_curve
    if curve.specifications:
        yield f"Specification curve: {len(curve.specifications):,} analyses."
    if result.dropped:
        count = len(result.dropped)
        yield f"Not in the analysis: {plural(count, 'run or model', 'runs or models')}."


def timing_section(runs: Sequence[RunMethod]) -> str:
    """Return how models were timed."""
    # Seeds share one measurement, which each of their records holds.
    timed = {
        run.timed_run or run.name: run.timing for run in runs if run.timing and run.is_completed
    }
    if not timed:
        return ""
    queries = [one.queries for one in timed.values() if one.queries is not None]
    settings = Counter(one.setting for one in timed.values())
    names = [name for name, _ in next(iter(settings))]
    rows = [
        (*(escape_inline(value) for _, value in setting), f"{count:,}")
        for setting, count in settings.most_common()
    ]
    disturbed = sum(one.is_disturbed for one in timed.values())
    sentences = [
        f"{plural(len(timed), 'measurement')}, shared by the seeds of a model and data set.",
        f"Latency: of the forward pass, one row at a time, {spread(queries)} queries."
        if queries
        else "",
        f"Sample: {spread(one.sample_rows for one in timed.values())} test rows.",
        f"Marked as disturbed: {disturbed:,}.",
    ]
    return f"{bullets(sentences)}\n{pipe_table([*names, 'measurements'], rows)}"


def software_section(data: ReportData, runs: Sequence[RunMethod], works: Bibliography) -> str:
    """Return versions, machines, code and time."""
    versions: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        packages = run.provenance.get("packages") or {}
        for name, version in {"Python": run.provenance.get("python"), **packages}.items():
            if version:
                versions[str(name)][str(version)] = None
    told = [
        f"{escape_inline(name)} {distinct(found)}"
        + (f" {works.in_text(SOFTWARE[name])}" if name in SOFTWARE else "")
        for name, found in versions.items()
    ]
    commits = Counter(shortened(run.provenance.get("git_commit")) for run in runs)
    code = [f"{one} ({plural(count, 'run')})" for one, count in commits.most_common() if one]
    dirty = sum(str(run.provenance.get("git_commit")).endswith("-dirty") for run in runs)
    systems = distinct(run.provenance.get("platform") for run in runs)
    first, last = data.finished
    return bullets(
        [
            "As each record tells of the command that wrote it last, which may not have trained."
            if told
            else "",
            f"Software: {', '.join(told)}." if told else "",
            *(f"Machine: {escape_inline(machine)}." for machine in data.machines),
            f"Operating system: {systems}." if systems else "",
            f"Code: commit {', '.join(code[:MAX_LISTED])}." if code else "",
            f"{plural(dirty, 'run')} of code that differed from its commit." if dirty else "",
            f"Records were written from {first} to {last}." if first else "",
        ]
    )


def problems_section(contents: Contents, what: str = "Runs") -> str:
    """Return which runs, or rows of a table, have no result, or lack a part of it, and why."""
    statuses = {name: count for name, count in contents.data.runs.items() if count}
    counts = ", ".join(f"{count:,} {escape_inline(name)}" for name, count in statuses.items())
    problems = contents.problems
    listed = [
        f"{escape_inline(p.run)}: {escape_inline(p.status)}"
        + (f" ({escape_inline(p.reason)})" if p.reason else "")
        for p in problems[:MAX_PROBLEMS]
    ]
    rest = len(problems) - MAX_PROBLEMS
    more = f"{plural(rest, 'more problem')} in `tables/problems.csv`." if rest > 0 else ""
    return bullets([f"{what}: {counts}.", *listed, more] if counts or listed else [])
