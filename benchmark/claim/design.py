"""From averaged rows to the columns of the claim's models, by rules that never look at values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from benchmark.claim.mixed_model import Codes, Matrix, MixedFit, Nesting, Vector, fit_mixed
from benchmark.claim.result import Dropped, LeftOut
from benchmark.registry import Claim

if TYPE_CHECKING:
    import pandas as pd

from benchmark.claim.data import COVARIATE_COLUMNS, ClaimError

MINIMUM_FREEDOM = 3
"""Families (and rows) left over, after mixers and covariates, that no covariate may eat into."""
WITHIN_SHARE = 0.2
"""Of a covariate's variance; with less within families, its slope comes from families alone."""


@dataclass(frozen=True)
class Design:
    """Columns of the models: the contrast first, then datasets, other mixers, covariates.

    `family_df` are the families left when mixers, and covariates that do not vary within
    families, have taken theirs.
    """

    x: Matrix
    names: tuple[str, ...]
    nesting: Nesting
    rows: np.ndarray
    covariates: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    family_df: int

    def fit(self, y: Vector) -> MixedFit:
        """Fit the mixed model to `y`, the log errors of the rows in use.

        A comparison of family means has `family_df` degrees of freedom. Tests have at least
        half of them, which keeps their size right with six families (`docs/claim.md`).
        """
        return fit_mixed(y, self.x, self.nesting, lowest_df=max(self.family_df / 2, 1.0))


def build_design(
    averaged: pd.DataFrame, y: Vector, claim: Claim, covariates: tuple[str, ...] | None = None
) -> Design:
    """Choose rows and columns for `y` by fixed rules that never look at its values.

    A row needs an outcome and every covariate in use. A covariate that nobody reports, that
    is the same for everyone, that the columns before it determine, or that would leave fewer
    than `MINIMUM_FREEDOM` families for the error is left out, and named with the reason. So
    is the one with most gaps as long as the checkpoints without gaps cannot show the contrast.

    Args:
        averaged: rows from `checkpoints`.
        y: outcome per row, NaN where there is none.
        claim: the declared contrast and covariates.
        covariates: columns to use instead of the declared ones, in order of precedence.

    Raises:
        ClaimError: a side of the contrast is missing, or too few families remain.
    """
    candidates = declared_columns(claim) if covariates is None else covariates
    has_outcome = np.isfinite(y)
    left_out: list[LeftOut] = []
    while True:
        complete = averaged[list(candidates)].notna().all(axis=1).to_numpy(dtype=bool)
        rows = np.flatnonzero(has_outcome & complete)
        try:
            chosen, rejected = _choose_columns(averaged, rows, has_outcome, claim, candidates)
        except ClaimError:
            gap = _largest_gap(averaged.loc[has_outcome, list(candidates)])
            if gap is None:
                raise
            rejected = [gap]
        if not rejected:
            break
        # Rows that lacked only a rejected covariate come back, so choose again.
        left_out += rejected
        candidates = tuple(c for c in candidates if c not in {item.name for item in rejected})
    used = averaged.iloc[rows]
    nesting = Nesting.of(_cell_labels(used), used["model"])
    names, omitted = tuple(chosen.names), tuple(left_out)
    return Design(chosen.x, names, nesting, rows, candidates, omitted, chosen.family_df)


def _largest_gap(covariates: pd.DataFrame) -> LeftOut | None:
    """Return the covariate that most rows lack, or None where none has gaps."""
    gaps = covariates.isna().sum()
    if not len(gaps) or gaps.max() == 0:
        raise
    known = len(covariates) - int(gaps.max())
    reason = f"known for {known} of {len(covariates)} rows, too few for the contrast"
    return LeftOut(name=str(gaps.idxmax()), reason=reason)


def declared_columns(claim: Claim) -> tuple[str, ...]:
    """Return the covariate columns of a claim in the order declared."""
    return tuple(column for name in claim.covariates for column in COVARIATE_COLUMNS[name])


class _Columns(NamedTuple):
    x: Matrix
    names: list[str]
    family_df: int


def _choose_columns(
    averaged: pd.DataFrame,
    rows: np.ndarray,
    has_outcome: np.ndarray,
    claim: Claim,
    candidates: tuple[str, ...],
) -> tuple[_Columns, list[LeftOut]]:
    """Return the columns for `rows`, and the candidates that cannot be used."""
    everyone = averaged.loc[has_outcome, list(candidates)]
    idle = [
        LeftOut(name=name, reason=reason)
        for name in candidates
        if (reason := _reason_against_values(everyone[name].dropna().to_numpy(dtype=float)))
    ]
    if idle:
        return _Columns(np.empty((0, 0)), [], 0), idle
    used = averaged.iloc[rows]
    x, names = _mixers_and_datasets(used, claim)
    family = family_cells(used)
    strata = _indicators(connected_strata(used["family"], used["dataset"]))
    between = _family_means(np.column_stack([x[:, _mixer_columns(names)], strata]), family)
    if len(between) - np.linalg.matrix_rank(between) < 1:
        raise ClaimError(
            f"{len(between)} families cannot tell a difference between mixers from one between"
            " families; at least one mixer of the contrast needs two families"
        )
    rejected = []
    for name in candidates:
        values = used[name].to_numpy(dtype=float)
        reason = _reason_against_column(values, x, between, family)
        if reason is not None:
            rejected.append(LeftOut(name=name, reason=reason))
            continue
        scaled = (values - values.mean()) / values.std()
        x, names = np.column_stack([x, scaled]), [*names, name]
        if not _varies_within_families(values, family):
            between = np.column_stack([between, _family_means(scaled[:, None], family)])
    if len(rows) <= x.shape[1]:
        raise ClaimError(f"{len(rows)} rows cannot carry {x.shape[1]} columns")
    return _Columns(x, names, len(between) - int(np.linalg.matrix_rank(between))), rejected


