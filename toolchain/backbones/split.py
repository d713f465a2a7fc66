"""A network cut into frozen stem, blocks and tail: the form that adaptors, gates and export work on."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.autograd.block import Block, BlockFlops
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.autograd.frozen import run_block, run_conv


class Stem(nn.Module):
    """Convolution and optional 3x3 stride-2 max pool. (B, 3, S, S) -> (B, C, S/2 or S/4, same)."""

    def __init__(self, conv: FrozenConv, max_pool: bool):
        super().__init__()
        self.conv, self.max_pool = conv, max_pool

    def forward(self, image: Tensor) -> Tensor:
        x = run_conv(self.conv, image)
        return F.max_pool2d(x, 3, 2, 1) if self.max_pool else x

    def out_height(self, size: int) -> int:
        """Height of the output for an image of size x size."""
        return self.conv.out_height(size) // (2 if self.max_pool else 1)


class Tail(nn.Module):
    """Optional last convolution, then the mean over positions. (B, C, H, W) -> (B, features)."""

    def __init__(self, conv: FrozenConv | None):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = run_conv(self.conv, x)
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


class SplitNetwork(nn.Module):
    """Frozen stem, blocks and tail. Image (B, 3, S, S) -> features (B, feature_size)."""

    stem: Stem
    blocks: MutableSequence[Block]  # an nn.ModuleList
    tail: Tail

    def __init__(self, stem: Stem, blocks: Sequence[Block], tail: Tail):
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.tail = tail
        self.feature_size = blocks[-1].out_channels if tail.conv is None else tail.conv.out_channels

    @property
    def gateable(self) -> tuple[bool, ...]:
        """Which blocks can be skipped: those with a shortcut, but never block 0, since no adaptor precedes it."""
        return tuple(i > 0 and block.has_shortcut for i, block in enumerate(self.blocks))

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen weights and all that is computed with them are."""
        return self.stem.conv.weight.dtype

    def heights(self, size: int) -> list[int]:
        """Input height of each block, then the tail's, for an image of size x size."""
        heights = [self.stem.out_height(size)]
        for block in self.blocks:
            heights.append(block.out_height(heights[-1]))
        return heights

    def block_flops(self, size: int) -> list[BlockFlops]:
        """Per block, for one image of size x size."""
        return [block.flops(height) for block, height in zip(self.blocks, self.heights(size), strict=False)]

    def largest_activation(self, size: int, first: int = 0, end: int | None = None) -> int:
        """Elements of the largest tensor for one image of size x size, in the blocks from ``first`` to before ``end``.

        The stem belongs to block 0.
        """
        found = [self.stem.conv.out_channels * self.stem.conv.out_height(size) ** 2] if first == 0 else []
        for block, height in list(zip(self.blocks, self.heights(size), strict=False))[first:end]:
            found.append(block.largest_activation(height))
        return max(found)

    def forward(self, image: Tensor) -> Tensor:
        """The plain frozen network without its classifier."""
        x: Tensor = self.stem(image.to(self.dtype))
        for block in self.blocks:
            x = run_block(block, x)
        features: Tensor = self.tail(x)
        return features


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """What a backbone is: enough to rebuild it around a state dict, and to recognise it by hash.

    sha256 covers arch, width, padding, input range and every tensor but the classifier.
    """

    arch: str
    width: float
    padding: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int
    sha256: str


class Backbone(SplitNetwork):
    """A split network and the facts about it that a bundle states."""

    def __init__(self, network: SplitNetwork, info: BackboneInfo):
        super().__init__(network.stem, list(network.blocks), network.tail)
        self.info = info
