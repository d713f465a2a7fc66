"""What `Runtime.run` takes: paths or arrays in, preprocessed batches out."""

import os
from typing import Iterator, List, Sequence, Union

import numpy as np

from ..errors import ImageError
from ..records import Array, Path
from .paths import expand
from .preprocess import Preprocessing

Images = Union[Path, Array, Sequence[Path], Sequence[Array]]


def batches(images: Images, prep: Preprocessing, batch_size: int) -> Iterator[Array]:
    """Paths, uint8 pictures or preprocessed float32 -> float32 (at most batch_size, 3, size, size), in
    order."""
    if batch_size < 1:
        raise ImageError("batch_size must be at least 1, not %d" % batch_size)
    items = _listed(images)
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        if isinstance(part, np.ndarray) and part.dtype != np.uint8:  # already preprocessed
            yield as_batch(part, prep.size)
        else:
            pictures = [prep.resize_and_crop(p) if isinstance(p, np.ndarray) else prep.load(p) for p in part]
            yield prep.normalise(np.stack(pictures))


def as_batch(images: Array, size: int) -> Array:
    """float32 or float64 (B, 3, size, size) or (3, size, size) -> float32 (B, 3, size, size),
    C-contiguous."""
    if not isinstance(images, np.ndarray) or images.dtype not in (np.float32, np.float64):
        raise ImageError("expected float32 images of shape (B, 3, %d, %d)" % (size, size))
    if images.ndim == 3:
        images = images[None]
    if images.shape[1:] != (3, size, size) or images.shape[0] == 0:
        raise ImageError("expected float32 images of shape (B, 3, %d, %d), not %s" % (size, size, images.shape))
    return np.ascontiguousarray(images, dtype=np.float32)


def _listed(images: Images) -> Union[Array, List[Union[str, Array]]]:
    """A (B, ...) array, or a list of paths and uint8 pictures."""
    if isinstance(images, np.ndarray):
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or images.shape[0] == 0:
            raise ImageError("expected images of shape (B, H, W, 3) or (B, 3, size, size), not %s" % (images.shape,))
        return images
    if isinstance(images, (str, os.PathLike)):
        return list(expand([images]))
    items: List[Union[str, Array]] = []
    for item in images:
        if isinstance(item, np.ndarray):
            items.append(item)
        else:
            items.extend(expand([item]))
    if not items:
        raise ImageError("no images: the list is empty")
    return items
