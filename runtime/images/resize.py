"""Bilinear resizing with antialiasing: Pillow's own when it is there, else the same filter in numpy."""

from typing import Tuple

import numpy as np

from ..records import Array

# So many new rows are made by one product of matrices: few enough that the old rows they do not need, which have weight
# 0 in it, cost less than a product of its own for each row.
_ROWS = 4


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
    if image.shape[0] != height:
        image = _resize_rows(image, height)
    if image.shape[1] != width:
        image = _resize_rows(np.ascontiguousarray(image.transpose(1, 0, 2)), width).transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def _resize_rows(image: Array, rows: int) -> Array:
    """uint8 (H, W, 3) -> uint8 (rows, W, 3): each new row is a weighted sum of a few old ones."""
    old = image.reshape(image.shape[0], -1)
    out = np.empty((rows, old.shape[1]), dtype=np.uint8)
    for start in range(0, rows, _ROWS):
        first, weights = _weights(len(old), rows, start, min(start + _ROWS, rows))
        made = np.dot(weights, old[first : first + weights.shape[1]].astype(np.float32))
        made += np.float32(0.5)
        out[start : start + _ROWS] = np.clip(made, 0, 255, out=made)
    return out.reshape((rows,) + image.shape[1:])


def _weights(old: int, new: int, start: int, stop: int) -> Tuple[int, Array]:
    """The first old row that new rows start to stop need, and float32 (stop - start, so many old rows from there): the
    triangle filter of half-width max(scale, 1) around each new pixel's centre, cut at the border."""
    scale = old / float(new)
    support = max(scale, 1.0)
    centre = (np.arange(start, stop) + 0.5) * scale
    first, last = max(0, int(centre[0] - support)), min(old, int(np.ceil(centre[-1] + support)))
    distance = np.abs(np.arange(first, last)[None, :] + 0.5 - centre[:, None])
    weights = np.maximum(0.0, 1.0 - distance / support)
    weights /= weights.sum(axis=1, keepdims=True)
    return first, weights.astype(np.float32)
