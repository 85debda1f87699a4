"""Does the contrast differ between clean and shifted test rows?

    log error = mixer + mixer x shifted + test split + family + checkpoint + rest

The claim's own equation, with one column more: the ratio on shifted rows over the ratio on clean
ones. What a model brings to both cancels, so nothing is adjusted for, and the unit stays the family
or the pair of twins. One test is primary, of all shifts pooled; those of each severity are
secondary and corrected for their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.data import ClaimError, squared_errors
from benchmark.claim.design import Design, build_design, connected_strata, family_cells
from benchmark.claim.effect import ratio_interval
from benchmark.claim.estimating_equation import EstimatingEquation
from benchmark.claim.measurement import Vector
from benchmark.claim.permutation import LabelExchange
from benchmark.claim.result import CLAIM_MAPS, ClaimMap, ShiftContrast, ShiftEffect, Unit
from benchmark.registry import Claim
from benchmark.statistics import holm

if TYPE_CHECKING:
    import pandas as pd

CLEAN = "test"


def shift_contrast(
    averaged: pd.DataFrame, claim: Claim, metric: str, unit: Unit = "family"
) -> ShiftContrast:
    """Test whether the contrast is another one on shifted rows.

    Args:
        averaged: rows of `checkpoints`, shifted splits included; for twins, of `paired_rows`.
        claim: the contrast, the map that is primary, and alpha.
        metric: the outcome.
        unit: what is replicated.
    """
    sides = averaged[averaged["mixer"].isin(claim.contrast)]
    shifted = sides[sides["shifted"]]
    if shifted.empty:
        return ShiftContrast(problem="no model of the contrast was scored on shifted rows")
    part = sides[sides["dataset"].isin(shifted["dataset"])].reset_index(drop=True)
    first = CLAIM_MAPS[claim.primary]
    (other,) = set(CLAIM_MAPS.values()) - {first}
    try:
        primary = shift_effect(part, claim, metric, first, unit)
    except ClaimError as error:
        return ShiftContrast(problem=str(error))
    return ShiftContrast(
        primary=primary,
        severities=_by_severity(part, claim, metric, first, unit),
        secondary=_if_any(part, claim, metric, other, unit),
    )


def shift_effect(
    part: pd.DataFrame, claim: Claim, metric: str, map_name: ClaimMap, unit: Unit
) -> ShiftEffect:
    """Return the change of the ratio from the clean to the shifted rows of `part`.

    Args:
        part: rows of the two mixers on datasets with shifted splits.
        claim: the contrast and alpha.
        metric: the outcome.
        map_name: the calibration map.
        unit: what is replicated.

    Raises:
        ClaimError: there is no such outcome, too few families, or nothing to compare.
    """
    column = f"{metric}_{map_name}"
    part = _with_both(part[part[column].notna()]) if column in part else part.iloc[:0]
    if part.empty:
        raise ClaimError(f"no model has {column} on clean and on shifted rows")
    shifts = part.loc[part["shifted"], "split"]
    levels = part.assign(dataset=part["dataset"] + "/" + part["split"])
    errors = squared_errors(levels, metric, map_name)
    design = build_design(levels, errors.squared, claim, (), unit)
    used, own = levels.iloc[design.rows], errors.take(design.rows)
    if np.ptp(own.squared) == 0:
        raise ClaimError("every checkpoint has the same value, so there is nothing to compare")
    is_shifted = used["shifted"].to_numpy(dtype=float)
    x = np.column_stack([design.x[:, 0] * is_shifted, design.x])
    clusters = np.unique(used["family"].to_numpy(dtype=str), return_inverse=True)[1]
    equation = EstimatingEquation.fit(x, own, design.nesting, clusters)
    estimate = ratio_interval(equation, claim.alpha)
    clean, change = equation.estimate(1), equation.estimate(0)
    return ShiftEffect(
        map=map_name,
        shifts=tuple(sorted(shifts.unique())),
        estimate=estimate,
        clean_ratio=float(np.exp(clean)),
        shifted_ratio=float(np.exp(clean + change)) if np.isfinite(clean + change) else 0.0,
        families={
            mixer: int(used.loc[used["mixer"] == mixer, "family"].nunique())
            for mixer in claim.contrast
        },
        rows=len(used),
        permutation=_exchange(used, claim, design, equation, is_shifted).test(),
    )


def _with_both(part: pd.DataFrame) -> pd.DataFrame:
    """Keep the models' rows on datasets on which they have clean and shifted ones."""
    both = part.groupby(["dataset", "model"])["shifted"].transform("nunique") == 2
    return part[both].reset_index(drop=True)


def _exchange(
    used: pd.DataFrame,
    claim: Claim,
    design: Design,
    equation: EstimatingEquation,
    is_shifted: Vector,
) -> LabelExchange:
    """Prepare the exchange of labels: of how each family's shifted rows depart from its clean ones.

    Rows count by how far they are on the side of the shift within their checkpoint, so that what a
    labelling would do to clean and shifted rows alike does not enter.
    """
    labels = (used["mixer"] == claim.contrast[0]).to_numpy(dtype=int)
    strata = (
        np.unique(used["family"].to_numpy(dtype=str), return_inverse=True)[1]
        if design.unit == "twins"
        else connected_strata(used["family"], used["dataset"])
    )
    order, checkpoint = equation.order, design.nesting.checkpoint
    weight = np.empty(len(used))
    weight[order] = 1 / equation.at(0.0).own
    total = np.bincount(checkpoint, weight)
    departure = is_shifted - (np.bincount(checkpoint, weight * is_shifted) / total)[checkpoint]
    return LabelExchange.of(equation, family_cells(used), labels, strata, departure=departure)


def _by_severity(
    part: pd.DataFrame, claim: Claim, metric: str, map_name: ClaimMap, unit: Unit
) -> tuple[ShiftEffect, ...]:
    """Return the change at each severity, p values corrected for their number (Holm 1979)."""
    severity = part["split"].str.rpartition("-")[2].where(part["shifted"], "")
    names = sorted(set(severity) - {""}, key=lambda name: (len(name), name))
    if len(names) < 2:
        return ()
    found = [
        _if_any(part[~part["shifted"] | (severity == name)], claim, metric, map_name, unit)
        for name in names
    ]
    effects = [effect for effect in found if effect is not None]
    corrected = holm([effect.estimate.p_value for effect in effects])
    return tuple(
        effect.model_copy(update={"severity": name, "p_adjusted": p})
        for name, effect, p in zip(
            (name for name, effect in zip(names, found, strict=True) if effect is not None),
            effects,
            corrected,
            strict=True,
        )
    )


def _if_any(
    part: pd.DataFrame, claim: Claim, metric: str, map_name: ClaimMap, unit: Unit
) -> ShiftEffect | None:
    try:
        return shift_effect(part, claim, metric, map_name, unit)
    except ClaimError:
        return None
