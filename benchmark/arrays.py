"""Names for numpy arrays, by what their elements are; shapes stand in the docstrings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]
"""Floats of any width."""

IntArray = NDArray[np.int64]
UInt16Array = NDArray[np.uint16]
UInt8Array = NDArray[np.uint8]
