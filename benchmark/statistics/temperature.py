"""Temperature scaling, solved exactly.

Dividing logits z by a temperature T > 0 rescales confidence without changing the prediction (Guo
et al. 2017, "On Calibration of Modern Neural Networks"). With the inverse temperature b = 1/T the
mean negative log-likelihood

    f(b) = mean_i [ logsumexp_k(b z_ik) - b z_iy ]

is convex, with f'(b) = mean(E_p[z] - z_y) and f''(b) = mean(Var_p(z)), so a Newton iteration
inside a bracket finds its minimum to rounding error. Whether the minimum lies at a limit (T = 0 or
infinity) is decided in closed form before any iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from benchmark.arrays import Float64Array, FloatArray, IntArray
from benchmark.statistics.logit_arrays import (
    LEAST_MASK,
    ORDINARY_SCALES,
    Block,
    Labels,
    LogitRows,
    Logits,
    check_rows,
    mask_floor,
    row_maximum,
    row_sum,
    to_numpy,
)
from benchmark.statistics.row_terms import MASKED, row_terms

Status = Literal["converged", "at_zero", "at_infinity", "flat"]

SUBSET_STEP = 16
SUBSET_ROWS = 4096
MAX_ITERATIONS = 100
# Logits up to this size (64 MB at most) are kept shifted between passes.
KEPT_ELEMENTS = 1 << 23
# Newton alone; after that the bracket is bisected, which cannot fail.
NEWTON_ITERATIONS = 30
# A relative step that small is taken unchecked: it leaves a relative error of about its square.
LAST_STEP = 1e-4
# Relative distances over which a difference of curvatures is neither noise nor a poor derivative.
SKEW_DISTANCES = (1e-4, 0.1)
LARGEST_CORRECTION = 0.3
DECREMENT = 1e-18


@dataclass(frozen=True)
class TemperatureFit:
    """The temperature that minimises the negative log-likelihood, and how it was found.

    Attributes:
        temperature: In [0, inf]; 0 and inf are the limits named by `status`, 1 when `flat`.
        nll_before: Mean negative log-likelihood at T = 1, nats.
        nll_after: The same at `temperature` (its limit where that is 0 or inf).
        gradient: d NLL / d log(1/T) at `temperature`, nats; about 0 when converged, exactly 0 at a
            limit. Carried there from the last pass by its Taylor expansion, for the last step is
            too small to need another pass.
        iterations: Passes over all rows spent on the solution, after the first.
        status: `converged`: an interior minimum. `at_zero`: every label attains its row's maximum,
            so ever sharper is ever better. `at_infinity`: labels score no better than the row
            mean, so uniform probabilities are best. `flat`: every row is constant and the
            temperature has no effect.
        n_rows: Rows fitted on.
    """

    temperature: float
    nll_before: float
    nll_after: float
    gradient: float
    iterations: int
    status: Status
    n_rows: int

    def apply(self, logits: Logits) -> Float64Array:
        """Return calibrated probabilities of new logits.

        Args:
            logits: Float array or tensor [n, K] of the model that was fitted.

        Returns:
            float64 [n, K]; each row sums to 1.

        Raises:
            ValueError: Naming the first row with NaN or +inf.
        """
        return np.exp(log_probabilities(logits, self.temperature))


def fit_temperature(logits: Logits, labels: Labels) -> TemperatureFit:
    """Minimise the negative log-likelihood over T > 0.

    Args:
        logits: Float array or tensor [n, K], K >= 2; -inf marks a masked class, and so does a
            finite value that `mask_floor` finds.
        labels: Integers [n] in 0 ... K-1.

    Returns:
        The fit; its NLL is within 1e-9 nats of the optimum.

    Example:
        >>> logits = np.array([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [5.0, 0.0]])  # one is wrong
        >>> fit = fit_temperature(logits, labels=np.array([0, 1, 0, 1]))
        >>> fit.status, round(fit.temperature, 3)
        ('converged', 4.551)
        >>> fit.apply(logits).max(axis=1).round(3)
        array([0.75, 0.75, 0.75, 0.75])

    Raises:
        ValueError: Naming the first bad row: NaN or +inf logits, a label out of range or on a
            masked class; or no rows, one column, mismatched lengths.
    """
    rows, read, scan = _scan_open_classes(check_rows(logits, labels))
    if scan.flat:
        return TemperatureFit(1.0, scan.nll, scan.nll, 0.0, 0, "flat", rows.n_rows)
    if scan.labels_attain_maximum:
        return TemperatureFit(0.0, scan.nll, scan.nll_at_zero, 0.0, 0, "at_zero", rows.n_rows)
    if scan.slope_at_infinity >= 0:
        ends = scan.nll, scan.nll_at_infinity
        return TemperatureFit(math.inf, *ends, 0.0, 0, "at_infinity", rows.n_rows)
    scale = _typical_spread(rows)
    # Only elsewhere do float32 squares of logits overflow or vanish.
    ordinary = ORDINARY_SCALES[0] < scale < ORDINARY_SCALES[1]
    factor = 1.0 if ordinary else 1.0 / scale
    start = _warm_start(rows, factor, 1.0 / (factor * scale), scan.masked)
    if not ordinary:
        read = _reader(rows, factor)
    found = _solve(read, start, scan.masked, MAX_ITERATIONS)
    temperature, gradient = 1.0 / (found.inverse * factor), found.inverse * found.slope
    return TemperatureFit(
        temperature, scan.nll, found.nll, gradient, found.iterations, "converged", rows.n_rows
    )


def log_probabilities(logits: Logits, temperature: float = 1.0) -> Float64Array:
    """Return log softmax(logits / temperature) in float64, with both limits.

    Args:
        logits: Float array or tensor [n, K].
        temperature: In [0, inf]. At 0 the classes tied at the row maximum share the probability;
            at inf all classes that are not masked (-inf) do.

    Returns:
        [n, K] float64, at most 0, -inf where the probability is 0.

    Example:
        >>> np.exp(log_probabilities(np.array([[0.0, 2.0]]), temperature=2.0)).round(3)
        array([[0.269, 0.731]])
        >>> np.exp(log_probabilities(np.array([[0.0, 2.0]]), temperature=0.0))
        array([[0., 1.]])

    Raises:
        ValueError: Naming the first row with NaN or +inf, or a temperature out of range.
    """
    check_temperature(temperature)
    values = to_numpy(logits).astype(np.float64)
    shifted = values - row_maximum(values)
    if math.isinf(temperature):
        shifted[values <= mask_floor([values])] = -math.inf
    scaled = scale_shifted(shifted, temperature)
    normaliser: Float64Array = np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return np.asarray(scaled - normaliser, np.float64)


def scale_shifted(shifted: FloatArray, temperature: float) -> FloatArray:
    """Divide logits with row maximum 0 by a temperature in [0, inf]; both limits are exact."""
    if temperature == 0:
        return np.where(shifted == 0, shifted.dtype.type(0), shifted.dtype.type(-np.inf))
    if math.isinf(temperature):
        return np.where(np.isneginf(shifted), shifted, shifted.dtype.type(0))
    return shifted if temperature == 1.0 else shifted * shifted.dtype.type(1.0 / temperature)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature outside [0, inf].

    Example:
        >>> check_temperature(-1.0)
        Traceback (most recent call last):
        ValueError: temperature must be in [0, inf], got -1.0

    Raises:
        ValueError: It is negative or NaN.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be in [0, inf], got {temperature}")


Reader = Callable[[], Iterable[Block]]


def _reader(rows: LogitRows, factor: float) -> Reader:
    """Return a function that reads all blocks, from memory the second time if they are small."""
    if rows.n_rows * rows.n_classes > KEPT_ELEMENTS:
        maxima: dict[int, FloatArray] = {}
        return lambda: rows.blocks(factor, maxima)
    kept = list(rows.blocks(factor, reuse=False))
    return lambda: kept


def _scan_open_classes(rows: LogitRows) -> tuple[LogitRows, Reader, _Scan]:
    """Scan the rows, and once more without finite masks where a class is far enough for one."""
    scan = _scan(read := _reader(rows, 1.0), rows)
    if scan.lowest_sum <= -math.ldexp(1.0, LEAST_MASK):
        rows = rows.without_masks()
        scan = _scan(read := _reader(rows, 1.0), rows)
    return rows, read, scan


class _Scan(NamedTuple):
    nll: float
    nll_at_zero: float
    nll_at_infinity: float
    slope_at_infinity: float
    lowest_sum: float
    labels_attain_maximum: bool
    flat: bool
    masked: bool


@np.errstate(over="ignore")  # finite masks may add up to -inf: then they are found and left out
def _scan(read: Reader, rows: LogitRows) -> _Scan:
    """Check every row and gather what decides the limits, in one pass."""
    nll = slope = log_ties = log_classes = lowest = 0.0
    attains, flat, masked = True, True, False
    scratch: FloatArray | None = None
    for block in read():
        shifted, at_label = block.shifted, block.label_shifted
        scratch = np.empty_like(shifted) if scratch is None else scratch[: len(shifted)]
        if np.isneginf(at_label.min()):
            raise ValueError(_describe_masked_label(block, rows))
        total, classes = _open_sum(shifted)
        if classes is None:
            log_classes += len(shifted) * math.log(rows.n_classes)
        else:
            masked = True
            log_classes += float(np.log(classes).sum())
        lowest = min(lowest, float(total.min()))
        uniform_mean = total / (rows.n_classes if classes is None else classes)
        slope += float((uniform_mean - at_label).sum(dtype=np.float64))
        flat = flat and not total.any()
        if attains and not at_label.any():
            log_ties += float(np.log((shifted == 0).sum(axis=1)).sum())
        else:
            attains = False
        np.exp(shifted, out=scratch)
        nll += float((np.log(row_sum(scratch)) - at_label).sum(dtype=np.float64))
    n = rows.n_rows
    return _Scan(nll / n, log_ties / n, log_classes / n, slope / n, lowest, attains, flat, masked)


def _open_sum(shifted: FloatArray) -> tuple[FloatArray, IntArray | None]:
    """Sum a block over the classes that are not masked; count them if any is, else return None."""
    total = row_sum(shifted)
    if not np.isneginf(total.min()):
        return total, None
    open_class = np.isfinite(shifted)
    return np.where(open_class, shifted, 0).sum(axis=1), open_class.sum(axis=1)


def _describe_masked_label(block: Block, rows: LogitRows) -> str:
    within = int(np.isneginf(block.label_shifted).argmax())
    row = block.rows.start + within
    label = rows.labels[row]
    return (
        f"row {row}: the label {label} has logit {block.source[within, label]:g}, a masked class, "
        "so the likelihood is 0 at every temperature; unmask the class or drop the row"
    )


def _typical_spread(rows: LogitRows) -> float:
    """Median distance below the row maximum over a subset: robust to a few huge finite masks."""
    subset = rows.every(max(1, rows.n_rows // 256))
    distances = np.concatenate([-block.shifted.ravel() for block in subset.blocks()])
    distances = distances[(distances > 0) & np.isfinite(distances)]
    return float(np.median(distances)) if distances.size else 1.0


class _Start(NamedTuple):
    """Where to begin: an inverse temperature, and the ratio of third to second derivative there."""

    inverse: float
    skew: float = 0.0


def _warm_start(rows: LogitRows, factor: float, guess: float, masked: bool) -> _Start:
    """Solve on ever larger subsets, so that about two passes over all rows remain."""
    if rows.n_rows <= SUBSET_ROWS:
        return _Start(guess)
    subset = rows.every(SUBSET_STEP)
    start = _warm_start(subset, factor, guess, masked)
    # A subset may have its optimum at a limit: do not follow it there.
    solution = _solve(_reader(subset, factor), start, masked, max_iterations=8)
    return _Start(solution.inverse, solution.skew)


class _Solution(NamedTuple):
    inverse: float
    nll: float
    slope: float
    skew: float
    iterations: int


def _solve(read: Reader, start: _Start, masked: bool, max_iterations: int) -> _Solution:
    """Newton on the inverse temperature inside a bracket, corrected for the third derivative."""
    low, high, (inverse, skew) = 0.0, math.inf, start
    before: tuple[float, float] | None = None
    for iteration in range(1, max_iterations + 1):
        nll, slope, curvature = _derivatives(read, inverse, masked)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        skew = _update_skew(skew, before, inverse, curvature)
        before = inverse, curvature
        step = slope / curvature if curvature > 0 else math.copysign(math.inf, slope)
        # A third derivative known to 1% takes 99% off the error of the step.
        correction = skew * step / 2
        step *= 1 + correction if abs(correction) < LARGEST_CORRECTION else 1
        if abs(step) <= LAST_STEP * inverse:
            # Its error is of the order of its square: no further pass could tell the difference.
            rest = slope - curvature * step * (1 - skew * step / 2)
            return _Solution(inverse - step, nll - slope * step / 2, rest, skew, iteration)
        # No slope and no curvature: every probability is 0 or 1, as in a subset without an error.
        if slope == 0 or slope * step / 2 <= DECREMENT or high - low <= LAST_STEP**2 * low:
            break
        if iteration < max_iterations:
            bisect = iteration > NEWTON_ITERATIONS
            inverse = _next_inverse(inverse, inverse - step, low, high, bisect)
    return _Solution(inverse, nll, slope, skew, iteration)


def _update_skew(
    skew: float, before: tuple[float, float] | None, inverse: float, curvature: float
) -> float:
    """Estimate the ratio of third to second derivative from two points at a fit distance."""
    if before is None or curvature <= 0:
        return skew
    distance = inverse - before[0]
    if not SKEW_DISTANCES[0] < abs(distance) / inverse < SKEW_DISTANCES[1]:
        return skew
    return (curvature - before[1]) / (distance * curvature)


def _next_inverse(current: float, newton: float, low: float, high: float, bisect: bool) -> float:
    """Take the Newton step if it stays inside the bracket and within a factor of 8; else bisect."""
    candidate = min(max(newton, current / 8), current * 8)
    if low < candidate < high and not (bisect and low > 0 and math.isfinite(high)):
        return candidate
    return math.sqrt(low) * math.sqrt(high)


def _derivatives(read: Reader, inverse: float, masked: bool) -> tuple[float, float, float]:
    """Return mean NLL and its first two derivatives in the inverse temperature."""
    nll = slope = curvature = 0.0
    n_rows = 0
    scratch: FloatArray | None = None
    for block in read():
        shifted = block.shifted
        if scratch is None:
            scratch = np.empty_like(shifted)
        if masked:
            np.maximum(shifted, MASKED, out=shifted)
        terms = row_terms(shifted, block.label_shifted, inverse, scratch[: len(shifted)])
        nll += float(terms.nll.sum(dtype=np.float64))
        slope += float(terms.slope.sum(dtype=np.float64))
        curvature += float(terms.curvature.sum(dtype=np.float64))
        n_rows += len(shifted)
    return nll / n_rows, slope / n_rows, curvature / n_rows
