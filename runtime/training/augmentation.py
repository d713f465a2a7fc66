"""What a training photo goes through before the network sees it."""

import math
from typing import NamedTuple, Tuple

import numpy as np

from ..errors import ImageError
from ..records import Array
from .randomness import Stream

# Random crops keep at least this share of the area (torchvision's 0.08 is meant for a million photos, not hundreds).
LEAST_AREA = 0.4
JITTER = 0.2  # brightness, contrast and saturation change by this share at most
_BILINEAR = 2  # Pillow's number for it; the name has moved between releases


class Augmentation(NamedTuple):
    """Random resized crop, horizontal flip (unless `flip` is off), brightness, contrast and saturation."""

    flip: bool = True

    def __call__(self, photo: Array, size: int, draws: Stream) -> Array:
        """uint8 (H, W, 3) -> uint8 (size, size, 3). Raises ImageError where Pillow is missing."""
        try:
            from PIL import Image
        except ImportError:
            raise ImageError("photos cannot be cropped at random without Pillow: pip install 'pillow>=6'")
        height, width = photo.shape[:2]
        box = _random_box(width, height, draws)
        image = Image.fromarray(photo).resize((size, size), _BILINEAR, box=box)
        pixels = np.asarray(image, dtype=np.float32)
        if self.flip and draws.uniform() < 0.5:
            pixels = pixels[:, ::-1]
        brightness, contrast, saturation = draws.uniform(1 - JITTER, 1 + JITTER, 3).astype(np.float32)
        pixels = pixels * brightness
        mean = pixels.mean()
        pixels = (pixels - mean) * contrast + mean
        grey = pixels.mean(2, keepdims=True)
        pixels = (pixels - grey) * saturation + grey
        augmented: Array = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
        return augmented


def least_side(size: int) -> int:
    """The shorter side in pixels that a photo needs, so that no crop of it is enlarged to `size` more than it was."""
    return round(size / math.sqrt(LEAST_AREA))


def _random_box(width: int, height: int, draws: Stream) -> Tuple[float, float, float, float]:
    """(left, top, right, bottom) of a crop: LEAST_AREA to all of the area, sides 3:4 to 4:3.

    Area and logarithm of the ratio are uniform (Szegedy et al. 2015, arXiv 1409.4842). A crop that does not fit is
    drawn again; after ten the largest square in the middle is taken.
    """
    for _ in range(10):
        area = width * height * draws.uniform(LEAST_AREA, 1.0)
        ratio = np.exp(draws.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = float(np.sqrt(area * ratio)), float(np.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = draws.uniform(0, width - w), draws.uniform(0, height - h)
            return (left, top, left + w, top + h)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)
