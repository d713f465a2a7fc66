"""Series residual adapters (Rebuffi, Bilen, Vedaldi 2017, "Learning multiple visual domains with residual adapters",
arXiv 1705.08045; series form of arXiv 1803.10082).

After each 3x3 convolution, before its batch norm, ``y + A BN'(y)`` with A a 1x1 convolution and BN' a batch norm of
the adapter's own: the order of the authors' code (srebuffi/residual_adapters, ``models.py``). Convolutions are frozen;
all batch norms are the domain's and trained, with batch statistics. Among inverted residuals the place is after the
pair of depth-wise convolution and linear 1x1, the factored form of a dense one (see ``residual_adapters.py``).

Learning rate: the authors use SGD at 0.1; ours is for AdamW, chosen on flowers and characters.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from da3.toolchain.backbones.inverted_residual import InvertedResidual
from da3.toolchain.backbones.layers import ExplicitConv2d
from da3.toolchain.backbones.registry import Network
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.methods.base import Task
from da3.toolchain.methods.ordinary import with_weight
from da3.toolchain.methods.residual_adapters import Adapter, Place, ResidualAdapters, dense_spatial, places, scale_of


class SeriesConv(nn.Module):
    """A frozen convolution W and the adapter behind it: x (B, cin, H, W) -> y + A BN'(y), y = W x."""

    def __init__(self, conv: ExplicitConv2d, following: nn.BatchNorm2d):
        """``following`` is the pretrained batch norm that sees the same y: BN' begins with its statistics."""
        super().__init__()
        channels = conv.out_channels
        self.conv, self.bn, self.adapter = conv, nn.BatchNorm2d(channels), Adapter(channels, channels)
        mean_of(self.bn).copy_(mean_of(following))
        assert self.bn.running_var is not None and following.running_var is not None
        self.bn.running_var.copy_(following.running_var)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        adapted: Tensor = self.adapter(self.bn(y))
        return y + adapted

    @torch.no_grad()
    def fold(self) -> tuple[ExplicitConv2d, Tensor]:
        """(W + A diag(s) W, the constant A (b - s m) that is added to each channel), s and b being BN's."""
        matrix = self.adapter.weight.double()[:, :, 0, 0]
        scale = scale_of(self.bn)
        weight = self.conv.weight.double()
        weight = weight + torch.einsum("oc,cikl->oikl", matrix * scale, weight)
        shift = matrix @ (self.bn.bias - mean_of(self.bn) * scale)
        return with_weight(self.conv, weight), shift


class Series(ResidualAdapters):
    """Trains adapters in series, batch norms and the classifier."""

    name = "series"
    default_lr = 3e-3

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        for place in adapted(self.model):
            place.put(SeriesConv(place.conv, place.bn))

    @torch.no_grad()
    def plain(self) -> Network:
        network = copy.deepcopy(self.model)
        for place in places(network, SeriesConv):
            conv, shift = place.conv.fold()
            place.put(conv)
            mean_of(place.bn).sub_(shift)  # BN(y + shift) is the batch norm of y with a mean less by it
        return network


def mean_of(bn: nn.BatchNorm2d) -> Tensor:
    """The running mean (C,) of a batch norm that keeps one, as all do here."""
    assert bn.running_mean is not None
    return bn.running_mean


def adapted(network: Network) -> list[Place[ExplicitConv2d]]:
    """Where adapters go: dense spatial convolutions, and the 1x1 that completes a depth-wise convolution."""
    pointwise = [
        place
        for module in network.modules()
        if isinstance(module, InvertedResidual)
        for place in places(module.conv, ExplicitConv2d)
        if place.holder is module.conv
    ]
    return dense_spatial(network) + pointwise
