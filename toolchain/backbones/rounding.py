"""Frozen weights in bfloat16, so rounded that the errors within a filter add up to next to nothing.

Rounded to the nearest, the weights of a filter are off by 0.2 % each. Depthwise filters that take a small difference of
large neighbours are then off by far more, and all in one direction wherever an image is even: the features of a
MobileNetV2 move. Where errors add up to nothing within a filter, what it answers to an even input stays. Biases stay
float32: they are few, and products are summed in it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from da3.toolchain.autograd.conv import FrozenConv

_AT_ONCE = 2**16  # weights, so that what is made of them on the way stays small beside the network


@torch.no_grad()
def to_bfloat16(network: nn.Module) -> None:
    """Round the weights of every frozen convolution of ``network``, one after the other, in place."""
    for module in network.modules():
        if isinstance(module, FrozenConv):
            module.weight = balanced(module.weight).contiguous(memory_format=torch.channels_last)


def balanced(weight: Tensor) -> Tensor:
    """weight (C', ...) float32 -> bfloat16: each number one of its two neighbours, and so that the errors of each
    filter add up to less than half of a step of its smallest numbers, or as near to it as some of the cheapest changes
    lead. A number is changed from its nearest neighbour to the other in the order of what that adds to its error.
    """
    filters = weight.flatten(1)
    rows = max(1, _AT_ONCE // filters.shape[1])
    return torch.cat([_balanced(some) for some in torch.split(filters, rows)]).view(weight.shape)


def _balanced(exact: Tensor) -> Tensor:
    """``balanced`` of some filters (F, K)."""
    nearest = exact.bfloat16()
    error = nearest.float() - exact
    # Of two neighbours the one on the other side: a step away from zero, or towards it.
    bits = nearest.view(torch.int16)
    away = (error > 0) == (nearest < 0)
    other = torch.where(away, bits + 1, bits - 1).view(torch.bfloat16)
    change = torch.where((nearest == 0) | (error == 0), 0.0, other.float() - nearest.float())
    cost = (error + change).abs().sub_(error.abs()).masked_fill_(change == 0, math.inf)
    # Nearest neighbours leave about sqrt(K) / 4 steps, and every second change goes the right way.
    cheapest = cost.topk(min(exact.shape[1], 4 * math.isqrt(exact.shape[1]) + 16), 1, largest=False).indices
    total = error.sum(1)
    changed = torch.zeros_like(exact, dtype=torch.bool)
    for i in cheapest.T:
        step = change.gather(1, i[:, None]).squeeze(1)
        better = (total + step).abs() < total.abs()
        changed.scatter_(1, i[:, None], better[:, None])
        total += torch.where(better, step, 0.0)
    return torch.where(changed, other, nearest)
