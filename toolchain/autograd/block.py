"""One residual block of frozen convolutions, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from da3.toolchain.autograd.conv import FrozenConv


@dataclass(frozen=True)
class BlockFlops:
    """Floating-point operations (2 per multiply-add) of a block's branch and of its shortcut, for one image."""

    branch: int
    shortcut: int

    @property
    def total(self) -> int:
        return self.branch + self.shortcut


class Block(nn.Module):
    """One residual block: branch F, shortcut S, activation phi of ``y = phi(S(x) + F(x) + upsample(a))``.

    ``shortcut`` is None (there is none), "identity" or a FrozenConv. ``activation`` is None or "relu".
    """

    branch: Sequence[FrozenConv]  # an nn.ModuleList
    projection: FrozenConv | None

    def __init__(
        self,
        name: str,
        *,
        branch: Sequence[FrozenConv],
        shortcut: FrozenConv | str | None,
        activation: str | None,
    ):
        super().__init__()
        self.name = name
        self.branch = nn.ModuleList(branch)  # type: ignore[assignment]
        self.projection = shortcut if isinstance(shortcut, FrozenConv) else None
        self.has_shortcut = shortcut is not None
        self.activation = activation
        self.in_channels = branch[0].in_channels
        self.out_channels = branch[-1].out_channels

    @property
    def convs(self) -> list[FrozenConv]:
        """The branch's convolutions, in order."""
        return list(self.branch)

    @property
    def every_conv(self) -> list[FrozenConv]:
        """The branch's convolutions, then the projection if there is one."""
        return self.convs if self.projection is None else [*self.convs, self.projection]

    def heights(self, height: int) -> list[int]:
        """Input height of each of the branch's convolutions, then the block's output height."""
        heights = [height]
        for conv in self.convs:
            heights.append(conv.out_height(heights[-1]))
        return heights

    def out_height(self, height: int) -> int:
        """Height of the output for an input of height x height."""
        return self.heights(height)[-1]

    def largest_activation(self, height: int) -> int:
        """Elements of the largest of the branch's tensors, its input's too, for an image (C, height, height)."""
        channels = [self.in_channels, *(conv.out_channels for conv in self.convs)]
        return max(c * h**2 for c, h in zip(channels, self.heights(height), strict=True))

    def flops(self, height: int) -> BlockFlops:
        """Operations for one image whose input is (C, height, height)."""
        branch = sum(conv.flops(h) for conv, h in zip(self.convs, self.heights(height)[:-1], strict=True))
        return BlockFlops(branch, 0 if self.projection is None else self.projection.flops(height))
