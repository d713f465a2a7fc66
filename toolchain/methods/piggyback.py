"""Piggyback (Mallya, Davis, Lazebnik 2018, "Adapting a Single Network to Multiple Tasks by Learning to Mask Weights",
arXiv 1801.06519).

Every convolution weight w is frozen and multiplied by a binary mask, ``w 1[m > 5e-3]``, of a trained real number m
that starts at 1e-2 (so every weight is on) and gets the binary mask's gradient, ``dL/dm = w dL/d(w mask)``. Both
numbers and the rule are the authors' code's (arunmallya/piggyback, ``modnets/layers.py``). Batch norm keeps its
ImageNet parameters and statistics, that code's default (without ``--train_bn``); the classifier is trained.

Where we differ: the network's dropout is off, so that with frozen batch norms samples are independent and a batch
can be cut. The authors train masks by Adam at 1e-4, which moves a mask by about 1e-4 a step, so that 50 steps turn a
weight off. Ours are kept in units of 1/40, which at 4e-3 is the same training (Adam's steps do not depend on the
scale of what they move), while the classifier learns at 4e-3 as in the linear probe: a few hundred steps at 1e-4
leave it behind. Ten times the authors' rate for masks ends at chance (characters, 96 px, 12 epochs).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from da3.toolchain.backbones.layers import ExplicitConv2d
from da3.toolchain.backbones.registry import Network
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.methods.base import Task
from da3.toolchain.methods.ordinary import WholeNetwork, with_weight

UNIT = 1 / 40
START, THRESHOLD = 1e-2 / UNIT, 5e-3 / UNIT


class Binarise(torch.autograd.Function):
    """1 where a real-valued mask is above the threshold, else 0; gradients pass straight through."""

    @staticmethod
    def forward(ctx: Any, real: Tensor) -> Tensor:
        return (real > THRESHOLD).to(real.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Mask(nn.Module):
    """weight (cout, cin/groups, k, k) -> the same, masked. ``real`` has its shape; it is m in UNITs."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.real = nn.Parameter(torch.full_like(weight, START))

    def forward(self, weight: Tensor) -> Tensor:
        mask: Tensor = Binarise.apply(self.real)  # type: ignore[no-untyped-call]
        return weight * mask


class Piggyback(WholeNetwork):
    """Trains a mask of every convolution weight, and the classifier."""

    name = "piggyback"
    default_lr = 4e-3
    sliceable = True

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        self.model.requires_grad_(False)
        self.model.head.requires_grad_(True)
        for module in list(self.model.modules()):
            if isinstance(module, ExplicitConv2d):
                parametrize.register_parametrization(module, "weight", Mask(module.weight))

    def train_mode(self, progress: float) -> None:
        self.model.eval()

    def domain_state(self) -> dict[str, Tensor]:
        """The real-valued masks, which training needs to go on, and the classifier."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def domain_bytes(self) -> int:
        """1 bit for each mask element, 2 bytes for each number of the classifier."""
        masks = sum(tensor.numel() for name, tensor in self.domain_state().items() if name.endswith(".real"))
        return super().domain_bytes() - 2 * masks + -(-masks // 8)

    def plain(self) -> Network:
        network = super().plain()
        for holder in list(network.modules()):
            for name, conv in holder.named_children():
                if isinstance(conv, ExplicitConv2d):
                    setattr(holder, name, with_weight(conv, conv.weight.detach()))
        return network
