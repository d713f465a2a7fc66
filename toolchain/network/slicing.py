"""How many images of a batch are run at once, by the size of its largest activation."""

from __future__ import annotations

import math

# Of the largest activation of a slice, by device. Larger slices are faster in more memory: a MobileNetV2 on two cores
# takes a step of 32 in 1.04 s in slices of two, in 0.78 s in slices of four or five, and in 0.68 s in slices of eight.
SLICE_BYTES = {"cpu": 7 * 2**20, "cuda": 256 * 2**20}
SLICE_FLOPS = 2e9  # of a slice's forward pass: with fewer, most of the time of a small network is spent in Python
SMALL_NETWORKS = 4  # times SLICE_BYTES is what a small network may use to reach SLICE_FLOPS


def images_a_slice(image_bytes: int, image_flops: int, device: str) -> int:
    """How many images to run at once on ``device``, each ``image_bytes`` at its largest: at least one."""
    room = SLICE_BYTES.get(device, SLICE_BYTES["cpu"])
    enough = min(math.ceil(SLICE_FLOPS / image_flops), SMALL_NETWORKS * room // image_bytes)
    return max(1, room // image_bytes, enough)
