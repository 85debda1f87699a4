"""The estimating equation against generalised least squares, brute force and made-up truth."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from benchmark.claim.estimating_equation import EstimatingEquation, robust_rows
from benchmark.claim.measurement import RowLikelihood, SquaredErrors, variance_parts
from benchmark.claim.mixed_model import Nesting
from benchmark.claim.new_dataset import predict_new_dataset
from benchmark.statistics.calibration_error import DebiasedSums, assign_bins, debiased_sums


def exact(logs: np.ndarray) -> SquaredErrors:
    return SquaredErrors(np.exp(2 * logs), np.zeros(len(logs)), np.zeros(len(logs)))


def noisy(
    generator: np.random.Generator, logs: np.ndarray, rows: float, spread: float = 0.1
) -> SquaredErrors:
    """Squares as 15 bins of `rows` test rows in all would measure them."""
    scale = spread / rows
    squares = np.exp(2 * logs)
    drawn = scale * (generator.noncentral_chisquare(15, squares / scale) - 15)
    return SquaredErrors(drawn, np.full(len(logs), 30 * scale**2), np.full(len(logs), 4 * scale))


def study(seed: int, families: int = 8, copies: int = 2, ratio: float = 1.0):
    """Families of two mixers on two datasets: columns, log errors, nesting, families, datasets."""
    generator = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), 2 * copies)
    checkpoint = np.repeat(np.arange(families * copies), 2)
    dataset = np.tile([0, 1], families * copies)
    x = np.column_stack([family % 2, dataset == 0, dataset == 1]).astype(float)
    logs = (
        np.log(0.05)
        + generator.normal(0, 0.3, families)[family]
        + generator.normal(0, 0.2, len(family))
        + np.log(ratio) * x[:, 0]
    )
    return x, logs, Nesting.of(family, checkpoint), family, dataset


def fit(seed: int, ratio: float = 1.0, **options: int) -> EstimatingEquation:
    x, logs, nesting, family, _ = study(seed, ratio=ratio, **options)
    return EstimatingEquation.fit(x, exact(logs), nesting, family)


# --- what a row says ------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "sigma"), [(-3.0, 0.3), (-4.5, 0.6), (-6.0, 0.2)])
def test_row_likelihood_is_the_integral_over_true_errors(mean: float, sigma: float) -> None:
    scale, squared = 1e-5, np.array([2e-3, 1e-4, -5e-5])
    errors = SquaredErrors(squared, np.full(3, 30 * scale**2), np.full(3, 4 * scale))
    likelihood = RowLikelihood(errors)

    def integral(i: int, center: float) -> float:
        def integrand(log: float) -> float:
            shift = np.exp(2 * log) / scale
            total = 15 + shift
            variance = (15 + 2 * shift) / (2 * total)
            middle = np.sqrt(total - variance)
            variance += likelihood.step**2 * shift**2 / total
            root = np.sqrt(squared[i] / scale + 15)
            return float(
                stats.norm.pdf(root, middle, np.sqrt(variance)) * stats.norm.pdf(log, center, sigma)
            )

        ends = center - 9 * sigma, max(center + 9 * sigma, -1.5)
        return integrate.quad(integrand, *ends, limit=400, epsabs=0, epsrel=1e-10)[0]

    score = likelihood.score(np.full(3, mean), sigma)
    for i in range(3):
        step = 1e-4
        slope = np.log(integral(i, mean + step) / integral(i, mean - step)) / (2 * step)
        assert score[i] == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_an_exact_error_scores_as_its_logarithm() -> None:
    logs = np.array([-3.0, -4.0, -2.5])
    likelihood = RowLikelihood(exact(logs))
    sigma, means = 0.4, np.array([-3.2, -3.2, -3.2])
    expected = (logs - means) / (sigma**2 + likelihood.step**2)
    assert likelihood.score(means, sigma) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("log", [np.log(0.05), np.log(0.01), np.log(0.004)])
def test_scores_have_mean_zero_at_the_truth(log: float) -> None:
    """However poorly errors are measured: .004 is a sixth of the noise here."""
    generator, sigma = np.random.default_rng(3), 0.35
    logs = generator.normal(log, sigma, 40_000)
    errors = noisy(generator, logs, rows=5_000)
    score = RowLikelihood(errors).score(np.full(len(logs), log), sigma)
    assert abs(score.mean()) < 4 * score.std() / np.sqrt(len(logs)) + 0.03 * score.std()


def test_variance_parts_are_those_of_the_interval() -> None:
    generator = np.random.default_rng(0)
    sums, intervals = [], []
    for gap in (0.0, 0.02, 0.1):
        confidence = generator.uniform(0.5, 1.0, 4_000)
        correct = (generator.random(4_000) < confidence - gap).astype(float)
        bins = assign_bins(confidence, 15, "equal_mass")
        sums.append(debiased_sums(confidence - correct, bins, 15))
        intervals.append(sums[-1].interval())
    null, slope = variance_parts(
        *(
            np.array([getattr(item, name) for item in intervals])
            for name in ("squared", "squared_low", "squared_high")
        )
    )
    assert null == pytest.approx([item.null_variance for item in sums], rel=1e-6)
    assert slope == pytest.approx([item.variance_slope for item in sums], rel=1e-6)


def test_a_cut_interval_takes_its_parts_from_the_others() -> None:
    """Far below zero an interval's ends are cut off, and say nothing of the noise."""
    whole = DebiasedSums(1e-3, 2e-8, 1e-4).interval()
    cut = DebiasedSums(-4e-4, 2e-8, 1e-4).interval()
    assert cut.squared_low == cut.squared
    null, slope = variance_parts(
        *(
            np.array([getattr(item, name) for item in (whole, cut)])
            for name in ("squared", "squared_low", "squared_high")
        )
    )
    assert null == pytest.approx([2e-8, 2e-8], rel=1e-6)
    assert slope == pytest.approx([1e-4, 1e-4], rel=1e-6)


