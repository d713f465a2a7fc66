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


def resize_window(image: Array, height: int, width: int, top: int, left: int, size: int) -> Array:
    """The square of `size` pixels at (top, left) of what `resize_bilinear_numpy` gives, uint8 (size, size, 3). Nothing
    else is computed of it: the rest may be too large for any memory."""
    old = image.shape[:2]
    first, last = _needed(old[1], width, left, left + size)
    image = _new_rows(np.ascontiguousarray(image[:, first:last]), old[0], height, top, top + size)
    turned = np.ascontiguousarray(image.transpose(1, 0, 2))
    turned = _new_rows(turned, old[1], width, left, left + size, first)
    return np.ascontiguousarray(turned.transpose(1, 0, 2))


def resize_bilinear_numpy(image: Array, height: int, width: int) -> Array:
    """The same without Pillow, within 2/255 of it."""
    if image.shape[0] != height:
        image = _new_rows(image, image.shape[0], height, 0, height)
    if image.shape[1] != width:
        turned = np.ascontiguousarray(image.transpose(1, 0, 2))
        image = _new_rows(turned, len(turned), width, 0, width).transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def _new_rows(image: Array, old: int, new: int, begin: int, end: int, held: int = 0) -> Array:
    """uint8 (H, W, 3), the rows from `held` on of a picture of `old` rows -> uint8 (end - begin, W, 3), the rows from
    `begin` to before `end` of the same with `new` rows: each is a weighted sum of a few old ones."""
    flat = image.reshape(image.shape[0], -1)
    out = np.empty((end - begin, flat.shape[1]), dtype=np.uint8)
    for start in range(begin, end, _ROWS):
        first, weights = _weights(old, new, start, min(start + _ROWS, end))
        first -= held
        made = np.dot(weights, flat[first : first + weights.shape[1]].astype(np.float32))
        made += np.float32(0.5)
        out[start - begin : start - begin + _ROWS] = np.clip(made, 0, 255, out=made)
    return out.reshape((end - begin,) + image.shape[1:])


def _needed(old: int, new: int, start: int, stop: int) -> Tuple[int, int]:
    """The old rows, from the first to before the last, that new rows start to stop need."""
    scale = old / float(new)
    support = max(scale, 1.0)
    first, last = (start + 0.5) * scale - support, (stop - 0.5) * scale + support
    return max(0, int(first)), min(old, int(np.ceil(last)))


def _weights(old: int, new: int, start: int, stop: int) -> Tuple[int, Array]:
    """The first old row that new rows start to stop need, and float32 (stop - start, so many old rows from there): the
    triangle filter of half-width max(scale, 1) around each new pixel's centre, cut at the border."""
    scale = old / float(new)
    support = max(scale, 1.0)
    centre = (np.arange(start, stop) + 0.5) * scale
    first, last = _needed(old, new, start, stop)
    distance = np.abs(np.arange(first, last)[None, :] + 0.5 - centre[:, None])
    weights = np.maximum(0.0, 1.0 - distance / support)
    weights /= weights.sum(axis=1, keepdims=True)
    return first, weights.astype(np.float32)
