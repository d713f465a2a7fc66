"""How many images of a batch are run at once, by the size of its largest activation, and in how many parts."""

from __future__ import annotations

import math

# Of the largest activation of a slice, by device, for a network that computes a lot for each image. Larger slices are
# faster in more memory (docs/method.md has figures).
SLICE_BYTES = {"cpu": 9 * 2**20, "cuda": 256 * 2**20}
SLICE_FLOPS = 1e10  # of a slice's forward pass: with fewer, much of the time of a small network is spent in Python
SMALL_NETWORKS = 4.5  # times SLICE_BYTES is what a small network may use to reach SLICE_FLOPS
PART_FLOPS = 2e9  # of what a thread computes by itself: with fewer, threads mostly wait for each other's Python


def images_a_slice(image_bytes: int, image_flops: int, device: str) -> int:
    """How many images to run at once on ``device``, each ``image_bytes`` at its largest: at least one."""
    room = SLICE_BYTES.get(device, SLICE_BYTES["cpu"])
    enough = min(math.ceil(SLICE_FLOPS / image_flops), int(SMALL_NETWORKS * room / image_bytes))
    found = max(1, room // image_bytes, enough)
    return found - found % 4 if found > 4 else found  # in halves and quarters, which parts are


def parts_at_once(images: int, image_flops: int, cores: int) -> int:
    """How many parts of a slice of so many images to compute side by side: at least one, and one a core at most."""
    return max(1, min(cores, images, int(images * image_flops / PART_FLOPS)))
