"""Which domains are served, and pictures to ask them for."""

import io

import numpy as np
from PIL import Image

NAMES = ("flowers", "signs", "letters")


def pictures(count, seed=0, size=(20, 24)):
    """uint8 (H, W, 3) each: noise on a colour of its own, so that they differ when they are small, too."""
    random = np.random.RandomState(seed)
    colours = random.randint(0, 200, (count, 1, 1, 3))
    return list((colours + random.randint(0, 56, (count, *size, 3))).astype(np.uint8))


def encoded(picture):
    """A PNG's bytes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
