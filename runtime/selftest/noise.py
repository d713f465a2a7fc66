"""Numbers that look random and are the same on every machine, Python and numpy: integer arithmetic alone.

A golden value is worth something only where its input can be made again to the bit.
"""

import zlib
from typing import Sequence

import numpy as np

from ..records import Array

# Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014: SplitMix64, by the number's place.
_STEP, _MIX = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BITS = 24  # what a float32 holds exactly


def noise(shape: Sequence[int], name: str) -> Array:
    """float32 in [0, 1), evenly spread. Another name gives other numbers."""
    scale = np.float32(1.0 / (1 << _BITS))
    numbers: Array = (_hashed(_count(shape), name) >> np.uint64(64 - _BITS)).astype(np.float32) * scale
    return numbers.reshape(tuple(shape))


def signs(count: int, name: str) -> Array:
    """float32 (count,) of 1 and -1."""
    bits = (_hashed(count, name) >> np.uint64(63)).astype(np.float32)
    found: Array = 1 - 2 * bits
    return found


def _count(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= int(side)
    return count


def _hashed(count: int, name: str) -> Array:
    """uint64 (count,)."""
    seed = zlib.crc32(name.encode("utf-8")) & 0xFFFFFFFF
    with np.errstate(over="ignore"):  # they wrap around, which is what they are there for
        z = (np.arange(count, dtype=np.uint64) + np.uint64(seed << 24)) * np.uint64(_STEP)
        for shift, factor in zip((30, 27), _MIX):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        found: Array = z ^ (z >> np.uint64(31))
    return found
