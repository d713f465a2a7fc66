"""Large values as a few numbers that any wrong element changes, so that golden values stay small.

A value of one picture is cut into GROUPS runs of elements, and of each run the elements are added up with fixed random
signs. The sum of n elements is divided by sqrt(n): it is as large as an element is, and so is the share of it that an
engine's rounding changes. A wrong channel is a large part of its run; a mean would hide what cancels.
"""

import numpy as np

from ..records import Array
from .noise import signs

GROUPS = 32
WHOLE = 64  # values of up to so many elements are kept as they are


def summarised(value: Array, whole: bool = False) -> Array:
    """float32 (N, ...) -> float32 (N, k); whole: every element is kept, however many there are."""
    rows = value.reshape(len(value), -1)
    count = rows.shape[1]
    if whole or count <= WHOLE:
        return np.ascontiguousarray(rows, np.float32)
    signed = rows.astype(np.float64) * signs(count, "%d elements" % count)
    starts = np.arange(GROUPS) * count // GROUPS
    lengths = np.diff(np.append(starts, count))
    return (np.add.reduceat(signed, starts, axis=1) / np.sqrt(lengths)).astype(np.float32)


def relative_error(found: Array, expected: Array, least: float = 1e-12) -> float:
    """max |found - expected| / max |expected|; infinite where they have not the same shape, or are not finite.

    least: what is taken for max |expected| where that is less.
    """
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    scale = max(float(np.abs(expected).max()), least)
    return float(np.abs(found - expected).max()) / scale


def not_finite(value: Array) -> int:
    """How many of its numbers are NaN or infinite."""
    return int(value.size - np.isfinite(value).sum())
