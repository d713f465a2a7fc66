"""Which images of a batch go through a frozen block together, where no image meets another."""

from __future__ import annotations

from torch import Tensor

from da3.toolchain.autograd.block import Block

# Of a part's largest activation. Some of these are alive at a time, whatever the batch is; below 4 MiB the calls
# themselves begin to count, and above 16 a core's cache is left behind.
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
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]


def _even(count: int, most: int) -> int:
    """The size of parts of ``count`` that are equal, where one of at least half of ``most`` does it, or ``most``.

    A library keeps what it made for each size, and memory freed by one part is of use to another of its size.
    """
    return next((size for size in range(min(most, max(count, 1)), most // 2, -1) if count % size == 0), most)


def room(like: Tensor, channels: int, height: int) -> Tensor:
    """An uninitialised channels-last tensor (B, channels, height, height) with the B, dtype and device of ``like``."""
    batch = like.new_empty(len(like), height, height, channels)
    return batch.permute(0, 3, 1, 2)
