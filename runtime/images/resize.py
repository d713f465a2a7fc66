"""Bilinear resizing with antialiasing: Pillow's own when it is there, else the same filter in numpy."""

from typing import Tuple

import numpy as np

from ..records import Array


def resize_bilinear(image: Array, height: int, width: int) -> Array:
    """uint8 (H, W, 3) -> uint8 (height, width, 3)."""
    try:
        from PIL import Image
    except ImportError:
        return resize_bilinear_numpy(image, height, width)
    # The number is Image.BILINEAR in every Pillow; the name has moved between releases.
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), 2))


def resize_bilinear_numpy(image: Array, height: int, width: int) -> Array:
    """The same without Pillow, within 2/255 of it."""
    if image.shape[1] != width:
        image = _resize_rows(image.transpose(1, 0, 2), width).transpose(1, 0, 2)
    if image.shape[0] != height:
        image = _resize_rows(image, height)
    return np.ascontiguousarray(image)


def _resize_rows(image: Array, rows: int) -> Array:
    """uint8 (H, W, 3) -> uint8 (rows, W, 3): each new row is a weighted sum of a few old ones."""
    index, weight = _taps(image.shape[0], rows)  # (rows, taps) both
    out = np.zeros((rows,) + image.shape[1:], dtype=np.float32)
    for tap in range(index.shape[1]):
        out += image[index[:, tap]] * weight[:, tap, None, None]
    out += np.float32(0.5)
    return np.clip(out, 0, 255).astype(np.uint8)


def _taps(old: int, new: int) -> Tuple[Array, Array]:
    """The triangle filter of half-width max(scale, 1) around each new pixel's centre, cut at the border."""
    scale = old / float(new)
    support = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale  # (new,)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    taps = int(np.ceil(support)) * 2 + 1
    index = first[:, None] + np.arange(taps)[None, :]  # (new, taps)
    weight = np.maximum(0.0, 1.0 - np.abs(index + 0.5 - centre[:, None]) / support)
    weight[index >= old] = 0.0
    weight /= weight.sum(axis=1, keepdims=True)
    return np.minimum(index, old - 1), weight.astype(np.float32)