def _mixers_and_datasets(used: pd.DataFrame, claim: Claim) -> tuple[Matrix, list[str]]:
    first, second = claim.contrast
    mixers = used["mixer"].to_numpy(dtype=str)
    for side in (first, second):
        if not (mixers == side).any():
            raise ClaimError(f"no checkpoint is known to mix by {side}")
    datasets = used["dataset"].to_numpy(dtype=str)
    columns = [mixers == first]
    names = [f"mixer {first}"]
    for dataset in np.unique(datasets):
        columns.append(datasets == dataset)
        names.append(f"dataset {dataset}")
    x = np.column_stack(columns).astype(float)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ClaimError(f"no dataset has both {first} and {second} checkpoints")
    for mixer in sorted(set(mixers) - {first, second}):
        wider = np.column_stack([x, (mixers == mixer).astype(float)])
        if np.linalg.matrix_rank(wider) == wider.shape[1]:
            x, names = wider, [*names, f"mixer {mixer}"]
    return x, names


def _mixer_columns(names: list[str]) -> list[int]:
    return [index for index, name in enumerate(names) if name.startswith("mixer ")]


def _reason_against_values(values: Vector) -> str | None:
    """Say why a covariate is of no use whatever the design, or return None."""
    if not len(values):
        return "unknown for every checkpoint"
    if np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())):
        return "the same for every checkpoint"
    return None


def _reason_against_column(values: Vector, x: Matrix, between: Matrix, family: Codes) -> str | None:
    """Say why a covariate cannot enter beside the columns already in, or return None."""
    if reason := _reason_against_values(values):
        return reason
    spread = values - values.mean()
    residual = spread - x @ np.linalg.lstsq(x, spread, rcond=None)[0]
    if float(residual @ residual) < 1e-6 * float(spread @ spread):
        return "determined by the mixer, the dataset and the covariates before it"
    if len(x) - x.shape[1] <= MINIMUM_FREEDOM:
        return f"would leave fewer than {MINIMUM_FREEDOM} rows to judge the error by"
    wider = np.column_stack([between, _family_means(spread[:, None], family)])
    too_few = len(wider) - np.linalg.matrix_rank(wider) < MINIMUM_FREEDOM
    if too_few and not _varies_within_families(values, family):
        return f"would leave fewer than {MINIMUM_FREEDOM} families to judge the error by"
    return None


def _varies_within_families(values: Vector, family: Codes) -> bool:
    """Return whether checkpoints of a family differ enough to give the covariate's slope.

    Such a covariate takes no family away from the comparison of families.
    """
    within = values - _family_means(values[:, None], family)[family, 0]
    return float(within @ within) >= WITHIN_SHARE * float(((values - values.mean()) ** 2).sum())


def family_cells(used: pd.DataFrame) -> Codes:
    """Return codes of (family, mixer): the units whose labels can be exchanged.

    A family with two mixers, such as an encoder published with both backbones, is two units.
    As one unit, the difference between two of its checkpoints would stand for the difference
    between mixers, with no replication behind it.
    """
    return np.unique(_cell_labels(used), return_inverse=True)[1]


def _cell_labels(used: pd.DataFrame) -> np.ndarray:
    labels = used["family"].astype(str) + "\x1f" + used["mixer"].astype(str)
    return labels.to_numpy(dtype=str)


def connected_strata(family: pd.Series[str], dataset: pd.Series[str]) -> Codes:
    """Return a code per row: rows are in one stratum when datasets and families link them.

    Families of different modalities share no dataset, so each modality is its own stratum,
    and labels are exchanged within it only.
    """
    families = np.unique(family.to_numpy(dtype=str), return_inverse=True)[1]
    datasets = np.unique(dataset.to_numpy(dtype=str), return_inverse=True)[1] + families.max() + 1
    size = datasets.max() + 1
    graph = sparse.coo_array((np.ones(len(families)), (families, datasets)), shape=(size, size))
    component = csgraph.connected_components(graph, directed=False)[1]
    return np.unique(component[families], return_inverse=True)[1]


def _family_means(columns: Matrix, family: Codes) -> Matrix:
    sums: Matrix = np.zeros((family.max() + 1, columns.shape[1]))
    np.add.at(sums, family, columns)
    means: Matrix = sums / np.bincount(family)[:, None]
    return means


def _indicators(codes: Codes) -> Matrix:
    indicators: Matrix = (codes[:, None] == np.arange(codes.max() + 1)).astype(float)
    return indicators


def dropped_checkpoints(averaged: pd.DataFrame, design: Design) -> list[Dropped]:
    """List the averaged rows that the design could not use, with the covariate they lack."""
    unused = np.setdiff1d(np.arange(len(averaged)), design.rows)
    dropped = []
    for _, row in averaged.iloc[unused].iterrows():
        lacking = [part for part in design.covariates if np.isnan(row[part])]
        reason = f"lacks {', '.join(lacking)}" if lacking else "has no value of the outcome"
        dropped.append(
            Dropped(name=f"{row['model']}/{row['dataset']}", status="completed", reason=reason)
        )
    return dropped
