"""A number with its uncertainty, as records keep it. Imports nothing, so that reading is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Estimate:
    """One metric of one split.

    Attributes:
        value: The metric.
        low: Lower end of its interval; None where no interval is valid.
        high: Upper end; None likewise.
        no_interval: Why there is none though such a metric has one elsewhere, in words.
        floor_mean: Mean of the metric under perfect calibration; None unless it is an ECE.
        floor_q95: 95% quantile of the same.
        null_variance: Variance of `value` if the truth were 0; only of the debiased squared error,
            which is unbiased, so that an analysis of many can weigh each by what it knows.
        variance_slope: By how much that variance grows with the truth: where the squared error is
            x, it is `null_variance + variance_slope * x`.
    """

    value: float
    low: float | None = None
    high: float | None = None
    no_interval: str | None = None
    floor_mean: float | None = None
    floor_q95: float | None = None
    null_variance: float | None = None
    variance_slope: float | None = None

    # Records hold estimates. JSON has no infinity, so they write one as a string.
    __pydantic_config__: ClassVar = {"extra": "forbid", "ser_json_inf_nan": "strings"}
