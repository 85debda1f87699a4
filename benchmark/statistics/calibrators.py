"""All calibration maps by name, and fitting them on a calibration split.

None and temperature are always there; temperature scaling is the headline, and the others say
whether more parameters would have helped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.arrays import IntArray
from benchmark.statistics import affine_maps, one_vs_rest, scaling_maps
from benchmark.statistics.calibration_map import CalibrationMap
from benchmark.statistics.logit_arrays import LogitRows, check_rows
from benchmark.statistics.temperature import TemperatureFit

FOLDS = 3
"""Of the calibration rows; more would take scoring a run beyond twice the time of its metrics."""
NONE, TEMPERATURE = scaling_maps.NoMap.name, scaling_maps.TemperatureScaling.name

MAPS: dict[str, type[CalibrationMap]] = {
    made.name: made for module in (scaling_maps, affine_maps, one_vs_rest) for made in module.MAPS
}


@dataclass(frozen=True)
class MapFit:
    """How a map did on the calibration split.

    Attributes:
        parameters: How many numbers were fitted.
        cross_validated_nll: Mean NLL of each fold's rows under the map fitted on the other folds,
            nats.
    """

    parameters: int
    cross_validated_nll: float


@dataclass(frozen=True)
class FittedMaps:
    """The maps of one calibration split.

    Attributes:
        fitted: By name; `none` and `temperature` first.
        fits: How each of them did, by name.
        unsuitable: Why the others cannot be fitted here, by name.
    """

    fitted: Mapping[str, CalibrationMap]
    fits: Mapping[str, MapFit]
    unsuitable: Mapping[str, str]

    @property
    def temperature(self) -> TemperatureFit:
        """The fitted temperature, and how it was found."""
        scaling = self.fitted[TEMPERATURE]
        assert isinstance(scaling, scaling_maps.TemperatureScaling)
        return scaling.fitted


def fit_maps(rows: LogitRows) -> FittedMaps:
    """Fit every map that can be fitted on the rows of a calibration split.

    Args:
        rows: Checked logits and labels, from `logit_arrays.check_rows`.
    """
    reasons = {name: made.unsuitable(rows) for name, made in MAPS.items()}
    fitted = {
        name: MAPS[name]().fit(rows.values, rows.labels)
        for name, reason in reasons.items()
        if reason is None
    }
    return FittedMaps(
        fitted,
        {
            name: MapFit(one.n_parameters(rows.n_classes), cross_validated_nll(one, rows))
            for name, one in fitted.items()
        },
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


def cross_validated_nll(fitted: CalibrationMap, rows: LogitRows) -> float:
    """Return the mean NLL of each row under the map fitted on the folds that it is not in, nats.

    Args:
        fitted: To all rows; fits to the others start from it.
        rows: Of the calibration split.
    """
    fold = _folds(rows.labels)
    loss = 0.0
    for held_out in range(FOLDS):
        train, test = np.flatnonzero(fold != held_out), np.flatnonzero(fold == held_out)
        if not len(train) or not len(test):
            continue
        # Started from the fit to all rows: the optimum is the same, and it is found sooner.
        again = copy.copy(fitted).fit(rows.values[train], rows.labels[train])
        held = check_rows(rows.values[test], rows.labels[test])
        loss += float(again.losses(held).sum())
    return loss / rows.n_rows


def _folds(labels: IntArray) -> IntArray:
    """Deal the rows of every class to the folds in turn: no fold lacks one it could have."""
    order = np.argsort(labels, kind="stable")
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold
