"""Checked logits and labels, read in cache-sized blocks with the row maximum subtracted.

Every statistic of this package starts here, so bad input is found, named and refused in one place,
and numpy arrays and torch tensors of any float type look the same from here on. Torch is never
imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark.arrays import FloatArray, IntArray

# A numpy array or torch tensor [n, K]: torch is not imported here, so its tensor cannot be named.
Logits = Any
Labels = Any

# Two blocks of float32 just fit a 1 MB second-level cache.
BLOCK_ELEMENTS = 1 << 17
# Up to this size float64 costs a few milliseconds, so little is gained by float32.
FLOAT64_ELEMENTS = 1 << 18
# With few classes numpy reduces a class-major block up to a hundred times faster than a row-major
# one.
CLASS_MAJOR_CLASSES = 64
ORDINARY_SCALES = (1e-6, 1e6)
# Finite masks in powers of 2: how large they are, over how many powers they spread (a mask plus a
# logit, or a mask added twice), and how many lie empty between them and the largest logit.
LEAST_MASK, MASK_SPREAD, MASK_GAP = 19, 4, 10
_EXPONENTS = 1100  # float64 has exponents from -1073 to 1024


class Block(NamedTuple):
    """Consecutive rows of the logits.

    Attributes:
        rows: Which rows these are.
        source: [m, K] the logits as given.
        shifted: [m, K] logits minus the row maximum, times the reader's factor; at most 0. Its
            memory is overwritten by the next block unless the reader was told not to.
        label_shifted: [m] the entry of `shifted` at the label.
    """

    rows: slice
    source: FloatArray
    shifted: FloatArray
    label_shifted: FloatArray


@dataclass(frozen=True, eq=False)
class LogitRows:
    """Logits with their labels, checked for shape, type and label range.

    Attributes:
        values: Numpy array or torch tensor [n, K].
        labels: int64 [n], each in 0 ... K-1.
        dtype: The type blocks are computed in.
        order: Memory order of a block.
        floor: Logits up to this one are masks, and read as -inf.
    """

    values: Logits
    labels: IntArray
    dtype: type[np.floating[Any]]
    order: Literal["C", "F"]
    floor: float = -math.inf

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.values.shape[1])

    def every(self, step: int) -> LogitRows:
        """Return every `step`-th row, without copying."""
        part = _assemble(self.values[::step], self.labels[::step])
        return replace(part, floor=self.floor)

    def without_masks(self) -> LogitRows:
        """Return the same rows with large negative finite masks read as -inf; see `mask_floor`."""
        return replace(self, floor=mask_floor(block.source for block in self.blocks()))

    def blocks(
        self,
        factor: float = 1.0,
        maxima: dict[int, FloatArray] | None = None,
        *,
        reuse: bool = True,
    ) -> Iterator[Block]:
        """Yield the rows in order, in blocks that fit the cache.

        Args:
            factor: Multiplies the shifted logits, in the precision of the logits.
            maxima: Row maxima by first row, filled by a first pass and spared a second one.
            reuse: Overwrite one block of memory, instead of keeping every block.

        Raises:
            ValueError: A row holds NaN or +inf, or nothing but -inf.
        """
        size = max(1, BLOCK_ELEMENTS // self.n_classes)
        memory = np.empty((min(size, self.n_rows), self.n_classes), self.dtype, self.order)
        for start in range(0, self.n_rows, size):
            source = to_numpy(self.values[start : start + size])
            rows = slice(start, start + len(source))
            # Subtract before rounding to float32: a large common offset must not cost digits.
            staged = np.asarray(
                source, np.promote_types(source.dtype, self.dtype), order=self.order
            )
            known = {} if maxima is None else maxima
            if start not in known:
                known[start] = row_maximum(staged, start)
            maximum = known[start]
            if not reuse:
                memory = np.empty((len(source), self.n_classes), self.dtype, self.order)
            shifted = memory[: len(source)]
            with np.errstate(over="ignore"):  # a mask beyond float32's lowest becomes -inf
                if factor == 1.0:
                    np.subtract(staged, maximum, out=shifted, casting="same_kind")
                else:
                    np.multiply(staged - maximum, factor, out=shifted, casting="same_kind")
            if self.floor > -math.inf:
                shifted[source <= self.floor] = -math.inf
            yield Block(rows, source, shifted, self._at_label(shifted, rows))

    def _at_label(self, block: FloatArray, rows: slice) -> FloatArray:
        """Pick the entry at each row's label [m], twice as fast as by indexing with two arrays."""
        n, labels = len(block), self.labels[rows]
        if block.flags.c_contiguous:
            return block.reshape(-1).take(labels + self.n_classes * np.arange(n))
        # A part of a class-major block is not contiguous itself, but its memory is.
        whole = block if block.base is None else block.base
        return np.asarray(whole).reshape(-1, order="F").take(labels * len(whole) + np.arange(n))


