"""Small folders of labelled photos for the synthetic bundle's domains."""

import numpy as np
from PIL import Image


def write_labelled(folder, classes, each=4, seed=0):
    """A sub-folder per class, with `each` pictures of noise; returns {path as text: label}."""
    rng = np.random.RandomState(seed)
    labels = {}
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            path = folder / name / f"{number}.png"
            shade = rng.randint(0, 255, 3)
            noise = rng.randint(-60, 60, (24, 20, 3))
            Image.fromarray(np.clip(shade + noise, 0, 255).astype(np.uint8)).save(path)
            labels[str(path)] = label
    return labels
