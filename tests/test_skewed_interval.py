"""Intervals where mistakes are few: against exact references, simulation and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from benchmark.statistics.bin_resampling import noise_floor
from benchmark.statistics.calibration_error import assign_bins
from benchmark.statistics.comparison import share_difference
from benchmark.statistics.contrast import SquaredContrast
from benchmark.statistics.intervals import score_split
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.resampling import ErrorParts
from benchmark.statistics.selective import augrc, augrc_influence, aurc, aurc_influence
from benchmark.statistics.skewed_interval import (
    FEWEST,
    Moments,
    normal_score,
    quantile_of,
    share_interval,
    skewed_interval,
    twist,
)
from benchmark.statistics.temperature import fit_temperature


class TestShares:
    @given(st.integers(1, 400), st.floats(0, 1))
    def test_interval_is_that_of_the_exact_binomial_test(self, n, share):
        hits = round(share * n)
        expected = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
        assert share_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)

    @pytest.mark.parametrize(
        ("won", "lost", "n"), [(8, 3, 100), (0, 0, 50), (5, 0, 300), (2, 9, 60)]
    )
    def test_difference_by_maximising_the_likelihood(self, won, lost, n):
        """Tango's score with the share of discordant rows found numerically."""
        first, second = np.zeros((2, n), bool)
        first[:won], second[won : won + lost] = True, True
        found = share_difference(first, second)

        def score(difference):
            def loss(q):  # q: chance of `lost`, q + difference: of `won`
                terms = (won, q + difference), (lost, q), (n - won - lost, 1 - 2 * q - difference)
                return -sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

            ends = max(0.0, -difference), (1 - difference) / 2
            found = optimize.minimize_scalar(
                loss, bounds=ends, method="bounded", options={"xatol": 1e-12}
            )
            q = found.x
            return (won - lost - n * difference) / math.sqrt(
                n * (2 * q + difference * (1 - difference))
            )

        assert found.difference == (won - lost) / n
        assert score(found.low) == pytest.approx(1.959964, abs=2e-3)
        assert score(found.high) == pytest.approx(-1.959964, abs=2e-3)

    def test_difference_turned_around(self):
        rng = np.random.default_rng(0)
        first, second = rng.random((2, 200)) < 0.9
        one, other = share_difference(first, second), share_difference(second, first)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
        assert one.p_value == pytest.approx(other.p_value)


class TestSkewedMeans:
    @pytest.mark.parametrize("quantile", [1.96, 2.5])
    @pytest.mark.parametrize("skewness", [0.0, 1e-7, 0.3, -0.6])
    def test_ends_are_where_the_score_reaches_the_quantile(self, quantile, skewness):
        moments = Moments(0.04, skewness * 0.008)
        low, high = skewed_interval(1.3, moments, quantile)
        assert normal_score(1.3 - low, moments) == pytest.approx(quantile)
        assert normal_score(1.3 - high, moments) == pytest.approx(-quantile)

    @given(st.floats(-4, 4), st.floats(0.01, 1), st.floats(-1, 1))
    def test_the_transformation_rises(self, t, step, skewness):
        assert twist(t + step, skewness) > twist(t, skewness)

    def test_moments_of_a_mean(self):
        draws = np.random.default_rng(0).exponential(size=200_000)
        moments = Moments.of(draws[:50])
        assert moments.variance == pytest.approx(draws[:50].var(ddof=1) / 50)
        means = draws.reshape(-1, 50).mean(axis=1)
        assert Moments.of(draws).skewness * math.sqrt(200_000 / 50) == pytest.approx(
            stats.skew(means), abs=0.1
        )

    def test_freedom_is_how_well_the_variance_is_known(self):
        rng = np.random.default_rng(3)
        draws = rng.exponential(size=1000)
        kurtosis = stats.kurtosis(draws, fisher=False)
        assert Moments.of(draws).freedom == pytest.approx(2 * 1000 / (kurtosis - 1))
        assert Moments.of(rng.normal(size=100_000)).freedom == pytest.approx(100_000, rel=0.05)
        mistakes = (np.arange(10_000) < 40).astype(float)
        assert Moments.of(mistakes).freedom == pytest.approx(2 * 40, rel=0.02)
        assert Moments.of(np.repeat([0.0, 1.0], 50)).freedom == math.inf  # its variance is known
        samples = rng.exponential(size=(20_000, 50))
        spread = samples.var(axis=1, ddof=1)
        known = 2 / (spread.var() / spread.mean() ** 2)
        assert Moments.of(samples.ravel()).freedom * 50 / samples.size == pytest.approx(
            known, rel=0.1
        )

    def test_rare_losses_are_covered_where_the_normal_interval_is_not(self):
        rng = np.random.default_rng(1)
        mended = normal = 0
        for _ in range(1000):
            losses = (rng.random(500) < 0.04) * rng.exponential(3, size=500)
            moments = Moments.of(losses)
            rare = int((losses > 0).sum())
            low, high = skewed_interval(losses.mean(), moments, quantile_of((1.0, rare - 1)))
            mended += low <= 0.12 <= high
            normal += abs(losses.mean() - 0.12) <= 1.96 * math.sqrt(moments.variance)
        assert mended >= 935
        assert normal <= 915

    def test_degrees_of_freedom_are_welchs(self):
        assert quantile_of((2.0, 10)) == pytest.approx(stats.t.ppf(0.975, 10))
        df = 3**2 / (1 / 10 + 4 / 20)
        assert quantile_of((1.0, 10), (2.0, 20)) == pytest.approx(stats.t.ppf(0.975, df))


