"""Over- or under-confident: the signed gap by mixer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from benchmark.claim.result import CLAIM_MAPS, SignedGap

if TYPE_CHECKING:
    import pandas as pd

METRIC = "signed_gap"


def signed_gaps(clean: pd.DataFrame) -> tuple[SignedGap, ...]:
    """Return mean confidence minus accuracy by mixer, before and after scaling.

    Args:
        clean: averaged unshifted rows. A family's value is the mean of its rows.
    """
    return tuple(_gaps(clean))


def _gaps(clean: pd.DataFrame) -> Iterator[SignedGap]:
    for map_name in CLAIM_MAPS.values():
        column = f"{METRIC}_{map_name}"
        if column not in clean.columns:
            continue
        for mixer, rows in clean[clean[column].notna()].groupby("mixer"):
            means = rows.groupby("family")[column].mean().to_numpy(dtype=float)
            gap, count = float(means.mean()), len(means)
            reach = None
            if count > 1:
                error = float(means.std(ddof=1)) / np.sqrt(count)
                reach = float(stats.t.ppf(0.975, count - 1)) * error
            yield SignedGap(
                mixer=str(mixer),
                map=map_name,
                families=count,
                gap=gap,
                low=None if reach is None else gap - reach,
                high=None if reach is None else gap + reach,
                over_confident=int((rows[column] > 0).sum()),
                under_confident=int((rows[column] < 0).sum()),
            )
