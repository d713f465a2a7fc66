"""Small folders of labelled photos that something can be learnt from."""

import numpy as np
from PIL import Image


def write_photos(folder, classes=3, train=8, val=4, seed=0):
    """Noisy pictures, a class being a colour and a stripe direction: learnable, and no two alike."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                wave = np.sin(np.arange(48) * (0.3 + 0.5 * label) + rng.uniform(0, 6))
                plane = np.tile(wave, (40, 1)) * 60 + 110
                picture = np.stack([plane, np.roll(plane, label * 5, 1), plane * (0.5 + label / 4)], 2)
                noisy = np.clip(picture + rng.normal(0, 15, picture.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(place / f"{i}.jpg", quality=92)
    return folder