def levels(rng, n):
    """Two classes with four confidences only, right as often as they say."""
    confidence = np.array([0.6, 0.8, 0.95, 0.99])[rng.integers(0, 4, n)]
    logits = np.column_stack([np.log(confidence / (1 - confidence)), np.zeros(n)])
    return logits, (rng.random(n) > confidence).astype(np.int64)


class TestSelective:
    @pytest.mark.parametrize(
        ("metric", "influence"), [(aurc, aurc_influence), (augrc, augrc_influence)]
    )
    def test_standard_error_with_ties(self, metric, influence):
        rng = np.random.default_rng(0)
        scored = [Predictions.from_logits(*levels(rng, 800)) for _ in range(400)]
        spread = np.std([metric(one) for one in scored])
        said = np.mean([math.sqrt(Moments.of(influence(one)).variance) for one in scored[:50]])
        assert said == pytest.approx(spread, rel=0.08)

    def test_ranked_beyond_confidence_one_by_brute_force(self):
        rng = np.random.default_rng(1)
        gap = rng.uniform(0, 400, size=300)
        logits = np.column_stack([gap, np.zeros(300), np.full(300, -1e4)]).astype(np.float32)
        labels = (rng.random(300) < np.exp(-gap / 100)).astype(np.int64)
        order = np.argsort(-logits[:, 0].astype(np.float64))
        risk = np.cumsum(labels[order] != 0) / np.arange(1, 301)
        assert aurc(Predictions.from_logits(logits, labels)) == pytest.approx(
            risk.mean(), rel=1e-12
        )

    @pytest.mark.parametrize("temperature", [1.0, 0.3])
    def test_tiled_rows_have_the_area_of_the_rows(self, temperature):
        # The tiled logits are computed in float32, where many of these confidences round to 1.
        rng = np.random.default_rng(2)
        logits = (25 * rng.normal(size=(1200, 5))).astype(np.float32)
        labels = (logits / 9 + rng.gumbel(size=logits.shape)).argmax(axis=1)
        times = 262_144 // logits.size + 1
        one = Predictions.from_logits(logits, labels, temperature)
        many = Predictions.from_logits(
            np.tile(logits, (times, 1)), np.tile(labels, times), temperature
        )
        assert many.rows.dtype is np.float32
        assert (many.confidence == 1).mean() > 0.1
        # Within the tie of its copies a row's error is spread, which moves the area by 1/n.
        copies = Predictions.from_logits(
            np.tile(logits, (2, 1)).astype(np.float64), np.tile(labels, 2), temperature
        )
        assert augrc(many) == pytest.approx(augrc(one), rel=1e-6)
        assert aurc(many) == pytest.approx(aurc(copies), rel=2e-3)
        assert aurc(many) == pytest.approx(aurc(one), rel=4e-3)


def parts(confidence, correct):
    gap = confidence - correct
    return ErrorParts(gap, assign_bins(confidence, 15, "equal_mass"), np.zeros(2))


class TestContrast:
    def draw(self, rng, n=600, error=0.0):
        """Two models alike in half of what they see, with the same true error."""
        chance = rng.uniform(0.5, 1, size=(3, n))
        own = 0.5 * chance[0] + 0.5 * chance[1:]
        drawn = rng.random(n)
        return [parts(np.minimum(c + error, 1), drawn < c) for c in own]

    @pytest.mark.parametrize("error", [0.0, 0.02, 0.08])
    def test_no_difference_is_seldom_rejected(self, error):
        rng = np.random.default_rng(int(100 * error))
        tests = [SquaredContrast.of(self.draw(rng, error=error), (1, -1)) for _ in range(500)]
        rejected = np.mean([one.test().p_value < 0.05 for one in tests])
        assert rejected <= 0.075
        spread = np.std([one.value for one in tests])
        assert math.sqrt(np.mean([one._variance(0.0) for one in tests])) == pytest.approx(
            spread, rel=0.3
        )

    def test_interval_and_p_value_agree(self):
        rng = np.random.default_rng(3)
        for error in (0.0, 0.02, 0.05, 0.1):
            first, _ = self.draw(rng, error=error)
            _, second = self.draw(rng)
            found = SquaredContrast.of((first, second), (1, -1)).test()
            assert found.low < found.difference < found.high
            assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)

    def test_a_model_against_itself(self):
        first, _ = self.draw(np.random.default_rng(4))
        found = SquaredContrast.of((first, first), (1, -1)).test()
        assert found == (0, 0, 0, 1)

    def test_power_grows_with_rows(self):
        rng = np.random.default_rng(5)
        found = []
        for n in (300, 5000):
            hits = 0
            for _ in range(60):
                first, second = self.draw(rng, n=n)
                worse = ErrorParts(first.gap + 0.06, first.bins, first.refitted)
                hits += SquaredContrast.of((worse, second), (1, -1)).test().p_value < 0.05
            found.append(hits / 60)
        assert found[1] > 0.9 > found[0]


def test_few_errors_are_said_in_words():
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(400, 3))
    labels = logits.argmax(axis=1)
    labels[: FEWEST - 1] = (labels[: FEWEST - 1] + 1) % 3
    fit = fit_temperature(logits, labels)
    scores = score_split(logits, labels, logits, labels, fit, resamples=20)
    for name in ("nll", "brier", "signed_gap", "aurc", "augrc", "debiased_calibration_error"):
        for estimates in (scores.before, scores.after):
            assert estimates[name].low is None
            assert estimates[name].no_interval == "too few errors"
    assert scores.temperature.no_interval == "too few errors among the calibration rows"
    assert scores.before["accuracy"].low is not None
    assert scores.before["debiased_calibration_error_squared"].null_variance > 0
    assert noise_floor(Predictions.from_logits(logits, labels).confidence).mean > 0
