"""How much memory a training step may use, and what it pays for less. Imports nothing heavy."""

from __future__ import annotations

import math

from da3.runtime.training.config import (
    BACKBONE_PRECISIONS,
    CHOICES,
    GRADIENTS,
    KEEP_PRECISIONS,
    MemorySettings,
    slice_size,
)

__all__ = [
    "BACKBONE_PRECISIONS",
    "CHOICES",
    "GRADIENTS",
    "KEEP_PRECISIONS",
    "MemorySettings",
    "images_a_slice",
    "slice_size",
]

# Of the largest activation of a slice, by device. Larger slices of a batch are a little faster and take more memory.
SLICE_BYTES = {"cpu": 7 * 2**20, "cuda": 256 * 2**20}
SLICE_FLOPS = 2.5e9  # of its forward pass: with fewer, a slice of a small network is mostly Python
SMALL_NETWORKS = 4  # times as many bytes may be used to get there


def images_a_slice(image_bytes: int, image_flops: int, device: str) -> int:
    """How many images to run at once on ``device``, each ``image_bytes`` at its largest: at least one."""
    room = SLICE_BYTES.get(device, SLICE_BYTES["cpu"])
    enough = min(math.ceil(SLICE_FLOPS / image_flops), SMALL_NETWORKS * room // image_bytes)
    return max(1, room // image_bytes, enough)
