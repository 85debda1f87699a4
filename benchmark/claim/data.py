"""From the tidy frame of runs to the rows the claim is tested on: seeds averaged, logs taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.mixed_model import Vector
from benchmark.claim.result import ClaimMap, Dropped, SeedVariance
from benchmark.records import average_seeds
from benchmark.statistics import METRICS

if TYPE_CHECKING:
    import pandas as pd

PRIMARY_METRIC = "debiased_calibration_error"
COVARIATE_COLUMNS: dict[str, tuple[str, ...]] = {
    "log_parameters": ("log_parameters",),
    "log_pretraining_examples": ("log_pretraining_examples",),
    "test_error": ("test_error",),
    "recipe": (
        *("binary_cross_entropy", "label_smoothing", "mixup", "cutmix", "distillation"),
        "convolutional_teacher",
    ),
}
NORMAL_QUANTILE = 1.959964
"""Of the 95% normal interval that records carry for the squared debiased error."""


class ClaimError(ValueError):
    """The claim cannot be tested; the message says why."""


@dataclass(frozen=True)
class Outcomes:
    """Log errors of one metric, one value per row of the averaged frame.

    `at_floor` marks values raised to the floor below which an error cannot be told from zero.
    """

    values: Vector
    at_floor: np.ndarray


def checkpoints(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (dataset, split, model) of completed runs, seeds averaged.

    The covariates are added: `log_parameters`, `log_pretraining_examples` (of one plus the
    examples, for checkpoints trained from scratch), `test_error` of the unshifted test split,
    and the recipe flags as 0/1: among them whether the loss was binary cross-entropy, and whether
    a teacher mixed by convolution (0 without a teacher). Unknown facts stay missing.
    """
    averaged = average_seeds(frame)
    averaged["shifted"] = averaged["shifted"].astype(bool)
    return _with_covariates(averaged)


_UNITS = ("mixer", "family")
"""What is compared and what replicates it; imported logits may come without."""


def _with_covariates(averaged: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    for source, target, shift in (
        ("parameters", "log_parameters", 0.0),
        ("pretraining_examples", "log_pretraining_examples", 1.0),
    ):
        values = pd.to_numeric(averaged.get(source, pd.Series(np.nan, averaged.index)))
        with np.errstate(divide="ignore"):
            averaged[target] = np.log(values.astype(float) + shift)
    nothing = pd.Series(None, averaged.index, dtype=object)
    loss, teacher = (averaged.get(name, nothing) for name in ("loss", "teacher_mixer"))
    averaged["binary_cross_entropy"] = (loss == "binary_cross_entropy").where(loss.notna())
    known = teacher.notna() | (averaged.get("distillation", nothing) == False)  # noqa: E712
    averaged["convolutional_teacher"] = (teacher == "convolution").where(known)
    for flag in COVARIATE_COLUMNS["recipe"]:
        values = averaged.get(flag, nothing)
        averaged[flag] = pd.to_numeric(values.map({True: 1.0, False: 0.0}))
    if "accuracy_none" in averaged.columns:
        clean = averaged[~averaged["shifted"]]
        accuracy = clean.set_index(["dataset", "model"])["accuracy_none"]
        accuracy = accuracy[~accuracy.index.duplicated()]
        keys = pd.MultiIndex.from_frame(averaged[["dataset", "model"]])
        averaged["test_error"] = 1 - accuracy.reindex(keys).to_numpy(dtype=float)
    else:
        averaged["test_error"] = np.nan
    return averaged


def split_off_unknown(averaged: pd.DataFrame) -> tuple[pd.DataFrame, list[Dropped]]:
    """Return the rows whose mixer and family are known, and the checkpoints of the others."""
    unknown = averaged[list(_UNITS)].isna()
    rows = unknown.any(axis=1)
    named = averaged.loc[rows & ~averaged["shifted"], ["model", "dataset"]]
    dropped = [
        Dropped(
            name=f"{row['model']}/{row['dataset']}",
            status="completed",
            reason=f"lacks {', '.join(unit for unit in _UNITS if unknown.at[index, unit])}",
        )
        for index, row in named.iterrows()
    ]
    return averaged[~rows].reset_index(drop=True), dropped


def log_outcomes(averaged: pd.DataFrame, metric: str, map_name: ClaimMap) -> Outcomes:
    """Return the log of a metric per averaged row, with a floor under it.

    A debiased estimate can be zero or below. Within each dataset and split, values below the
    floor are raised to it: the root of the standard error of the squared estimate, of the model
    for which that is smallest, where records carry its interval; else half of the smallest
    positive value.
    """
    column = f"{metric}_{map_name}"
    values = averaged[column].to_numpy(dtype=float)
    floors = _floors(averaged, column, values)
    at_floor = values <= floors
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(at_floor, floors, values))
    if metric in METRICS and METRICS[metric].outcome == "squared error":
        logs = logs / 2  # its root is analysed, so that ratios are of errors everywhere
    return Outcomes(np.where(np.isfinite(logs), logs, np.nan), at_floor)


def _floors(averaged: pd.DataFrame, column: str, values: Vector) -> Vector:
    errors = _standard_errors(averaged, column)
    floors = np.zeros(len(values))
    for rows in averaged.groupby(["dataset", "split"]).indices.values():
        positive = values[rows][values[rows] > 0]
        floors[rows] = positive.min() / 2 if len(positive) else 0.0
        if errors is not None and np.isfinite(errors[rows]).any():
            floors[rows] = np.sqrt(np.nanmin(errors[rows]))
    return floors


def _standard_errors(averaged: pd.DataFrame, column: str) -> Vector | None:
    """Return the standard errors of the squared debiased error behind its normal interval."""
    metric, map_name = column.rsplit("_", 1)
    low, high = (f"{metric}_squared_{map_name}_{end}" for end in ("low", "high"))
    if low not in averaged.columns or high not in averaged.columns:
        return None
    width: Vector = (averaged[high] - averaged[low]).to_numpy(dtype=float)
    return width / (2 * NORMAL_QUANTILE)


def seed_variance(frame: pd.DataFrame, metric: str, map_name: ClaimMap) -> SeedVariance:
    """Return the pooled spread of log errors between seeds on unshifted test splits."""
    column = f"{metric}_{map_name}"
    done = frame[(frame["status"] == "completed") & (frame["shifted"] == False)]  # noqa: E712
    values = done.loc[done[column] > 0, ["model", "dataset", column]]
    logs = values[column].astype(float).transform("log")
    groups = logs.groupby([values["model"], values["dataset"]])
    counts = groups.count()
    freedom = int((counts - 1).sum())
    squares = float((groups.var(ddof=1) * (counts - 1)).sum())
    deviation = float(np.sqrt(squares / freedom)) if freedom > 0 else None
    return SeedVariance(
        standard_deviation=deviation,
        checkpoints=int((counts > 1).sum()),
        seeds=int(counts.max()) if len(counts) else 0,
    )


def dropped_runs(frame: pd.DataFrame) -> list[Dropped]:
    """List the runs that did not complete, with the frame's `reason` where it has one."""
    missing = frame[frame["status"] != "completed"].drop_duplicates(["model", "dataset", "seed"])
    return [
        Dropped(
            name=f"{row['model']}/{row['dataset']}/seed-{row['seed']}",
            status=str(row["status"]),
            reason=str(row.get("reason") or "the run has no result"),
        )
        for _, row in missing.iterrows()
    ]
