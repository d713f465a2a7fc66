"""What series and parallel residual adapters share: frozen convolutions, a domain's own batch norms, 1x1 adapters.

The papers (arXiv 1705.08045 and 1803.10082) adapt networks of dense 3x3 convolutions, the stem's included, and their
1x1 adapters cost a ninth of those. Every dense convolution with a kernel above 1x1 is adapted likewise here (the 7x7
stem of a ResNet too); 1x1 convolutions of bottlenecks and shortcuts are not, as in the authors' ResNet-50 script.

Inverted residuals have depth-wise spatial convolutions, a case the papers do not have. One scalar a channel would be
the same formula, but in series batch norm absorbs it; a dense hidden x hidden matrix would make the adapters twice the
backbone. We take what stands in a dense 3x3's place: the factored convolution of which the depth-wise one is a part,
with its 1x1. ``series.py`` and ``parallel.py`` say where that puts the adapter. The cost is again about a tenth of
the backbone: 0.23 and 0.16 of MobileNetV2's 2.2 million weights.

Adapters start at zero, where the network is the pretrained one in evaluation (the first paper's argument for the
residual form); the authors' code draws them at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.backbones.layers import ExplicitConv2d
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.methods.base import Task
from da3.toolchain.methods.ordinary import WholeNetwork

Conv = TypeVar("Conv", bound=nn.Module)


@dataclass(frozen=True)
class Place(Generic[Conv]):
    """Where a convolution and its batch norm stand in a network: both are children of ``holder``."""

    holder: nn.Module
    name: str
    conv: Conv
    bn: nn.BatchNorm2d

    def put(self, conv: nn.Module) -> None:
        """Let ``conv`` take the convolution's place."""
        setattr(self.holder, self.name, conv)


class ResidualAdapters(WholeNetwork):
    """Trains adapters, every batch norm (its statistics too) and the classifier; the convolutions are frozen."""

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        for module in self.model.modules():
            if isinstance(module, ExplicitConv2d):
                module.weight.requires_grad_(False)

    def domain_state(self) -> dict[str, Tensor]:
        shared = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {k: v for k, v in self.model.state_dict().items() if k not in shared}


class Adapter(nn.Conv2d):
    """A 1x1 convolution without bias that starts at zero. (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(self, cin: int, cout: int, stride: int = 1):
        super().__init__(cin, cout, 1, stride, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        # Not conv2d with a stride: oneDNN's weight gradient of that writes past its memory on fewer than 16
        # channels-last channels (oneDNN issue 6035; seen on the stem's 3 with PyTorch 2.13).
        step = self.stride[0]
        return F.conv2d(x[:, :, ::step, ::step], self.weight)


def places(network: nn.Module, kind: type[Conv]) -> list[Place[Conv]]:
    """Where a module of ``kind`` is followed by its batch norm."""
    return [
        Place(holder, name, conv, bn)
        for holder in network.modules()
        for (name, conv), (_, bn) in pairwise(holder.named_children())
        if isinstance(conv, kind) and isinstance(bn, nn.BatchNorm2d)
    ]


def dense_spatial(network: nn.Module) -> list[Place[ExplicitConv2d]]:
    """The places of convolutions larger than 1x1 that mix all channels."""
    found = places(network, ExplicitConv2d)
    return [place for place in found if place.conv.groups == 1 and place.conv.kernel_size[0] > 1]


def scale_of(bn: nn.BatchNorm2d) -> Tensor:
    """What ``bn`` multiplies each channel by in evaluation, float64 (C,)."""
    assert bn.running_var is not None
    return (bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()).detach()