# --- the equation ---------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_exact_errors_give_generalised_least_squares(seed: int) -> None:
    x, logs, nesting, family, _ = study(seed)
    equation = EstimatingEquation.fit(x, exact(logs), nesting, family)
    sigma, by_family, by_checkpoint = equation.correlation
    same = family[:, None] == family
    together = nesting.checkpoint[:, None] == nesting.checkpoint
    rest = 1 - by_family - by_checkpoint
    covariance = sigma**2 * (by_family * same + by_checkpoint * together + rest * np.eye(len(x)))
    covariance = covariance + equation.likelihood.step**2 * np.eye(len(x))
    theirs = sm.GLS(logs, x, covariance).fit()
    assert equation.coefficients == pytest.approx(theirs.params, abs=1e-4)


def test_without_a_noise_estimate_is_that_of_a_gee_with_independence() -> None:
    """One row a family: the equation is least squares, its error CR2 = HC2."""
    generator = np.random.default_rng(5)
    unit = np.arange(14)
    x = np.column_stack([unit < 6, np.ones(14)]).astype(float)
    logs = generator.normal(-3, 0.4, 14)
    equation = EstimatingEquation.fit(x, exact(logs), Nesting.of(unit, unit), unit)
    theirs = sm.OLS(logs, x).fit(cov_type="HC2")
    assert equation.estimate() == pytest.approx(theirs.params[0], abs=1e-4)
    tested = equation.test(0.0)
    assert tested.step == pytest.approx(theirs.params[0], abs=1e-3)
    assert tested.standard_error == pytest.approx(theirs.bse[0], rel=1e-3)
    low, high = equation.interval(0.05)
    reach = stats.t.ppf(0.975, tested.df) * theirs.bse[0]
    assert (low, high) == pytest.approx(
        (theirs.params[0] - reach, theirs.params[0] + reach), abs=2e-3
    )
    assert tested.df == pytest.approx(12, abs=2)


