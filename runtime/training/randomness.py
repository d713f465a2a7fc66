"""Where training's random numbers come from: the same on every engine that learns, every Python and every machine.

Each purpose has streams of its own, which are functions of the run's seed and of what is drawn for (an epoch, a photo,
a step). So any step of a run can be made again without those before it.

A stream is a Mersenne Twister seeded by an array of 32-bit words (Matsumoto and Nishimura's init_by_array), as numpy's
`RandomState` has it. numpy 1.13 has that class, and its policy since then is that the numbers of a seed stay as they
are (NEP 19, https://numpy.org/neps/nep-0019-rng-policy.html: RandomState is frozen). Uniform numbers and permutations
are the same bits everywhere; normal ones come from the C library's logarithm, and could differ in the last bit of a
float64 before they are rounded to float32.
"""

import math

import numpy as np

from ..records import Array

# What streams are for. The numbers that follow the seed and the purpose are in brackets.
SPLIT = 1  # which photos of a folder are held out for validation
ORDER = 2  # of the photos in an epoch [epoch]
AUGMENTATION = 3  # of one photo [epoch, its index]
STATISTICS = 4  # which photos are looked at before the first step
SAMPLES = 5  # which validation photos are kept beside the checkpoint
INITIAL = 7  # what adaptors start from [block]; 6 was the noise of gates
EXITS = 8  # what exits start from [the block before]

Stream = np.random.RandomState


def stream(seed: int, purpose: int, *numbers: int) -> Stream:
    """The stream for a purpose of the run with this seed. Takes whole numbers from 0 on; raises ValueError for others.

    Its key is seed, purpose and numbers, each as 32-bit words with the lowest first: one word below 2**32.
    """
    words = []
    for number in (seed, purpose) + numbers:
        if number < 0:
            raise ValueError("a stream of random numbers is named by numbers from 0 on, not %d" % number)
        words.append(number & 0xFFFFFFFF)
        while number >> 32:
            number >>= 32
            words.append(number & 0xFFFFFFFF)
    return Stream(words)


def initial_down(seed: int, block: int, mid: int, channels: int, purpose: int = INITIAL) -> Array:
    """What W_d of the adaptor of a block (or, for EXITS, of the exit behind it) starts from: float32 (mid, channels),
    normal with variance 2 / channels.

    This keeps the variance through the ReLU that follows (He et al. 2015, arXiv 1502.01852).
    """
    normal = stream(seed, purpose, block).standard_normal((mid, channels))
    down: Array = (math.sqrt(2.0 / channels) * normal).astype(np.float32)
    return down
