"""Which images of a batch go through a frozen block together, where no image meets another."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from da3.toolchain.autograd.block import Block

# Of a part's largest activation. Some of these are alive at a time, whatever the batch is. A MobileNetV2 in bfloat16 is
# 12 % slower in parts of half of that, and hardly faster in larger ones, in tens of MB more.
PART_BYTES = 8 * 2**20


def parts(block: Block, x: Tensor, run: bool) -> list[slice]:
    """Rows of the block's input x (B, C, H, H), in order; ``run`` as in ``run_block``.

    All together on a GPU, which small pieces of work leave idle, and where the branch does not run.
    """
    count = len(x)
    if x.device.type != "cpu" or not run:
        return [slice(0, count)]
    most = max(1, PART_BYTES // (block.largest_activation(x.shape[-1]) * x.element_size()))
    size = _even(count, most)
    return [*slices(count, size)] or [slice(0, 0)]


def slices(count: int, size: int) -> Iterator[slice]:
    """``count`` rows, ``size`` at a time, and the rest."""
    return (slice(start, min(start + size, count)) for start in range(0, count, max(1, size)))


def _even(count: int, most: int) -> int:
    """The size of parts of ``count`` that are equal, where one of at least half of ``most`` does it, or ``most``.

    A library keeps what it made for each size, and memory freed by one part is of use to another of its size.
    """
    return next((size for size in range(min(most, max(count, 1)), most // 2, -1) if count % size == 0), most)
