"""The pictures that golden values belong to: small, generated, nobody's photos, and enlarged to a network's size."""

import numpy as np

from ..images.preprocess import Preprocessing
from ..records import Array
from .noise import noise

COUNT, SIDE = 3, 32
_SPOTS = 4  # a side of what is coarse in a picture
_CONTRAST = (0.9, 0.6, 0.3)


def golden_pictures() -> Array:
    """uint8 (COUNT, SIDE, SIDE, 3): patches of colour under grain, each with less contrast than the one before."""
    pictures = np.zeros((COUNT, SIDE, SIDE, 3), np.uint8)
    for number, contrast in enumerate(_CONTRAST):
        coarse = enlarged(noise((1, _SPOTS, _SPOTS, 3), "patches %d" % number), SIDE)[0]
        grain = noise((SIDE, SIDE, 3), "grain %d" % number)
        light = 0.5 + contrast * (0.7 * coarse + 0.3 * grain - 0.5)
        pictures[number] = (light * 255).astype(np.uint8)
    return pictures


def enlarged(pictures: Array, size: int) -> Array:
    """(N, s, s, C) -> (N, size, size, C), each pixel as a square, which no resampling can make otherwise."""
    at = np.arange(size) * pictures.shape[1] // size
    found: Array = pictures[:, at][:, :, at]
    return found


def network_images(pictures: Array, preprocessing: Preprocessing) -> Array:
    """uint8 (N, s, s, 3) -> float32 (N, 3, S, S), what the network is given."""
    return preprocessing.normalise(enlarged(pictures, preprocessing.size))
