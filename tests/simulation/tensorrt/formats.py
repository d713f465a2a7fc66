"""TensorRT's memory layouts, as include/NvInferRuntime(Common).h describes `TensorFormat`.

A layout groups the channels (third dimension from the end) by `width`: "major" ones keep groups apart
(N, C/width, H, W, width), "minor" ones put channels last and pad them (N, H, W, C rounded up to width).
"""

from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    width: int
    minor: bool
    dtypes: frozenset


def _layout(width, minor, *dtypes):
    return Layout(width, minor, frozenset(dtypes))


LAYOUTS = {
    "CHW2": _layout(2, False, "HALF"),
    "HWC8": _layout(8, True, "HALF"),
    "CHW4": _layout(4, False, "HALF", "INT8"),
    "CHW16": _layout(16, False, "HALF"),
    "CHW32": _layout(32, False, "FLOAT", "HALF", "INT8"),
    "HWC": _layout(1, True, "FLOAT"),
    "HWC16": _layout(16, True, "HALF"),
}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "BOOL": np.bool_,
         "UINT8": np.uint8, "INT64": np.int64}  # fmt: skip
# From 10 on the headers name fewer types for these; CHW16 is for DLA only.
NEWER = {"CHW4": frozenset({"INT8"}), "CHW16": frozenset(), "HWC16": frozenset({"HALF", "INT8"})}


def is_possible(name, dtype, rank, api):
    """May a tensor of that type and rank lie in that layout?"""
    if name == "LINEAR":
        return True
    dtypes = LAYOUTS[name].dtypes if name in LAYOUTS else frozenset()
    if api.number >= (10,):
        dtypes = NEWER.get(name, dtypes)
    return rank >= 3 and dtype in dtypes


def stored_shape(name, shape):
    """The dimensions as they lie in memory."""
    if name == "LINEAR":
        return tuple(shape)
    layout = LAYOUTS[name]
    *outer, channels, height, width = shape
    groups = -(-channels // layout.width)
    if layout.minor:
        return (*outer, height, width, groups * layout.width)
    return (*outer, groups, height, width, layout.width)


def nbytes(name, dtype, shape):
    return int(np.prod(stored_shape(name, shape), dtype=np.int64)) * np.dtype(NUMPY[dtype]).itemsize


def pack(name, array):
    """An array (..., C, H, W) as bytes in that layout. Padding is NaN (0xff): nobody may read it."""
    if name == "LINEAR":
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    layout, channels = LAYOUTS[name], array.shape[-3]
    padded = channels + -channels % layout.width
    full = np.empty((*array.shape[:-3], padded, *array.shape[-2:]), array.dtype)
    full.reshape(-1).view(np.uint8)[:] = 0xFF
    full[..., :channels, :, :] = array
    if layout.minor:
        full = np.moveaxis(full, -3, -1)
    else:
        full = full.reshape(*full.shape[:-3], padded // layout.width, layout.width, *full.shape[-2:])
        full = np.moveaxis(full, -3, -1)
    return np.ascontiguousarray(full).reshape(-1).view(np.uint8)


def unpack(name, raw, dtype, shape):
    """The array (..., C, H, W) that lies in those bytes."""
    stored = raw.view(NUMPY[dtype]).reshape(stored_shape(name, shape))
    if name == "LINEAR":
        return stored
    full = np.moveaxis(stored, -1, -3)  # minor: (..., C, H, W); major: (..., groups, width, H, W)
    if not LAYOUTS[name].minor:
        full = full.reshape(*full.shape[:-4], -1, *full.shape[-2:])
    return np.ascontiguousarray(full[..., : shape[-3], :, :])
