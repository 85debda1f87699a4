"""How the claim's numbers and names are written, wherever they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmark.claim.bin_variants import VARIANTS
from benchmark.claim.result import RatioInterval, Unit
from benchmark.markup import MISSING, decimals, interval, plural
from benchmark.statistics import METRICS

_UNITS: dict[Unit, tuple[str, str]] = {
    "family": ("family", "families"),
    "twins": ("pair of twins", "pairs of twins"),
}
SMALLEST_P = 1e-4
"""A p value below this is written as a bound: more digits would promise more than a test gives."""

_COVARIATES = {
    "log_parameters": "size",
    "log_pretraining_examples": "pretraining",
    "calibration_rows_error": "error on the calibration rows",
}


def p_value(value: float | None) -> str:
    """Return a p value with two significant digits, never as 0; a dash for None.

    >>> p_value(0.00035), p_value(0.1), p_value(2e-7)
    ('0.00035', '0.10', 'under 0.0001')
    """
    if value is None:
        return MISSING
    return f"under {SMALLEST_P}" if value < SMALLEST_P else f"{value:#.2g}"


def p_statement(value: float) -> str:
    """Return a p value as part of a sentence.

    >>> p_statement(0.0312), p_statement(0.0)
    ('p = 0.031', 'p under 0.0001')
    """
    return f"p {'' if value < SMALLEST_P else '= '}{p_value(value)}"


def ratio_text(value: float) -> str:
    """Return a ratio with two decimals, or with one digit where it is extreme.

    One that ran off because a side's errors cannot be told from zero is no number.

    >>> ratio_text(0.534), ratio_text(0.0012), ratio_text(1234.0), ratio_text(0.0)
    ('0.53', '0.001', '1e+03', 'not measurable')
    """
    if value == 0 or math.isinf(value):
        return "not measurable"
    if 0.005 <= value < 100 or math.isnan(value):
        return decimals(value, 2)
    return f"{value:.1g}"


def range_text(interval: RatioInterval) -> str:
    """Return an interval of a ratio in words, also where it has no lower or upper end.

    >>> half = RatioInterval(ratio=0.5, low=0, high=1.4, p_value=0.2, df=5)
    >>> range_text(half), range_text(half.model_copy(update={"low": 0.2}))
    ('at most 1.40', '0.20 to 1.40')
    """
    low, high = interval.low > 0, math.isfinite(interval.high)
    if low and high:
        return f"{ratio_text(interval.low)} to {ratio_text(interval.high)}"
    if high:
        return f"at most {ratio_text(interval.high)}"
    return f"at least {ratio_text(interval.low)}" if low else "no limits"


def limits_text(interval: RatioInterval, level: str) -> str:
    """Return an interval as a sentence has it in brackets.

    >>> half = RatioInterval(ratio=0.5, low=0, high=1.4, p_value=0.2, df=5)
    >>> limits_text(half, "95%")
    '95% interval: at most 1.40; no lower limit can be given'
    """
    low, high = interval.low > 0, math.isfinite(interval.high)
    if low and high:
        return f"{level} interval {range_text(interval)}"
    if not low and not high:
        return f"no {level} limits can be given"
    missing = "upper" if low else "lower"
    return f"{level} interval: {range_text(interval)}; no {missing} limit can be given"


def times_text(interval: RatioInterval, second: str) -> str:
    """Return a ratio's estimate as "1.20 times that of convolution models".

    >>> times_text(RatioInterval(ratio=0, low=0, high=1.4, p_value=0.2, df=5), "convolution")
    'too small to be measured beside that of convolution models'
    """
    if interval.ratio == 0:
        return f"too small to be measured beside that of {second} models"
    if math.isinf(interval.ratio):
        return f"measurable where that of {second} models is too small to be"
    return f"{ratio_text(interval.ratio)} times that of {second} models"


def percent_text(share: float) -> str:
    """Return a share in whole percents."""
    return f"{decimals(100 * share, 0)}%"


def points_text(low: float | None, high: float | None) -> str:
    """Return an interval of fractions in percentage points; a dash where there is none."""
    low, high = (None if end is None else 100 * end for end in (low, high))
    return interval(low, high, 2) or MISSING


def level_text(alpha: float) -> str:
    """Return the level of an interval at `alpha`, e.g. 0.05 -> '95%'."""
    return f"{100 * (1 - alpha):g}%"


def units_text(unit: Unit, count: int) -> str:
    """Return a number of what a study replicates.

    >>> units_text("family", 1), units_text("twins", 9)
    ('1 family', '9 pairs of twins')
    """
    return plural(count, *_UNITS[unit])


def size_text(unit: Unit, counts: Mapping[str, int]) -> str:
    """Return how much is replicated, by mixer.

    >>> size_text("family", {"attention": 6, "convolution": 5})
    '6 attention and 5 convolution families'
    >>> size_text("twins", {"attention": 9, "convolution": 9})
    '9 pairs of twins'
    """
    if unit == "twins":  # every pair has both mixers
        return total_text(unit, counts)
    listed = " and ".join(f"{count} {mixer}" for mixer, count in counts.items())
    return f"{listed} {unit_nouns(unit)}"


def total_text(unit: Unit, counts: Mapping[str, int]) -> str:
    """Return how much is replicated in all.

    >>> total_text("family", {"attention": 6, "convolution": 5})
    '11 families'
    """
    values = counts.values()
    return units_text(unit, max(values, default=0) if unit == "twins" else sum(values))


def unit_nouns(unit: Unit) -> str:
    """Return what a study replicates, in the plural."""
    return _UNITS[unit][1]


def covariate_name(name: str) -> str:
    """Return a covariate's name in words."""
    return _COVARIATES.get(name, name.replace("_", " "))


def covariate_list(names: Sequence[str], nothing: str = "nothing") -> str:
    """Return covariates as a list in words, or `nothing` where there is none.

    >>> covariate_list(["log_parameters", "test_error"])
    'size, test error'
    """
    return ", ".join(covariate_name(name) for name in names) or nothing


def estimator_name(metric: str) -> str:
    """Return a metric's label, or the name of a published table's own in words.

    >>> estimator_name("ece_15"), estimator_name("calibration_error")
    ('ECE, 15 equal-width bins', 'calibration error')
    """
    labels = {known.name: known.label for known in (*METRICS.values(), *VARIANTS)}
    return labels.get(metric, metric.replace("_", " "))


def as_sentence(text: str) -> str:
    """Return `text` with a capital at its start and a full stop at its end.

    >>> as_sentence("no model of that mixer")
    'No model of that mixer.'
    """
    text = text.strip()
    # Names keep their case: only a plain word is given a capital.
    first = text.split(" ", 1)[0]
    if first.isalpha() and first.islower():
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
