"""From the tidy frame of runs to the rows the claim is tested on: seeds averaged, squares taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.claim.measurement import SquaredErrors, Vector, variance_parts
from benchmark.claim.result import CLAIM_MAPS, ClaimMap, Dropped, SeedVariance
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


class ClaimError(ValueError):
    """The claim cannot be tested; the message says why."""


def checkpoints(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (dataset, split, model) of completed runs, seeds averaged.

    The covariates are added: `log_parameters`, `log_pretraining_examples` (of one plus the
    examples, for checkpoints trained from scratch), `test_error` of the unshifted test split,
    and the recipe flags as 0/1: among them whether the loss was binary cross-entropy, and whether
    a teacher mixed by convolution (0 without a teacher). Unknown facts stay missing. So are the
    parts of the variance of squared errors added (`squared_errors`).
    """
    averaged = average_seeds(with_variance_parts(frame))
    averaged["shifted"] = averaged["shifted"].astype(bool)
    return _with_covariates(averaged)


def with_variance_parts(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in `<squared>_<map>_null_variance` and `_variance_slope` from the interval.

    Records hold both since they say why an interval is missing; those made before hold the
    interval, from which both follow.
    """
    added: dict[str, Vector] = {}
    for map_name in CLAIM_MAPS.values():
        column = f"{PRIMARY_METRIC}_squared_{map_name}"
        if not {f"{column}_null_variance", f"{column}_low"} & set(frame.columns):
            continue  # published errors
        root = frame[f"{PRIMARY_METRIC}_{map_name}"].to_numpy(dtype=float)
        squared = np.sign(root) * root**2
        null, slope, low, high = (
            frame[name].to_numpy(dtype=float, copy=True)
            if (name := f"{column}_{part}") in frame.columns
            else np.full(len(frame), np.nan)
            for part in ("null_variance", "variance_slope", "low", "high")
        )
        told = np.isfinite(squared + low + high) & ~np.isfinite(null + slope)
        for rows in frame.groupby(["dataset", "split"]).indices.values():
            rows = rows[told[rows]]
            if len(rows):
                null[rows], slope[rows] = variance_parts(squared[rows], low[rows], high[rows])
        if np.isfinite(null).any():
            added |= {f"{column}_null_variance": null, f"{column}_variance_slope": slope}
    return frame.assign(**added)


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


def squared_errors(averaged: pd.DataFrame, metric: str, map_name: ClaimMap) -> SquaredErrors:
    """Return a metric's squares per averaged row, with what is known of how well it is measured.

    The debiased error comes with the two parts of its variance. Other metrics count as exact; of
    these, a value of 0 or below is taken as no better known than the smallest positive one.
    """
    values = averaged[f"{metric}_{map_name}"].to_numpy(dtype=float)
    values = np.where(np.isfinite(values), values, np.nan)
    is_squared = metric in METRICS and METRICS[metric].outcome == "squared error"
    squared = values if is_squared else np.sign(values) * values**2
    null, slope = (
        averaged[column].fillna(0.0).to_numpy(dtype=float, copy=True)
        if column in averaged.columns
        else np.zeros(len(averaged))
        for column in (
            f"{metric}_squared_{map_name}_null_variance",
            f"{metric}_squared_{map_name}_variance_slope",
        )
    )
    for rows in averaged.groupby(["dataset", "split"]).indices.values():
        positive = squared[rows][squared[rows] > 0]
        unknown = rows[(squared[rows] <= 0) & (null[rows] <= 0)]
        null[unknown] = positive.min() ** 2 if len(positive) else 1e-12
    return SquaredErrors(squared, null, slope)


def log_outcomes(averaged: pd.DataFrame, metric: str, map_name: ClaimMap) -> Vector:
    """Return the log of a metric's root per averaged row, for the specification curve.

    Values below a floor are raised to it: within each dataset and split the fourth root of the
    smallest null variance of a square, or half the smallest positive value where that is unknown.
    The verdict rests on the squares themselves (`squared_errors`), which need no floor.
    """
    errors = squared_errors(averaged, metric, map_name)
    known = f"{metric}_squared_{map_name}_null_variance" in averaged.columns
    floors = np.zeros(len(averaged))
    for rows in averaged.groupby(["dataset", "split"]).indices.values():
        squared, null = errors.squared[rows], errors.null_variance[rows]
        positive, noise = squared[squared > 0], null[null > 0]
        if known and len(noise):
            floors[rows] = np.sqrt(noise.min())
        elif len(positive):
            floors[rows] = positive.min() / 4
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Vector = 0.5 * np.log(np.maximum(errors.squared, floors))
    return np.where(np.isfinite(logs), logs, np.nan)


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
