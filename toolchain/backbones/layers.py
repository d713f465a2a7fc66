"""The frozen convolution: batch norm folded in, padding explicit, never trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.autograd.frozen import ConvPass
from da3.toolchain.autograd.kernels import convolve

Pads = tuple[int, int, int, int]
Read = Callable[[nn.Module, str], Tensor]
_FOLD_AT_ONCE = 2**18  # weights


def stride2_pads(kernel: int, padding: str) -> Pads:
    """Pads (top, left, bottom, right) of a stride-2 convolution on an even-sized input.

    ``torch``: symmetric ``kernel // 2``. ``tf``: TensorFlow's SAME, whose total is ``kernel - stride`` and whose
    odd pixel goes to the bottom and right.
    """
    if padding == "torch":
        return (kernel // 2,) * 4
    before = (kernel - 2) // 2
    after = kernel - 2 - before
    return (before, before, after, after)


class ExplicitConv2d(nn.Conv2d):
    """``nn.Conv2d`` with its own pads (top, left, bottom, right); same state-dict keys."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, pads: Pads, groups: int = 1):
        super().__init__(cin, cout, kernel, stride, 0, groups=groups, bias=False)
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:  # (B, cin, H, W) -> (B, cout, H/stride, W/stride)
        return _conv(x, self.weight, None, self.stride, self.pads, self.groups)


def conv_bn(
    cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, padding: str = "torch"
) -> tuple[ExplicitConv2d, nn.BatchNorm2d]:
    """A convolution without bias and its batch norm, as every network here uses them."""
    pads = stride2_pads(kernel, padding) if stride == 2 and kernel > 1 else (kernel // 2,) * 4
    return ExplicitConv2d(cin, cout, kernel, stride, pads, groups), nn.BatchNorm2d(cout)


class FrozenConv(nn.Module):
    """Convolution + folded batch norm + activation. Weights are buffers: no optimiser ever sees them.

    weight (cout, cin/groups, k, k) float32, bias (cout,) float32; ``activation`` is None, "relu" or "relu6".
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, pads: Pads, groups: int, activation: str | None):
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.contiguous())
        self.kernel = weight.shape[-1]
        self.stride, self.pads, self.groups, self.activation = stride, pads, groups, activation

    @classmethod
    def fold(cls, conv: ExplicitConv2d, bn: nn.BatchNorm2d, activation: str | None, read: Read = getattr) -> FrozenConv:
        """Fold ``bn`` (eval statistics) into ``conv``: W' = W g / sqrt(v + eps), b' = b - m g / sqrt(v + eps).

        Computed in float64 and rounded once, a few rows of W at a time: a backbone is never in memory twice.
        ``read`` gives a module's tensor by name, which need not be in the module.
        """
        scale = read(bn, "weight").detach().double() / torch.sqrt(read(bn, "running_var").double() + bn.eps)
        bias = read(bn, "bias").detach().double() - read(bn, "running_mean").double() * scale
        given = read(conv, "weight").detach()
        weight = torch.empty(given.shape, memory_format=torch.channels_last)
        rows = max(1, _FOLD_AT_ONCE // given[0].numel())
        for start in range(0, len(given), rows):
            part = slice(start, start + rows)
            weight[part] = given[part].double() * scale[part].view(-1, 1, 1, 1)
        return cls(weight, bias.float(), conv.stride[0], conv.pads, conv.groups, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, H) -> (B, cout, H', H'). Blocks do not call this: theirs is ``frozen.run_block``."""
        if torch.is_grad_enabled() and (x.requires_grad or self.bias.requires_grad):
            return ConvPass.apply(x, self.bias, self)
        return convolve(self, x.contiguous(memory_format=torch.channels_last), activation=self.activation)

    def flops(self, height: int) -> tuple[int, int]:
        """(floating-point operations for one image whose input is height x height, output height)."""
        top, _, bottom, _ = self.pads
        cout, cin, k, _ = self.weight.shape
        out = (height + top + bottom - k) // self.stride + 1
        return 2 * cout * cin * k * k * out * out, out


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: object, pads: Pads, groups: int) -> Tensor:
    top, left, bottom, right = pads
    if top == bottom and left == right:
        return F.conv2d(x, weight, bias, stride, (top, left), groups=groups)  # type: ignore[arg-type]
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, groups=groups)  # type: ignore[arg-type]
