"""The negative log-likelihood of each row and its derivatives in the inverse temperature."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmark.arrays import Float64Array, FloatArray
from benchmark.statistics.logit_arrays import LogitRows, row_dot, row_sum

# Stands for a masked class (-inf): its probability underflows to 0 without making 0 * inf.
MASKED = -1e30


class RowTerms(NamedTuple):
    """Negative log-likelihood of each row and its first two derivatives in b = 1/T."""

    nll: FloatArray
    slope: FloatArray
    curvature: FloatArray


def row_terms(
    shifted: FloatArray, label_shifted: FloatArray, inverse: float, scratch: FloatArray
) -> RowTerms:
    """Return NLL, E_p[z] - z_y and Var_p(z) of each row at one inverse temperature.

    Args:
        shifted: [m, K] finite logits with row maximum 0.
        label_shifted: [m] their entries at the label.
        inverse: Inverse temperature, > 0.
        scratch: [m, K] memory like `shifted`, overwritten.
    """
    np.multiply(shifted, shifted.dtype.type(inverse), out=scratch)
    np.exp(scratch, out=scratch)
    total = row_sum(scratch)
    np.multiply(scratch, shifted, out=scratch)
    mean = row_sum(scratch) / total
    variance = row_dot(scratch, shifted) / total - mean * mean
    return RowTerms(
        np.log(total) - shifted.dtype.type(inverse) * label_shifted, mean - label_shifted, variance
    )


class LossTerms(NamedTuple):
    """A loss of each row [n] at one inverse temperature b, its derivative in b, and mean second."""

    loss: Float64Array
    slope: Float64Array
    curvature: float


def loss_terms(rows: LogitRows, inverse: float) -> tuple[LossTerms, LossTerms]:
    """Return the negative log-likelihood and the Brier score of each row, in one pass.

    With p the probabilities and c the logits minus their mean under p, dp/db = p c.

    Args:
        rows: Checked logits and labels; no label on a masked class.
        inverse: b = 1/T, > 0.
    """
    terms = np.empty((6, rows.n_rows))
    for block in rows.blocks():
        logits = np.maximum(block.shifted, block.shifted.dtype.type(MASKED))
        p = np.exp(logits * logits.dtype.type(inverse))
        total = row_sum(p)
        p /= total[:, None]
        label = np.exp(inverse * block.label_shifted) / total
        mean = row_dot(p, logits)
        own = block.label_shifted - mean
        logits -= mean[:, None]
        moved = p * logits
        variance, square = row_dot(moved, logits), row_dot(p, p)
        of_block = (
            np.log(total) - inverse * block.label_shifted,
            -own,
            variance,
            square - 2 * label + 1,
            2 * row_dot(p, moved) - 2 * label * own,
            4 * row_dot(moved, moved) - 2 * variance * square - 2 * label * (own**2 - variance),
        )
        for out, values in zip(terms, of_block, strict=True):
            out[block.rows] = values
    nll, brier = (
        LossTerms(loss, slope, float(curvature.mean()))
        for loss, slope, curvature in (terms[:3], terms[3:])
    )
    return nll, brier


def row_slopes(rows: LogitRows, inverses: Float64Array) -> Float64Array:
    """Return d NLL / d(1/T) of each row at several inverse temperatures, float64 [n, J].

    Args:
        rows: Checked logits and labels; no label on a masked class.
        inverses: [J] inverse temperatures, > 0.
    """
    slopes = np.empty((rows.n_rows, len(inverses)))
    for block in rows.blocks():
        shifted = np.maximum(block.shifted, block.shifted.dtype.type(MASKED))
        scratch = np.empty_like(shifted)
        for column, inverse in enumerate(inverses):
            terms = row_terms(shifted, block.label_shifted, float(inverse), scratch)
            slopes[block.rows, column] = terms.slope
    return slopes
