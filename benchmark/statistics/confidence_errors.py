"""Calibration errors of the predicted class's confidence, as metrics of predictions."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.statistics.calibration_error import (
    DEFAULT_BINS,
    Scheme,
    debiased_calibration_error,
    expected_calibration_error,
    max_calibration_error,
    rms_calibration_error,
)
from benchmark.statistics.calibration_tests import (
    ks_calibration_error,
    ks_calibration_test,
    spiegelhalter_test,
)
from benchmark.statistics.metric import (
    PLAIN,
    POINTS,
    POSITIVE,
    Debiased,
    Influence,
    Metric,
    NoInterval,
    SimulatedFloor,
)
from benchmark.statistics.predictions import Predictions
from benchmark.statistics.smooth_ece import smooth_ece

_P_VALUE = NoInterval("a p value")


def signed_gap(predictions: Predictions) -> float:
    """Mean confidence minus accuracy, in [-1, 1]: positive when over-confident."""
    return float(predictions.confidence.mean()) - float(predictions.correct.mean())


def _of_confidence(function: Callable[..., float]) -> Callable[[Predictions], float]:
    """Turn a function of (confidence, correct) into one of predictions."""
    return lambda predictions: function(predictions.confidence, predictions.correct)


def binned_ece(name: str, n_bins: int, scheme: Scheme) -> Metric:
    """Return the expected calibration error with some bins, as a metric called `name`."""
    bins = f"{n_bins} {scheme.replace('_', '-')} bins"
    return Metric(
        name, f"expected calibration error, {bins}", f"ECE, {bins}",
        lambda predictions: expected_calibration_error(
            predictions.confidence, predictions.correct, n_bins, scheme
        ),
        "lower", SimulatedFloor(n_bins, scheme), POINTS, "Guo et al. 2017; Nixon et al. 2019",
        outcome="error", bins=n_bins,
    )  # fmt: skip


METRICS = (
    Metric(
        "signed_gap", "mean confidence minus accuracy", "signed gap", signed_gap, "zero",
        Influence(lambda p: p.confidence - p.correct), POINTS,
        "calibration in the large; Cox 1958", bounds=(-1, 1),
    ),
    binned_ece("ece_15", 15, "equal_width"),
    binned_ece("ece_100_equal_mass", 100, "equal_mass"),
    Metric(
        "max_calibration_error", f"largest gap of {DEFAULT_BINS} equal-width bins", "MCE",
        _of_confidence(max_calibration_error), "lower", POSITIVE, POINTS, "Naeini et al. 2015",
        bins=DEFAULT_BINS,
    ),
    Metric(
        "rms_calibration_error", f"root mean square gap of {DEFAULT_BINS} equal-mass bins",
        "RMS error", _of_confidence(rms_calibration_error), "lower", POSITIVE, POINTS,
        "Nguyen & O'Connor 2015", bins=DEFAULT_BINS,
    ),
    Metric(
        "debiased_calibration_error", "debiased calibration error", "debiased error",
        _of_confidence(lambda *rows: debiased_calibration_error(*rows).root), "lower",
        Debiased(squared=False), POINTS, "Kumar et al. 2019; Sun et al. 2024",
        over_seeds="root_mean_square", outcome="error", bounds=(-1, 1),
    ),
    Metric(
        "debiased_calibration_error_squared", "debiased squared calibration error",
        "debiased squared error", _of_confidence(lambda *r: debiased_calibration_error(*r).squared),
        "lower", Debiased(squared=True), PLAIN, "Kumar et al. 2019; Sun et al. 2024",
        bins=DEFAULT_BINS, bounds=(-1, 1),
    ),
    Metric(
        "smooth_ece", "smooth calibration error", "smooth ECE",
        _of_confidence(smooth_ece), "lower", POSITIVE, POINTS,
        "Blasiok & Nakkiran 2023", outcome="error",
    ),
    Metric(
        "ks_calibration_error", "Kolmogorov-Smirnov calibration error", "KS error",
        _of_confidence(ks_calibration_error), "lower", POSITIVE, POINTS, "Gupta et al. 2021",
        outcome="error",
    ),
    Metric(
        "ks_p_value", "p value of perfect calibration, Kolmogorov-Smirnov", "KS p",
        _of_confidence(lambda *rows: ks_calibration_test(*rows).p_value), None, _P_VALUE, PLAIN,
        "Gupta et al. 2021",
    ),
    Metric(
        "spiegelhalter_p_value", "p value of perfect calibration, Spiegelhalter",
        "Spiegelhalter p", _of_confidence(lambda *rows: spiegelhalter_test(*rows).p_value), None,
        _P_VALUE, PLAIN, "Spiegelhalter 1986",
    ),
)  # fmt: skip
