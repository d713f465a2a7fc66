"""The trainable convolution with explicit padding, and how it is folded with its batch norm into a frozen one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.autograd.conv import FrozenConv, Pads

Read = Callable[[nn.Module, str], Tensor]
EPS = 1e-5  # of batch norm, where a network states no other
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

    def __init__(self, cin: int, cout: int, kernel: int, *, stride: int, pads: Pads, groups: int = 1):
        super().__init__(cin, cout, kernel, stride, 0, groups=groups, bias=False)
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:  # (B, cin, H, W) -> (B, cout, H/stride, W/stride)
        top, left, bottom, right = self.pads
        stride, groups = self.stride[0], self.groups
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, None, stride, (top, left), groups=groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, None, stride, groups=groups)


def conv_bn(
    cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1, padding: str = "torch", eps: float = EPS
) -> tuple[ExplicitConv2d, nn.BatchNorm2d]:
    """A convolution without bias and its batch norm, as every network here uses them."""
    pads = stride2_pads(kernel, padding) if stride == 2 and kernel > 1 else (kernel // 2,) * 4
    return ExplicitConv2d(cin, cout, kernel, stride=stride, pads=pads, groups=groups), nn.BatchNorm2d(cout, eps)


def fold(conv: nn.Module, bn: nn.Module, activation: str | None, read: Read = getattr) -> FrozenConv:
    """Fold batch norm ``bn`` (eval statistics) into ``conv``: W' = W g / sqrt(v + eps), b' = b - m g / sqrt(v + eps).

    Computed in float64 and rounded once, a few rows of W at a time: a backbone is never in memory twice.
    ``read`` gives a module's tensor by name, which need not be in the module.
    """
    assert isinstance(conv, ExplicitConv2d) and isinstance(bn, nn.BatchNorm2d)
    given = read(conv, "weight").detach()
    weight = torch.empty(given.shape, memory_format=torch.channels_last)
    if given.is_meta:  # there are shapes only; arithmetic on them would import PyTorch's compiler
        bias = torch.empty(len(given))
    else:
        scale = read(bn, "weight").detach().double() / torch.sqrt(read(bn, "running_var").double() + bn.eps)
        bias = read(bn, "bias").detach().double() - read(bn, "running_mean").double() * scale
        at_once = max(1, _FOLD_AT_ONCE // given[0].numel())
        for start in range(0, len(given), at_once):
            rows = slice(start, start + at_once)
            weight[rows] = given[rows].double() * scale[rows].view(-1, 1, 1, 1)
    return FrozenConv(
        weight=weight,
        bias=bias.float(),
        stride=conv.stride[0],
        pads=conv.pads,
        groups=conv.groups,
        activation=activation,
    )
