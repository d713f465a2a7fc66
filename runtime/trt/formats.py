"""The memory layouts in which TensorRT engines hand each other values: their sizes in bytes, and how they are read.

In each of them the images lie one behind the other, so that one image can be copied alone.
"""

from typing import Dict, Sequence, Tuple

import numpy as np

from ..errors import BackendError
from ..records import Array

LINEAR = "LINEAR"
# Name in tensorrt.TensorFormat -> how many channels lie side by side. float16 (N, C, H, W) only.
_WIDTHS: Dict[str, int] = {LINEAR: 1, "CHW2": 2, "HWC8": 8}


def fast_format(sm: int) -> str:
    """The layout that half-precision convolutions of a GPU read without changing it: tensor cores (from sm_70 on) read
    channels in eights, the half2 units before them in pairs."""
    return "HWC8" if sm >= 70 else "CHW2"


def check_format(name: str, where: str) -> None:
    """Raise BackendError for a layout that is not known here. where: the tensor, in words."""
    if name not in _WIDTHS:
        raise BackendError("%s has the memory layout %s, which this da3 does not know: run `da3 build`" % (where, name))


def padded(shape: Sequence[int], layout: str) -> Tuple[int, ...]:
    """The shape that takes as much memory as `shape` does in the layout."""
    width = _WIDTHS[layout]
    if width == 1:
        return tuple(shape)
    return (shape[0], -(-shape[1] // width) * width) + tuple(shape[2:])


def nbytes(shape: Sequence[int], dtype: "np.dtype[np.generic]", layout: str) -> int:
    """Bytes that a tensor takes in the layout, as a Python integer, which does not overflow."""
    count = int(dtype.itemsize)
    for side in padded(shape, layout):
        count *= int(side)
    return count


def unpack(data: Array, shape: Sequence[int], layout: str) -> Array:
    """What lies in memory, one-dimensional, as a float32 array of `shape` (a copy)."""
    width = _WIDTHS[layout]
    if width > 1:
        n, channels, h, w = padded(shape, layout)
        if layout == "HWC8":
            data = data.reshape(n, h, w, channels).transpose(0, 3, 1, 2)
        else:  # (n, channels / 2, h, w, 2)
            data = data.reshape(n, channels // width, h, w, width).transpose(0, 1, 4, 2, 3)
            data = data.reshape(n, channels, h, w)
        data = data[:, : shape[1]]
    return np.array(data, dtype=np.float32, order="C").reshape(tuple(shape))


def pack(array: Array, dtype: str, layout: str) -> Array:
    """The reverse: float32 (N, ...) -> one-dimensional, of `dtype`, as it lies in memory; channels that only pad are
    0."""
    width = _WIDTHS[layout]
    if width > 1:
        n, channels, h, w = padded(array.shape, layout)
        whole = np.zeros((n, channels, h, w), array.dtype)
        whole[:, : array.shape[1]] = array
        if layout == "HWC8":
            array = whole.transpose(0, 2, 3, 1)
        else:  # (n, channels / 2, h, w, 2)
            array = whole.reshape(n, channels // width, width, h, w).transpose(0, 1, 3, 4, 2)
    return np.array(array, dtype=dtype, order="C").reshape(-1)