def mask_floor(blocks: Iterable[FloatArray]) -> float:
    """Return up to what value logits are masks; -inf where there are no finite ones.

    Many models mask a class with a large negative number, such as -1e9 or the lowest of a float
    type. It stands for -inf, but would pass for the scale of the logits. Masks are told by a gap:
    they are negative, -524,288 at most, and hundreds of times as large as any other logit.

    Args:
        blocks: Logits, each [m, K].
    """
    negative, positive = np.zeros((2, 2 * _EXPONENTS), np.int64)
    for block in blocks:
        for sign, counts in ((-1, negative), (1, positive)):
            magnitudes = block[(sign * block > 0) & np.isfinite(block)]
            exponents = np.frexp(magnitudes)[1] + _EXPONENTS
            counts += np.bincount(exponents, minlength=len(counts))
    # An exponent e stands for magnitudes from 2^(e-1) to 2^e.
    exponents = np.flatnonzero(negative + positive) - _EXPONENTS
    floor = -math.inf
    while exponents.size:
        largest = exponents > exponents[-1] - MASK_SPREAD
        masks, rest = exponents[largest], exponents[~largest]
        if masks[0] <= LEAST_MASK or positive[masks + _EXPONENTS].any():
            break
        if rest.size and masks[0] - rest[-1] < MASK_GAP:
            break
        floor, exponents = -math.ldexp(1.0, int(masks[0]) - 1), rest
    return floor


def check_rows(logits: Logits, labels: Labels) -> LogitRows:
    """Check the shape and type of logits and the range of labels.

    Args:
        logits: Numpy array or torch tensor of any float type, [n, K] with n >= 1 and K >= 2.
        labels: Integers [n] in 0 ... K-1.

    Raises:
        ValueError: With the first bad row and the remedy, when the arrays do not fit together.
    """
    values = logits if hasattr(logits, "shape") else np.asarray(logits, np.float64)
    if len(values.shape) != 2:
        raise ValueError(f"logits must have shape [n, K], got {tuple(values.shape)}")
    if values.shape[1] < 2:
        raise ValueError(
            f"logits have {values.shape[1]} column(s), but at least 2 classes are needed; "
            "for a single sigmoid logit z pass the two columns (0, z)"
        )
    if values.shape[0] == 0:
        raise ValueError("logits have no rows; is the split empty?")
    return _assemble(values, _check_labels(labels, int(values.shape[0]), int(values.shape[1])))


def _assemble(values: Logits, labels: IntArray) -> LogitRows:
    n_classes = int(values.shape[1])
    small = len(labels) * n_classes <= FLOAT64_ELEMENTS
    order: Literal["C", "F"] = "F" if n_classes <= CLASS_MAJOR_CLASSES else "C"
    return LogitRows(values, labels, np.float64 if small else np.float32, order)


def _check_labels(labels: Labels, n_rows: int, n_classes: int) -> IntArray:
    array = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if array.shape != (n_rows,):
        raise ValueError(
            f"logits have {n_rows} rows but labels have shape {array.shape}; "
            "pass one label for each row"
        )
    if array.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers (class indices), got {array.dtype}")
    if array.min() < 0 or array.max() >= n_classes:
        bad = (array < 0) | (array >= n_classes)
        row = int(bad.argmax())
        raise ValueError(
            f"row {row}: label {array[row]} is not in 0 ... {n_classes - 1}; drop ignored rows "
            "(such as -100) and count classes from 0"
        )
    return array.astype(np.int64, copy=False)


def to_numpy(values: Logits) -> FloatArray:
    """Return a numpy float array of any array or tensor, on the CPU and without gradients.

    Raises:
        ValueError: The type is not a real float or integer type.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # Numpy has no bfloat16; float32 holds every bfloat16 exactly.
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    if array.dtype.kind == "f":
        return array
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    raise ValueError(f"logits must be real floats, got {array.dtype}")


def row_maximum(source: FloatArray, start: int = 0) -> FloatArray:
    """Return the largest logit of each row [m, K] as [m, 1].

    Args:
        source: The rows.
        start: Number of the first of them, for the message.

    Raises:
        ValueError: A row holds NaN or +inf, or nothing but -inf.
    """
    maximum = source.max(axis=1, keepdims=True)
    if not np.isfinite(maximum).all():
        raise ValueError(_describe_bad_row(source, start))
    return np.asarray(maximum)


def _describe_bad_row(source: FloatArray, start: int) -> str:
    bad = np.isnan(source) | np.isposinf(source)
    bad[np.isneginf(source).all(axis=1)] = True
    row = int(bad.any(axis=1).argmax())
    column = int(bad[row].argmax())
    if np.isneginf(source[row]).all():
        return f"row {start + row}: every logit is -inf; at least one class must stay unmasked"
    return (
        f"row {start + row}: the logit of class {column} is {source[row, column]}; "
        "the model overflowed or diverged, so repeat the run in a wider float type or drop the row"
    )


def row_sum(block: FloatArray) -> FloatArray:
    """Sum a block [m, K] over classes."""
    if block.flags.c_contiguous:
        # A matrix-vector product is three times as fast as a pairwise sum along short rows.
        return np.asarray(block @ np.ones(block.shape[1], block.dtype))
    return np.asarray(block.sum(axis=1))


def row_dot(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the inner products of matching rows of two blocks [m, K] of one memory order."""
    if left.flags.c_contiguous:
        return np.asarray(np.vecdot(left, right))
    return np.asarray(np.einsum("ij,ij->i", left, right))
