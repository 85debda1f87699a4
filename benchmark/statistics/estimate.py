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
        floor_mean: Mean of the metric under perfect calibration; None unless it is an ECE.
        floor_q95: 95% quantile of the same.
    """

    value: float
    low: float | None = None
    high: float | None = None
    floor_mean: float | None = None
    floor_q95: float | None = None

    # Records hold estimates. JSON has no infinity, so they write one as a string.
    __pydantic_config__: ClassVar = {"extra": "forbid", "ser_json_inf_nan": "strings"}
