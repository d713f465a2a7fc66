"""Where training's random numbers come from: one stream for each purpose of a run."""

from typing import Any

import numpy as np

SPLIT, ORDER, AUGMENTATION, STATISTICS, SAMPLES = 1, 2, 3, 4, 4

Stream = Any


def stream(seed: int, purpose: int, *numbers: int) -> Stream:
    """The stream of random numbers for a purpose of the run with this seed; `numbers` say which epoch, photo, ..."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, purpose) + numbers)))
