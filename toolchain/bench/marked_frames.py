"""Pictures that say which one they are: their number in binary, in black and white squares in a corner."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from da3.runtime.images import decode
from da3.runtime.records import Array

BITS, SIDE = 10, 8  # squares of 8 pixels are what a JPEG keeps apart
_MARGIN = 1.15  # by so much a photo is larger than the frames that pan over it
_PHOTO_FOR = 15  # frames


def mark(image: Array, number: int) -> None:
    """Write the number, less than 1024, into uint8 (H, W, 3), in place, at its top left."""
    for bit in range(BITS):
        image[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 * (number >> bit & 1)


def number_of(image: Array) -> int:
    """The number in uint8 (H, W, 3), whatever the order of its colours."""
    middle = image[2 : SIDE - 2, : BITS * SIDE].reshape(SIDE - 4, BITS, SIDE, 3)[:, :, 2:-2].mean(axis=(0, 2, 3))
    return sum(int(value > 128) << bit for bit, value in enumerate(middle))


def camera_frames(count: int, width: int, height: int, photos: Sequence[str] = ()) -> Iterator[bytes]:
    """JPEGs as a camera sends them, that pan over the photos or, without any, over made ones."""
    draws = np.random.default_rng(0)
    large = Image.new("RGB", (1, 1))
    for number in range(count):
        if number % _PHOTO_FOR == 0:
            turn = number // _PHOTO_FOR
            if photos:
                picture = Image.fromarray(decode(photos[turn % len(photos)], at_least=height))
            else:
                picture = Image.fromarray(draws.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            scale = _MARGIN * max(width / picture.width, height / picture.height)
            size = (round(picture.width * scale) + 1, round(picture.height * scale) + 1)
            large = picture.resize(size, Image.Resampling.BICUBIC)
        moved = (number % _PHOTO_FOR) / _PHOTO_FOR
        left, top = int(moved * (large.width - width)), int(moved * (large.height - height))
        image = np.array(large.crop((left, top, left + width, top + height)))
        mark(image, number)
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "JPEG", quality=85, subsampling="4:2:0")
        yield packed.getvalue()
