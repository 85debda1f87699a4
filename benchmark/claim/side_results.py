"""What stands beside the test's own result: how the claim was declared, and what a prior would do.

Frozen and JSON-serialisable, as everything in `result`.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A part of the claim's result."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class ChangedField(Frozen):
    """A part of the claim that is tested otherwise than it was declared."""

    name: str
    declared: str
    tested: str


class Declaration(Frozen):
    """What the claim was when the suite's first run began.

    `stamped_at` is None where that was not recorded, `problem` says why a record of it cannot be
    used. `digest` is the SHA-256 of the claim then, `records_before` how many runs had a record
    already, `changed` what is tested otherwise now.
    """

    stamped_at: datetime | None = None
    digest: str = ""
    records_before: int = 0
    changed: tuple[ChangedField, ...] = ()
    problem: str | None = None


class Posterior(Frozen):
    """The ratio's posterior under one prior of the standard deviation between units.

    `median`, `low` and `high` are of the ratio (95%, equal tails), `below_one` is the chance that
    it is below 1, `unit_sd` the posterior median of the standard deviation of log errors.
    """

    prior: str
    median: float
    low: float
    high: float
    below_one: float
    unit_sd: float


class PriorSensitivity(Frozen):
    """Posteriors of the primary contrast under several priors, or why there are none.

    `contrast_sd` is the standard deviation of the log ratio's normal prior.
    """

    posteriors: tuple[Posterior, ...] = ()
    contrast_sd: float | None = None
    problem: str | None = None
