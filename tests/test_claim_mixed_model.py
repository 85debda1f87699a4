"""The mixed model against statsmodels, dense algebra and the classical t test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark.claim.mixed_model import (
    Nesting,
    _components,
    _Likelihood,
    _satterthwaite,
    fit_mixed,
)


def draw(seed: int, families: int = 8, most: int = 4, datasets: int = 2):
    """Unbalanced nested rows with a contrast between families and a covariate within them."""
    generator = np.random.default_rng(seed)
    family, checkpoint, dataset, label = [], [], [], []
    for number in range(families):
        for copy in range(generator.integers(1, most + 1)):
            for data in range(datasets):
                if data and generator.random() < 0.2:
                    continue
                family.append(number)
                checkpoint.append(10 * number + copy)
                dataset.append(data)
                label.append(number % 2)
    nesting = Nesting.of(family, checkpoint)
    n = len(family)
    x = np.column_stack([label, *(np.array(dataset) == d for d in range(datasets))]).astype(float)
    x = np.column_stack([x, generator.normal(size=n)])
    y = (
        generator.normal(0, 0.6, families)[nesting.family]
        + generator.normal(0, 0.4, nesting.checkpoint.max() + 1)[nesting.checkpoint]
        + generator.normal(0, 0.5, n)
        + x @ np.array([0.3, 1.0, -1.0, 0.2][: x.shape[1]])
    )
    return y, x, nesting


def dense_covariance(nesting: Nesting, checkpoint: float, family: float) -> np.ndarray:
    same_checkpoint = nesting.checkpoint[:, None] == nesting.checkpoint[None, :]
    same_family = nesting.family[:, None] == nesting.family[None, :]
    return np.eye(len(nesting.family)) + checkpoint * same_checkpoint + family * same_family


def test_reml_agrees_with_statsmodels() -> None:
    y, x, nesting = draw(3, families=14, most=5)
    ours = fit_mixed(y, x, nesting)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    frame["y"], frame["checkpoint"] = y, nesting.checkpoint
    theirs = sm.MixedLM.from_formula(
        "y ~ 0 + x0 + x1 + x2 + x3",
        frame,
        groups=nesting.family,
        re_formula="1",
        vc_formula={"checkpoint": "0 + C(checkpoint)"},
    ).fit(reml=True)
    assert ours.coefficients == pytest.approx(theirs.fe_params.to_numpy(), abs=2e-3)
    assert np.sqrt(np.diag(ours.covariance)) == pytest.approx(theirs.bse_fe.to_numpy(), rel=5e-3)
    assert ours.residual_variance == pytest.approx(theirs.scale, rel=1e-2)
    assert ours.checkpoint_variance == pytest.approx(float(theirs.vcomp[0]), rel=3e-2)
    assert ours.family_variance == pytest.approx(float(theirs.cov_re.iloc[0, 0]), rel=3e-2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 5), st.floats(0, 5))
def test_likelihood_equals_dense_algebra(seed: int, checkpoint: float, family: float) -> None:
    y, x, nesting = draw(seed)
    both = np.column_stack([x, y])
    covariance = dense_covariance(nesting, checkpoint, family)
    gram, log_determinant = _Likelihood(y, x, nesting).weighted_gram(checkpoint, family)
    assert gram == pytest.approx(both.T @ np.linalg.solve(covariance, both), rel=1e-8, abs=1e-8)
    assert log_determinant == pytest.approx(np.linalg.slogdet(covariance)[1], abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_optimum_is_not_beaten_by_a_grid(seed: int) -> None:
    y, x, nesting = draw(seed)
    likelihood = _Likelihood(y, x, nesting)
    *_, best = likelihood.maximise()
    ratios = [0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0]
    grid = [-likelihood.negative(c, f) for c in ratios for f in ratios]
    assert best >= max(grid) - 1e-4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 4))
def test_balanced_design_gives_the_classical_t_test(seed: int, pairs: int, copies: int) -> None:
    generator = np.random.default_rng(seed)
    family = np.repeat(np.arange(2 * pairs), copies)
    label = (family % 2).astype(float)
    y = generator.normal(0, 2.0, 2 * pairs)[family] + generator.normal(0, 0.2, len(family))
    nesting = Nesting.of(family, np.arange(len(family)))
    x = np.column_stack([label, np.ones(len(family))])
    ours = fit_mixed(y, x, nesting).test(0)
    means = np.bincount(family, y) / copies
    if copies > 1:
        # The equality holds where families vary by more than their checkpoints explain;
        # below that the variance estimate meets its bound.
        within = np.sum((y - means[family]) ** 2) / (len(y) - 2 * pairs)
        between = copies * (means[1::2].var(ddof=1) + means[::2].var(ddof=1)) / 2
        assume(between > 2 * within)
    classical = stats.ttest_ind(means[1::2], means[::2])
    assert ours.estimate == pytest.approx(means[1::2].mean() - means[::2].mean())
    assert ours.p_value == pytest.approx(classical.pvalue, rel=1e-3, abs=1e-12)
    assert ours.df == pytest.approx(2 * pairs - 2, rel=1e-2)


def test_degrees_of_freedom_equal_a_dense_computation() -> None:
    _, x, nesting = draw(5)
    components = _components(nesting)
    assert components == ("residual", "checkpoint", "family")
    variances = {"residual": 0.3, "checkpoint": 0.1, "family": 0.4}
    covariance, derivatives, spread = _satterthwaite(x, nesting, components, variances)

    def patterns() -> list[np.ndarray]:
        identity = dense_covariance(nesting, 0, 0)
        return [
            identity,
            dense_covariance(nesting, 1, 0) - identity,
            dense_covariance(nesting, 0, 1) - identity,
        ]

    def coefficients_covariance(values: list[float]) -> np.ndarray:
        dense = sum(value * pattern for value, pattern in zip(values, patterns(), strict=True))
        return np.linalg.inv(x.T @ np.linalg.solve(dense, x))

    values = list(variances.values())
    assert covariance == pytest.approx(coefficients_covariance(values))
    for index, derivative in enumerate(derivatives):
        step = np.eye(3)[index] * 1e-6
        change = coefficients_covariance(values + step) - coefficients_covariance(values - step)
        assert derivative == pytest.approx(change / 2e-6, abs=1e-5)
    dense = sum(value * pattern for value, pattern in zip(values, patterns(), strict=True))
    inverse = np.linalg.inv(dense)
    p = inverse - inverse @ x @ covariance @ x.T @ inverse
    information = [[0.5 * np.trace(p @ a @ p @ b) for b in patterns()] for a in patterns()]
    assert spread == pytest.approx(np.linalg.inv(information), rel=1e-6)


def test_rows_of_one_family_member_each_leave_least_squares() -> None:
    y, x, _ = draw(8)
    nesting = Nesting.of(np.arange(len(y)), np.arange(len(y)))
    fit = fit_mixed(y, x, nesting)
    assert fit.family_variance is None
    assert fit.checkpoint_variance is None
    assert fit.test(0).p_value == pytest.approx(sm.OLS(y, x).fit().pvalues[0])


def test_checkpoints_of_the_same_name_in_two_families_differ() -> None:
    nesting = Nesting.of(["a", "a", "b", "b"], ["x", "y", "x", "x"])
    assert len(nesting.checkpoint_sizes) == 3
    assert nesting.family_of_checkpoint.tolist() == [0, 0, 1]
