"""Sensitivity to the prior, in words and a table."""

from __future__ import annotations

from benchmark.claim.passage import Passage, table_of
from benchmark.claim.result import ClaimResult
from benchmark.claim.side_results import Posterior
from benchmark.claim.wording import percent_text, ratio_text, unit_nouns
from benchmark.markup import decimals

TITLE = "Sensitivity to the prior"


def prior_passage(result: ClaimResult) -> Passage | None:
    """Return the passage; None where there is no primary analysis."""
    found = result.prior_sensitivity
    if found.problem is not None:
        return Passage(TITLE, (f"No Bayesian version: {found.problem}",))
    if not found.posteriors:
        return None
    nouns = unit_nouns(result.unit)
    sentence = (
        "The primary model once more, as a Bayesian one: the log ratio has a normal prior of mean 0"
        f" and standard deviation {found.contrast_sd:g}, the standard deviation between {nouns}"
        f" one of three. The median ratio is {_range(found.posteriors, 'median')},"
        f" the chance of a ratio below 1 {_chances(found.posteriors)}; {_answer(found.posteriors)}."
        " The verdict does not rest on it"
    )
    rows = [
        (
            one.prior,
            ratio_text(one.median),
            f"{ratio_text(one.low)} to {ratio_text(one.high)}",
            _percent(one.below_one),
            decimals(one.unit_sd, 2),
        )
        for one in found.posteriors
    ]
    spread = f"sd between {nouns}"
    numbers = ("median ratio", "95% interval", "chance of a ratio below 1", spread)
    return Passage(TITLE, (sentence,), table_of((f"prior of the {spread}",), numbers, rows))


def _range(posteriors: tuple[Posterior, ...], name: str) -> str:
    texts = [ratio_text(value) for value in sorted(getattr(one, name) for one in posteriors)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _chances(posteriors: tuple[Posterior, ...]) -> str:
    texts = [_percent(value) for value in sorted(one.below_one for one in posteriors)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _percent(chance: float) -> str:
    """Return a chance in percent, never as one that leaves no doubt."""
    text = percent_text(chance)
    return {"0%": "under 1%", "100%": "over 99%"}.get(text, text)


def _answer(posteriors: tuple[Posterior, ...]) -> str:
    excluding = sum(one.high < 1 or one.low > 1 for one in posteriors)
    if excluding == 0:
        return "under none of them the 95% interval excludes 1"
    which = "all of them" if excluding == len(posteriors) else f"{excluding} of {len(posteriors)}"
    return f"under {which} the 95% interval excludes 1"