def test_robust_rows_equal_dense_algebra() -> None:
    equation = fit(2)
    at = equation.at(0.1)
    rows = robust_rows(equation, at, 0)
    n = len(at.x)
    dense = np.linalg.inv(equation.sums.solve(np.eye(n), at.own, equation.correlation))
    root = np.linalg.cholesky((dense + dense.T) / 2)
    whitened = np.linalg.solve(root, at.x)
    inverse = np.linalg.inv(whitened.T @ whitened)
    hat = whitened @ inverse @ whitened.T
    forms = []
    for code in range(equation.cluster.max() + 1):
        rows_of = np.flatnonzero(equation.cluster == code)
        values, vectors = np.linalg.eigh(np.eye(len(rows_of)) - hat[np.ix_(rows_of, rows_of)])
        powers = np.where(values > 1e-8, np.maximum(values, 1e-8) ** -0.5, 0)
        adjusted = (vectors * powers) @ vectors.T
        form = np.zeros(n)
        form[rows_of] = inverse[0] @ whitened[rows_of].T @ adjusted
        forms.append(form @ (np.eye(n) - hat))
    spread = np.array(forms) @ np.array(forms).T
    assert rows.df == pytest.approx(np.trace(spread) ** 2 / (spread**2).sum(), rel=1e-5)
    expected = np.array(forms) @ np.linalg.solve(root, at.residual)
    assert rows.clusters @ at.residual == pytest.approx(expected, abs=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_the_unit_of_errors_is_arbitrary(seed: int, unit: float) -> None:
    x, logs, nesting, family, _ = study(seed)
    one = EstimatingEquation.fit(x, exact(logs), nesting, family)
    other = EstimatingEquation.fit(x, exact(logs + np.log(unit)), nesting, family)
    assert other.estimate() == pytest.approx(one.estimate(), abs=1e-4)
    assert other.test(0.0).p_value == pytest.approx(one.test(0.0).p_value, rel=1e-2)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_names_and_order_of_rows_are_arbitrary(seed: int) -> None:
    x, logs, nesting, family, _ = study(seed)
    one = EstimatingEquation.fit(x, exact(logs), nesting, family)
    generator = np.random.default_rng(seed)
    renamed = generator.permutation(family.max() + 1)[family]
    order = generator.permutation(len(logs))
    again = Nesting.of(renamed[order], nesting.checkpoint[order])
    columns = [0, 2, 1]  # the datasets change places
    other = EstimatingEquation.fit(x[order][:, columns], exact(logs[order]), again, renamed[order])
    assert other.estimate() == pytest.approx(one.estimate(), abs=1e-5)
    assert other.test(0.0).p_value == pytest.approx(one.test(0.0).p_value, rel=1e-4)


def test_swapping_the_mixers_turns_the_ratio_over() -> None:
    x, logs, nesting, family, _ = study(4)
    one = EstimatingEquation.fit(x, exact(logs), nesting, family)
    swapped = np.column_stack([1 - x[:, 0], x[:, 1:]])
    other = EstimatingEquation.fit(swapped, exact(logs), nesting, family)
    low, high = one.interval(0.05)
    assert other.estimate() == pytest.approx(-one.estimate(), abs=1e-5)
    assert other.interval(0.05) == pytest.approx((-high, -low), abs=1e-3)


def test_copies_of_a_familys_checkpoints_do_not_decide() -> None:
    """A family of sixty copies weighs at most a few times a family of two."""
    x, logs, nesting, family, _ = study(6)
    giant = np.flatnonzero(family == 0)
    rows = np.concatenate([np.arange(len(logs)), np.tile(giant, 15)])
    names = np.concatenate([nesting.checkpoint, 1000 + np.arange(15 * len(giant)) // 2])
    equation = EstimatingEquation.fit(
        x[rows], exact(logs[rows]), Nesting.of(family[rows], names), family[rows]
    )
    at = equation.at(0.0)
    weight = np.abs(robust_rows(equation, at, 0).direction)
    by_family = np.bincount(equation.cluster, weight)
    assert by_family[0] < 3 * np.median(by_family)


# --- near the noise -------------------------------------------------------------------------------


def test_a_dataset_without_measurable_errors_says_nothing() -> None:
    generator = np.random.default_rng(8)
    x, logs, nesting, family, dataset = study(8, ratio=2.0, families=16)
    logs = np.where(dataset == 0, logs, -30.0)
    errors = noisy(generator, logs, rows=20_000)
    both = EstimatingEquation.fit(x, errors, nesting, family)
    rows = np.flatnonzero(dataset == 0)
    alone = EstimatingEquation.fit(
        x[rows][:, :2],
        errors.take(rows),
        Nesting.of(family[rows], nesting.checkpoint[rows]),
        family[rows],
    )
    assert both.estimate() == pytest.approx(alone.estimate(), abs=0.15)
    assert both.test(0.0).rejects(0.05) == alone.test(0.0).rejects(0.05)


def test_one_side_without_measurable_errors_leaves_one_end_open() -> None:
    generator = np.random.default_rng(9)
    unit = np.arange(16)
    x = np.column_stack([unit < 8, np.ones(16)]).astype(float)
    logs = np.where(unit < 8, -30.0, np.log(0.03)) + generator.normal(0, 0.2, 16)
    equation = EstimatingEquation.fit(
        x, noisy(generator, logs, rows=4_000), Nesting.of(unit, unit), unit
    )
    low, high = equation.interval(0.05)
    assert low == -np.inf
    assert high < 0


def test_size_holds_where_errors_are_near_the_noise() -> None:
    """Mixers measured with unlike precision, no effect: 5% of studies reject."""
    rejected, studies = 0, 150
    unit = np.arange(16)
    x = np.column_stack([unit < 8, np.ones(16)]).astype(float)
    for seed in range(studies):
        generator = np.random.default_rng([1, seed])
        logs = np.log(0.02) + generator.normal(0, 0.35, 16)
        spread = np.where(unit < 8, 0.19, 0.03)
        parts = [
            noisy(generator, logs[unit == i], rows=1_500, spread=float(spread[i])) for i in unit
        ]
        errors = SquaredErrors(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("squared", "null_variance", "slope")
            )
        )
        equation = EstimatingEquation.fit(x, errors, Nesting.of(unit, unit), unit)
        rejected += equation.test(0.0).rejects(0.05)
    assert rejected / studies <= 0.10


# --- a new dataset --------------------------------------------------------------------------------


def test_two_datasets_predict_next_to_nothing_of_a_third() -> None:
    x, logs, nesting, family, dataset = study(1, ratio=0.5)
    equation = EstimatingEquation.fit(x, exact(logs), nesting, family)
    interval, problem = predict_new_dataset(equation, dataset.astype(str), 0.05)
    assert problem is None
    assert interval is not None
    assert interval.df == 1
    assert interval.low < 1 < interval.high
    alone, why = predict_new_dataset(equation, np.full(len(logs), "a"), 0.05)
    assert alone is None
    assert why is not None


def test_the_spread_between_datasets_widens_the_prediction() -> None:
    generator = np.random.default_rng(0)
    family = np.repeat(np.arange(12), 6)
    dataset = np.tile(np.arange(6), 12)
    first = (family % 2).astype(float)
    x = np.column_stack([first, *(dataset == d for d in range(6))]).astype(float)
    base = generator.normal(-3, 0.1, len(family)) + generator.normal(0, 0.1, 12)[family]
    widths = []
    for spread in (0.0, 0.5):
        logs = base + spread * np.array([-1, 1, -1, 1, -1, 1])[dataset] * first
        equation = EstimatingEquation.fit(x, exact(logs), Nesting.of(family, family), family)
        interval, _ = predict_new_dataset(equation, dataset.astype(str), 0.05)
        assert interval is not None
        widths.append(np.log(interval.high / interval.low))
    assert widths[1] > 2 * widths[0]
    assert widths[1] == pytest.approx(2 * 2.571 * 0.548 * np.sqrt(7 / 6), rel=0.15)
