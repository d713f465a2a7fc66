"""Linear maps of normalised values as maps of the values themselves, and gradients the other way.

W z + b, z = (p - mean) / std      is      V p + c      with V = W / std, c = b - V mean
W = V std, b = c + V mean           takes a map of the values as one of the normalised values again
dL/dW = (dL/dV - dL/dc mean^T) / std       dL/db = dL/dc
"""

from typing import Optional, Tuple

import numpy as np

from ..records import Array


def fold(weight: Array, bias: Optional[Array], mean: Array, std: Array) -> Tuple[Array, Array]:
    """W (m, C) and b (m,), None for 0 -> V and c. mean, std: (C,)."""
    folded = weight / std
    shift = folded.dot(mean)
    return folded, -shift if bias is None else bias - shift


def taken_out(folded: Array, shift: Array, mean: Array, std: Array) -> Tuple[Array, Array]:
    """V (m, C) and c (m,) -> W and b, the reverse of `fold`."""
    return folded * std, shift + folded.dot(mean)


def unfold(d_weight: Array, d_bias: Array, mean: Array, std: Array) -> Array:
    """Gradients for V (m, C) and c (m,) -> that for W."""
    unfolded: Array = (d_weight - np.outer(d_bias, mean)) / std
    return unfolded
