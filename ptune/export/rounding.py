"""Rounding to int8 for the integer profiles of encoders and decoders: symmetric, with a scale for each output column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
ZERO = 128  # zero point of uint8: processors have an instruction for products of uint8 and int8
SMALLEST = 1e-6  # of a row's largest value: a row of zeros stays zeros


def column_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales [out] of W [in, out]; 1 for a column of zeros."""
    largest = np.abs(weight).max(axis=0)
    return np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)


def rounded_columns(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rounds W to Wq [in, out], with W close to Wq * scale."""
    return np.clip(np.rint(weight / scale), -LARGEST, LARGEST).astype(np.int8)
