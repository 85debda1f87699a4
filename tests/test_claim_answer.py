"""The verdict's sentences: the answer, how sure it is, what would settle it, for every outcome."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from claim_frames import runs, two_modalities
from hypothesis import given
from hypothesis import strategies as st
from test_claim_twins import twins

from benchmark.claim import ClaimResult, evaluate_claim
from benchmark.claim.answer import (
    FAMILIES_THAT_EXIST,
    answer,
    how_sure,
    in_numbers,
    what_would_settle,
)
from benchmark.claim.result import Effect, Outcome, Permutation, Power, RatioInterval
from benchmark.registry import Claim

CASES = {
    "supported": (two_modalities(ratio=0.5, families=(5, 5)), "supported"),
    "contradicted": (two_modalities(ratio=2.0, families=(5, 5)), "contradicted"),
    "equivalent": (
        two_modalities(families=(12, 12), family_sd=0.01, noise_sd=0.02),
        "equivalent",
    ),
    "undecided": (runs(ratio=0.8, families=(6, 6)), "undecided"),
    "too few families": (runs(ratio=0.1, families=(3, 3)), "undecided"),
    "one family a side": (runs(families=(1, 1)), "undecided"),
    "twins, supported": (twins(ratio=0.7, noise_sd=0.05), "supported"),
    "twins, contradicted": (twins(ratio=1.6, noise_sd=0.05), "contradicted"),
    "twins, undecided": (twins(ratio=0.9, noise_sd=0.3), "undecided"),
    "twins, too few": (twins(3, ratio=0.3, noise_sd=0.05), "undecided"),
}
SAID = {
    "supported": (
        r"^Supported: on image-data and text-data, before temperature scaling and at equal size,"
        r" attention models are better calibrated than convolution models\.$",
        r"^It is hardly chance: with 10 attention and 10 convolution families, chance alone gives"
        r" a difference as large in about 1 of 10,000 such studies\.$",
        r"^What is left open is the cause.*\(twins\) would settle it\.$",
    ),
    "contradicted": (
        r"^Contradicted: .* attention models are worse calibrated than convolution models\.$",
        r"^It is hardly chance: ",
        r"^What is left open is the cause",
    ),
    "equivalent": (
        r"^Equivalent: .* models are calibrated like convolution models, to within 10%\.$",
        r"^With 24 attention and 24 convolution families, a difference of more than 10% is excluded"
        r" at the 95% level\.$",
        r"^What is left open is other datasets and other kinds of models\.$",
    ),
    "undecided": (
        r"^Undecided: on image-data, .* attention models are not shown to be better or worse"
        r" calibrated than convolution models\.$",
        r"^It may be chance: .* in about 1 of \d+ such studies, and the errors of attention models"
        r" may truly be from \d+% lower to \d+% higher\.$",
        r"^If the difference seen is real, to show it takes about \d+ more families like these; if"
        r" there is none, to show that takes about \d+ more families like these\.$",
    ),
    "too few families": (
        r"^Undecided: ",
        r"about 1 of 10 such studies; so few families could not have settled it whatever they"
        r" showed\.$",
        r"to show it takes about 1 more family like these; if there is none, to show that takes"
        r" more families than exist\.$",
    ),
    "one family a side": (
        r"^Undecided: whether attention or convolution models are better calibrated cannot be told",
        r"^There is no estimate, because 2 families cannot tell",
        r"^To settle it takes several families of attention and of convolution models",
    ),
    "twins, supported": (
        r"attention models are better calibrated than their convolution twins\.$",
        r"with 9 pairs of twins, chance alone",
        r"^What is left open is larger or otherwise trained models",
    ),
    "twins, contradicted": (
        r"attention models are worse calibrated than their convolution twins\.$",
        r"with 9 pairs of twins, chance alone",
        r"^What is left open is larger or otherwise trained models",
    ),
    "twins, undecided": (
        r"not shown to be better or worse calibrated than their convolution twins\.$",
        r"with 9 pairs of twins, chance alone",
        r"pairs? of twins like these|times as many pairs",
    ),
    "twins, too few": (
        r"convolution twins\.$",
        r"so few pairs could not have settled it whatever they showed\.$",
        r"pairs of twins like these",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_outcome_has_its_three_sentences(case: str) -> None:
    frame, outcome = CASES[case]
    result = evaluate_claim(frame)
    assert result.verdict.outcome == outcome
    assert len(result.verdict.sentences) == 3
    for sentence, pattern in zip(result.verdict.sentences, SAID[case], strict=True):
        assert re.search(pattern, sentence), sentence
    if "twins" in case:
        text = " ".join([*result.verdict.sentences, *result.verdict.numbers])
        assert "famil" not in text
    _reads_well(result)


def _reads_well(result: ClaimResult) -> None:
    for sentence in (*result.verdict.sentences, *result.verdict.numbers):
        assert sentence[0].isupper(), sentence
        assert sentence.endswith("."), sentence
        assert not re.search(r"\.\.|  |None|nan|inf\b| ,", sentence), sentence


def test_the_figures_stand_behind_the_sentences() -> None:
    result = evaluate_claim(CASES["supported"][0])
    assert result.primary is not None
    first = result.verdict.numbers[0]
    assert f"{result.primary.estimate.ratio:.2f} times that of convolution models" in first
    assert f"95% interval {result.primary.estimate.low:.2f} to" in first
    assert "exchange of labels p = " in first
    assert "of studies like this" in result.verdict.numbers[1]
    after = result.verdict.numbers[2]
    assert after.startswith("After temperature scaling, which the verdict is not about, it is ")
    assert "For a new dataset" in result.verdict.numbers[3]


def test_errors_below_the_noise_ask_for_larger_test_sets() -> None:
    effect = made_up().model_copy(update={"unresolved": 9, "contrast_rows": 12})
    assert what_would_settle(effect, "undecided", needs(30, 60)).startswith(
        "Larger test sets would settle it first: 9 of 12 errors"
    )


def test_more_families_than_exist_are_no_number() -> None:
    beyond = FAMILIES_THAT_EXIST + 1
    said = what_would_settle(made_up(), "undecided", needs(beyond, None))
    assert said.startswith("Published models cannot settle it")
    assert "(twins) may." in said
    assert not re.search(r"\d", said)
    half = what_would_settle(made_up(), "undecided", needs(FAMILIES_THAT_EXIST, beyond))
    assert f"about {FAMILIES_THAT_EXIST - 20} more families like these" in half
    assert half.endswith("takes more families than exist.")
    other = what_would_settle(made_up(), "undecided", needs(beyond, 20))
    assert other.startswith("To show that there is no difference takes another study of this size;")
    pairs = made_up().model_copy(update={"unit": "twins"})
    assert "more than 10 times as many pairs" in what_would_settle(
        pairs, "undecided", needs(201, None)
    )


ENDS = st.floats(0.02, 50)


@given(
    ends=st.tuples(ENDS, ENDS, ENDS).map(sorted),
    p=st.floats(0, 1),
    exchange=st.none() | st.floats(1e-4, 1),
    outcome=st.sampled_from(["supported", "contradicted", "equivalent", "undecided"]),
    counts=st.tuples(st.none() | st.integers(1, 3000), st.none() | st.integers(1, 3000)),
    unit=st.sampled_from(["family", "twins"]),
    open_ends=st.sampled_from(["", "low", "high", "both"]),
)
def test_any_result_is_a_sentence(
    ends: list[float],
    p: float,
    exchange: float | None,
    outcome: Outcome,
    counts: tuple[int | None, int | None],
    unit: str,
    open_ends: str,
) -> None:
    low, ratio, high = ends
    low = 0.0 if open_ends in ("low", "both") else low
    high = float("inf") if open_ends in ("high", "both") else high
    interval = RatioInterval(ratio=ratio, low=low, high=high, p_value=p, df=8)
    effect = made_up().model_copy(update={"estimate": interval, "unit": unit})
    test = None
    if exchange is not None:
        test = Permutation(
            p_value=exchange, tied=0, smallest_p=exchange / 2, assignments=9, exact=True, strata=1
        )
    power = needs(*counts)
    for sentence in (
        answer(Claim(), effect, outcome),
        how_sure(Claim(), effect, outcome, test),
        what_would_settle(effect, outcome, power),
        *in_numbers(Claim(), effect, power, test),
    ):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert not re.search(r"None|nan|\binf\b|  |1 of 0\b|0 of 10 ", sentence), sentence


def made_up() -> Effect:
    """An estimate that decides nothing, from 20 families."""
    return Effect(
        metric="ece_15",
        map="none",
        estimate=RatioInterval(ratio=0.9, low=0.7, high=1.2, p_value=0.3, df=18),
        new_dataset=None,
        new_dataset_problem="one dataset",
        covariates=(),
        left_out=(),
        rows=20,
        checkpoints=20,
        families={"attention": 10, "convolution": 10},
        family_sd=0.3,
        checkpoint_sd=None,
        residual_sd=0.3,
        unresolved=0,
        contrast_rows=20,
    )


def needs(observed: int | None, equivalence: int | None) -> Power:
    """The power of 20 families of which more would decide."""
    return Power(
        power=0.8,
        smallest_detectable_ratio=0.7,
        studies=1000,
        families_now=20,
        families_for_observed_effect=observed,
        families_for_equivalence=equivalence,
    )


def test_one_or_two_datasets_are_named_more_are_counted() -> None:
    parts = [runs(ratio=0.5, families=(6, 6), modality=f"m{i}", seed=i) for i in range(3)]
    said = evaluate_claim(pd.concat(parts, ignore_index=True)).verdict.sentences[0]
    assert said.startswith("Supported: on these 3 datasets, before")
