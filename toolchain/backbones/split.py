"""A frozen backbone cut into stem, blocks and tail: the form that adaptors, gates and export work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.autograd.frozen import run_block
from da3.toolchain.backbones.layers import FrozenConv


class Stem(nn.Module):
    """Convolution and optional 3x3 stride-2 max pool. (B, 3, S, S) -> (B, C, S/2 or S/4, same)."""

    def __init__(self, conv: FrozenConv, max_pool: bool):
        super().__init__()
        self.conv, self.max_pool = conv, max_pool

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        return F.max_pool2d(x, 3, 2, 1) if self.max_pool else x


class Block(nn.Module):
    """One residual block: branch F, shortcut S, activation phi of ``y = phi(S(x) + g F(x) + upsample(a))``.

    ``shortcut`` is None (there is none), "identity" or a FrozenConv. ``activation`` is None or "relu".
    """

    def __init__(
        self,
        name: str,
        branch: list[FrozenConv],
        shortcut: FrozenConv | str | None,
        activation: str | None,
    ):
        super().__init__()
        self.name = name
        self.branch = nn.Sequential(*branch)
        self.projection = shortcut if isinstance(shortcut, FrozenConv) else None
        self.has_shortcut = shortcut is not None
        self.activation = activation
        self.in_channels = branch[0].weight.shape[1] * branch[0].groups
        self.out_channels = branch[-1].weight.shape[0]
        self.stride = 1
        for conv in branch:
            self.stride *= conv.stride

    @property
    def convs(self) -> list[FrozenConv]:
        """The branch's convolutions, in order."""
        return list(self.branch)

    @property
    def every_conv(self) -> list[FrozenConv]:
        """The branch's convolutions, then the projection if there is one."""
        return self.convs if self.projection is None else [*self.convs, self.projection]

    def flops(self, height: int) -> BlockFlops:
        """Operations for one image whose input is (C, height, height)."""
        total, out = 0, height
        for conv in self.convs:
            n, out = conv.flops(out)
            total += n
        kept = self.projection.flops(height)[0] if self.projection is not None else 0
        return BlockFlops(branch=total, shortcut=kept, out_height=out)


@dataclass(frozen=True)
class BlockFlops:
    """Floating-point operations (2 per multiply-add) of a block's branch and shortcut, and its output height."""

    branch: int
    shortcut: int
    out_height: int


class Tail(nn.Module):
    """Optional last convolution, then the mean over positions. (B, C, H, W) -> (B, features)."""

    def __init__(self, conv: FrozenConv | None):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
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


class Backbone(nn.Module):
    """Frozen stem, blocks and tail with their facts. Image (B, 3, S, S) -> features (B, feature_size)."""

    blocks: Sequence[Block]  # an nn.ModuleList

    def __init__(self, stem: Stem, blocks: list[Block], tail: Tail, info: BackboneInfo):
        super().__init__()
        self.stem, self.blocks, self.tail, self.info = stem, nn.ModuleList(blocks), tail, info
        last = blocks[-1].out_channels
        self.feature_size = tail.conv.weight.shape[0] if tail.conv is not None else last

    @property
    def gateable(self) -> tuple[bool, ...]:
        """Which blocks can be skipped: those with a shortcut. Never block 0, whose gate nobody could compute."""
        return tuple(i > 0 and block.has_shortcut for i, block in enumerate(self.blocks))

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen weights and all that is computed with them are."""
        return self.stem.conv.weight.dtype

    def largest_activation(self, size: int, first: int = 0, end: int | None = None) -> int:
        """Elements of the largest tensor for one image of size x size, in the blocks from ``first`` to before ``end``.

        The stem belongs to block 0.
        """
        heights = self.heights(size)
        found = [len(self.stem.conv.weight) * self.stem.conv.flops(size)[1] ** 2] if first == 0 else []
        for block, height in list(zip(self.blocks, heights, strict=False))[first:end]:
            found.append(block.in_channels * height**2)
            for conv in block.convs:
                height = conv.flops(height)[1]
                found.append(len(conv.weight) * height**2)
        return max(found)

    def heights(self, size: int) -> list[int]:
        """Input height of each block, then the tail's, for an image of size x size."""
        height = self.stem.conv.flops(size)[1] // (2 if self.stem.max_pool else 1)
        heights = [height]
        for block in self.blocks:
            heights.append(block.flops(heights[-1]).out_height)
        return heights

    def block_flops(self, size: int) -> list[BlockFlops]:
        """Per block, for one image of size x size."""
        return [b.flops(h) for b, h in zip(self.blocks, self.heights(size), strict=False)]

    def forward(self, image: Tensor) -> Tensor:
        """The plain frozen network without its classifier."""
        x = self.stem(image.to(self.dtype))
        for block in self.blocks:
            x = run_block(block, x)
        return self.tail(x)
