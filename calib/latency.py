"""How long a picture takes to each exit, and to the end, on this device."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from da3.runtime import Runtime

MOST_PICTURES = 32
UNTIMED = 2  # pictures that go first: buffers are made, clocks rise


def time_to_exits(
    runtime: Runtime, pixels: NDArray[np.uint8], exits: int, on_step: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """Median milliseconds (exits + 1,), ascending, in which the current domain's network answers one picture that
    leaves at each exit, and at the end. Decoding is not in it.

    The current domain has exits at which nobody leaves of their own. pixels: (N, S, S, 3), of which at most
    MOST_PICTURES are timed. Each goes to every exit before the next one does, in an order that turns, so that a device
    that grows warm slows all of them alike.
    """
    timed = pixels[:MOST_PICTURES]
    seconds = np.empty((len(timed), exits + 1))
    for picture in range(-UNTIMED, len(timed)):
        image = runtime.preprocessing.normalise(timed[picture % len(timed)][None])
        for turn in range(exits + 1):
            number = (picture + turn) % (exits + 1)
            start = time.perf_counter()
            runtime.run_batch(image, leave_at=number if number < exits else None)
            if picture >= 0:
                seconds[picture, number] = time.perf_counter() - start
        on_step(max(0, picture + 1), len(timed))
    # Two exits close to one another may change places by noise; what runs more takes no less.
    medians: NDArray[np.float64] = np.maximum.accumulate(np.median(seconds, axis=0) * 1e3)
    return medians
