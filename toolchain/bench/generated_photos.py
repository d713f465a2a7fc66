"""Photos for a benchmark of training that needs no user's: JPEG files of many sizes, as cameras give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from da3.toolchain.training.step_worker import CLASSES

SIDES = (240, 900)  # of the stored pictures, in pixels


def write_photos(folder: Path, train: int, val: int, seed: int) -> None:
    """``train`` and ``val`` pictures in ``folder``, dealt to ``CLASSES`` classes, one of each class at least."""
    draws = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for number in range(max(count, CLASSES)):
            label = number % CLASSES
            place = folder / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            width, height = (int(side) for side in draws.integers(*SIDES, 2))
            coarse = draws.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            coarse[:, :, label % 3] //= 1 + label // 3
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            picture.save(place / f"{number}.jpg", quality=90)
