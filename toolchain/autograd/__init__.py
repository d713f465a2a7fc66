"""Frozen convolutions and blocks, run and differentiated with as little memory as their formulas need."""

from da3.toolchain.autograd.block import Block, BlockFlops
from da3.toolchain.autograd.conv import FrozenConv, Pads
from da3.toolchain.autograd.frozen import PooledInput, cell_means, run_block, run_conv
from da3.toolchain.autograd.saved import SavedTensor

__all__ = [
    "Block",
    "BlockFlops",
    "FrozenConv",
    "Pads",
    "PooledInput",
    "SavedTensor",
    "cell_means",
    "run_block",
    "run_conv",
]
