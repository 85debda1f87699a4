"""What the test of the claim returns: frozen, JSON-serialisable values.

Every effect is a ratio of calibration errors, first mixer of the contrast over the second, so
that below 1 the first is better calibrated.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

ClaimMap = Literal["none", "temperature"]
CLAIM_MAPS: dict[Literal["before", "after"], ClaimMap] = {"before": "none", "after": "temperature"}
"""The calibration maps after which the claim is tested, by how people say it of scaling."""

_WORDS = {map_name: word for word, map_name in CLAIM_MAPS.items()}


def when(map_name: ClaimMap) -> str:
    """Return `before` or `after`, to be followed by `temperature scaling`."""
    return _WORDS[map_name]


Unit = Literal["family", "twins"]
"""What is replicated: families, or pairs of models that differ in the mixer only."""
Outcome = Literal["supported", "contradicted", "equivalent", "undecided"]
Factor = Literal["mixer", "size", "pretraining", "recipe", "accuracy", "family"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class LeftOut(_Frozen):
    """A covariate that was declared and not used, with the reason."""

    name: str
    reason: str


class RatioInterval(_Frozen):
    """A ratio with its interval and two-sided p value against 1.

    `low` is 0 where no lower limit can be given, `high` infinite where no upper one can; so is
    `ratio` where the errors of one mixer cannot be told from zero.
    """

    ratio: float
    low: float
    high: float
    p_value: float
    df: float


class LevelEffect(_Frozen):
    """A mixer's calibration error over that of the contrast's second mixer, adjusted."""

    mixer: str
    families: int
    checkpoints: int
    estimate: RatioInterval | None


class DatasetEffect(_Frozen):
    """The contrast within one dataset; `problem` says why there is no estimate."""

    dataset: str
    families: dict[str, int]
    estimate: RatioInterval | None
    problem: str | None = None


class Effect(_Frozen):
    """The contrast, adjusted for the covariates that the data could carry.

    `estimate` is of the datasets in it, `new_dataset` a prediction for another one, with the
    reason in `new_dataset_problem` where there is none. Standard deviations are of log errors:
    between families, between checkpoints of a family, and what remains; a None deviation could
    not be told apart. `unresolved` counts errors of the contrast's rows below twice their standard
    error, which weigh by what they say. Where `unit` is twins, families are pairs of twins.
    """

    metric: str
    map: ClaimMap
    estimate: RatioInterval
    new_dataset: RatioInterval | None
    new_dataset_problem: str | None
    covariates: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    rows: int
    checkpoints: int
    families: dict[str, int]
    family_sd: float | None
    checkpoint_sd: float | None
    residual_sd: float
    unresolved: int
    contrast_rows: int
    unit: Unit = "family"
    levels: tuple[LevelEffect, ...] = ()
    datasets: tuple[DatasetEffect, ...] = ()


class SignedGap(_Frozen):
    """Mean confidence minus accuracy of a mixer's models: above 0, they are over-confident.

    The mean over families with its 95% t interval (None with one family), and how many of the
    checkpoints' values, one a dataset, are above and below 0.
    """

    mixer: str
    map: ClaimMap
    families: int
    gap: float
    low: float | None
    high: float | None
    over_confident: int
    under_confident: int


class Permutation(_Frozen):
    """The test that exchanges mixer labels among families.

    `assignments` counts the labellings tried, the observed one included; `smallest_p` is the
    least p value that any labelling could have had with these data. `tied` is the part of
    `p_value` that comes from labellings exactly as extreme as the observed one, itself included.
    A verdict of a difference needs it beside the interval.
    """

    p_value: float
    tied: float
    smallest_p: float
    assignments: int
    exact: bool
    strata: int


class Pair(_Frozen):
    """A matched pair on one dataset. Differences are first minus second, ratios first / second.

    Of the debiased error `difference`, `low` and `high` are signed roots of the difference of
    squares, which is what the test rows can tell; p values are adjusted by Holm's method.
    `no_interval` says why the rows cannot tell.
    """

    dataset: str
    map: ClaimMap
    first: str
    second: str
    size_ratio: float | None
    accuracy_difference: float
    seeds: int
    ratio: float | None
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    no_interval: str | None = None


class PooledPairs(_Frozen):
    """The ratio of root mean squared errors over all pairs of a map, first mixer over second.

    `low` and `high` are None where the pairs set no limit; `families` counts those of each side.
    """

    map: ClaimMap
    pairs: int
    families: tuple[int, int]
    ratio: float | None
    low: float | None
    high: float | None


class TwinPoint(_Frozen):
    """Two twins on one dataset: their models, accuracies and signed roots of squared errors.

    Each pair of values is in the order of the contrast.
    """

    pair: str
    dataset: str
    map: ClaimMap
    models: tuple[str, str]
    accuracies: tuple[float, float]
    errors: tuple[float, float]


class TwinContrast(_Frozen):
    """The contrast within twins of a study that has other models too.

    It holds whatever twins share fixed, so nothing is adjusted for but, in `adjusted`, accuracy.
    """

    effect: Effect
    adjusted: Effect | None
    permutation: Permutation


class MatchedPairs(_Frozen):
    """Pairs of like checkpoints: the rule, the pairs, and why some could not be compared."""

    rule: str
    metric: str
    pairs: tuple[Pair, ...] = ()
    pooled: tuple[PooledPairs, ...] = ()
    problems: tuple[str, ...] = ()


class VarianceShare(_Frozen):
    """A factor's Shapley share of the variance of log errors within datasets.

    `by_chance` is what its columns would explain of noise; it is already subtracted, so that
    a share can be slightly negative. `probability_largest` counts resamples of families in
    which the share was the largest.
    """

    factor: Factor
    share: float
    low: float
    high: float
    by_chance: float
    columns: int
    probability_largest: float


class VarianceShares(_Frozen):
    """Shares of all factors (they sum to `explained`) with bootstrap intervals over families.

    `problem` says why there are none, or why family is not among them.
    """

    shares: tuple[VarianceShare, ...] = ()
    explained: float | None = None
    resamples: int = 0
    families: int = 0
    problem: str | None = None


class Specification(_Frozen):
    """One way of analysing the contrast, and what it gave."""

    metric: str
    bins: int | None
    map: ClaimMap
    covariates: tuple[str, ...]
    shifted: bool
    rows: int
    estimate: RatioInterval


class SpecificationCurve(_Frozen):
    """All specifications, smallest ratio first, with counts by direction and significance."""

    specifications: tuple[Specification, ...] = ()
    below_one: int = 0
    above_one: int = 0
    excluding_one_below: int = 0
    excluding_one_above: int = 0
    not_estimable: int = 0


class SeedVariance(_Frozen):
    """Spread of log errors between the seeds of one checkpoint on one dataset."""

    standard_deviation: float | None
    checkpoints: int
    seeds: int


class Power(_Frozen):
    """What the verdict could have found with this design.

    `smallest_detectable_ratio` (below 1; above 1 it is the inverse) is found with probability
    `power`, by interval and exchange of labels together; None: no ratio is. The family counts are
    totals over both mixers, None where no number up to the limit searched would do.
    """

    power: float
    smallest_detectable_ratio: float | None
    studies: int
    families_now: int
    families_for_observed_effect: int | None
    families_for_equivalence: int | None


class Verdict(_Frozen):
    """The verdict by fixed rules, with sentences to print.

    `outcome` is about the datasets that were tried, `new_dataset` about another one (None where
    nothing can be said of it). The three `sentences` say the answer, how sure it is and what would
    settle it, in words; `numbers` are sentences with the figures behind them.
    """

    outcome: Outcome
    new_dataset: Outcome | None
    sentences: tuple[str, str, str]
    numbers: tuple[str, ...] = ()
    reasons: tuple[str, ...]
    interval: RatioInterval | None
    power: Power | None
    primary_factor: bool | None


class Dropped(_Frozen):
    """A run or a checkpoint that is not in the analysis, and why."""

    name: str
    status: str
    reason: str


class ClaimResult(_Frozen):
    """Everything the report prints about the claim.

    `primary` decides; `unadjusted` is without covariates, `adjusted` with accuracy besides,
    `secondary` the primary analysis after the other map. Where `unit` is twins, all of these are
    within twins; else `within_twins` is, where there are enough of them.
    """

    contrast: tuple[str, str]
    alpha: float
    equivalence_ratio: float
    primary_map: ClaimMap
    metric: str
    unit: Unit = "family"
    primary: Effect | None
    primary_problem: str | None
    unadjusted: Effect | None
    adjusted: Effect | None
    secondary: Effect | None
    repeated: tuple[Effect, ...]
    permutation: Permutation | None
    signed_gaps: tuple[SignedGap, ...]
    within_twins: TwinContrast | None = None
    twin_points: tuple[TwinPoint, ...] = ()
    matched_pairs: MatchedPairs
    variance_shares: VarianceShares
    specification_curve: SpecificationCurve
    seed_variance: SeedVariance
    verdict: Verdict
    dropped: tuple[Dropped, ...]
