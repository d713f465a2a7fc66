"""The frozen convolution: its weights, its geometry and its cost. ``kernels`` computes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Pads = tuple[int, int, int, int]  # top, left, bottom, right


class FrozenConv(nn.Module):
    """Convolution + folded batch norm + activation. Weights are buffers: no optimiser ever sees them.

    weight (cout, cin/groups, k, k) float32, bias (cout,) float32; ``activation`` is None, "relu" or "relu6".
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, *, weight: Tensor, bias: Tensor, stride: int, pads: Pads, groups: int = 1, activation: str | None = None
    ):
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.contiguous())
        self.kernel = weight.shape[-1]
        self.stride, self.pads, self.groups, self.activation = stride, pads, groups, activation

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    def out_height(self, height: int) -> int:
        """Height of the output for an input of height x height."""
        top, _, bottom, _ = self.pads
        return (height + top + bottom - self.kernel) // self.stride + 1

    def flops(self, height: int) -> int:
        """Floating-point operations for one image whose input is height x height, 2 a multiply-add."""
        return 2 * self.weight.numel() * self.out_height(height) ** 2
