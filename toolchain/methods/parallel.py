"""Parallel residual adapters (Rebuffi, Bilen, Vedaldi 2018, "Efficient parametrization of multi-domain deep neural
networks", arXiv 1803.10082).

Beside each 3x3 convolution, a 1x1 convolution A of the same input, output and stride: ``BN(W x + A x)``, as in the
authors' code (srebuffi/residual_adapters, ``models.py``, and its ResNet-50 script). Convolutions are frozen; all batch
norms are the domain's and trained, with batch statistics. Where there are inverted residuals, A stands beside the
factored convolution that takes the place of a 3x3: from their input to the sum before their last batch norm (see
``residual_adapters.py``).

Learning rate: the authors use SGD at 0.1; ours is for AdamW, chosen on flowers and characters.
"""

from __future__ import annotations

import copy
from math import prod

import torch
from torch import Tensor, nn

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.backbones.inverted_residual import InvertedResidual
from da3.toolchain.backbones.layers import ExplicitConv2d
from da3.toolchain.backbones.registry import Network
from da3.toolchain.backbones.split import Backbone
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.methods.base import Task
from da3.toolchain.methods.ordinary import with_weight
from da3.toolchain.methods.residual_adapters import Adapter, ResidualAdapters, dense_spatial, places, scale_of
from da3.toolchain.network.head import Head


class ParallelConv(nn.Module):
    """A frozen convolution and the adapter beside it. (B, cin, H, W) -> (B, cout, H', W')."""

    def __init__(self, conv: ExplicitConv2d):
        super().__init__()
        self.conv, self.adapter = conv, Adapter(conv.in_channels, conv.out_channels, conv.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) + self.adapter(x)
        return y

    @torch.no_grad()
    def fold(self) -> ExplicitConv2d:
        """One convolution: the adapter reads the pixels that the kernel's tap (top pad, left pad) reads."""
        top, left, _, _ = self.conv.pads
        weight = self.conv.weight.double()
        weight[:, :, top, left] += self.adapter.weight[:, :, 0, 0]
        return with_weight(self.conv, weight)


class ParallelBranch(nn.Module):
    """An inverted residual's branch and the adapter beside it, summed before the last batch norm."""

    def __init__(self, branch: nn.Module):
        """``branch`` is an nn.Sequential that ends in a batch norm."""
        super().__init__()
        assert isinstance(branch, nn.Sequential)
        convs = [module for module in branch.modules() if isinstance(module, ExplicitConv2d)]
        stride = prod(conv.stride[0] for conv in convs)
        self.branch, self.adapter = branch, Adapter(convs[0].in_channels, convs[-1].out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        *layers, bn = self.branch
        y = x
        for layer in layers:
            y = layer(y)
        out: Tensor = bn(y + self.adapter(x))
        return out

    @torch.no_grad()
    def shortcut(self, identity: bool) -> FrozenConv:
        """The adapter as a block's shortcut, scaled by the last batch norm, plus the identity if there is one."""
        bn = self.branch[-1]
        assert isinstance(bn, nn.BatchNorm2d)
        weight = self.adapter.weight.double() * scale_of(bn).view(-1, 1, 1, 1)
        if identity:
            weight[:, :, 0, 0] += torch.eye(len(weight))
        return FrozenConv(
            weight=weight.float(), bias=torch.zeros(len(weight)), stride=self.adapter.stride[0], pads=(0, 0, 0, 0)
        )


class Parallel(ResidualAdapters):
    """Trains adapters in parallel, batch norms and the classifier."""

    name = "parallel"
    default_lr = 3e-3

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        for place in dense_spatial(self.model):
            place.put(ParallelConv(place.conv))
        for block in inverted_residuals(self.model):
            block.conv = ParallelBranch(block.conv)

    def plain(self) -> Network:
        """As the base class says, but for the adapters beside inverted residuals, which ``frozen`` adds."""
        network = copy.deepcopy(self.model)
        for place in places(network, ParallelConv):
            place.put(place.conv.fold())
        for block in inverted_residuals(network):
            block.conv = _parallel(block).branch
        return network

    def frozen(self) -> tuple[Backbone, Head]:
        backbone, head = super().frozen()
        for i, adapted in enumerate(inverted_residuals(self.model)):
            block = backbone.blocks[i]
            shortcut = _parallel(adapted).shortcut(identity=adapted.residual)
            backbone.blocks[i] = Block(block.name, branch=block.convs, shortcut=shortcut, activation=block.activation)
        return backbone, head


def _parallel(block: InvertedResidual) -> ParallelBranch:
    assert isinstance(block.conv, ParallelBranch)
    return block.conv


def inverted_residuals(network: Network) -> list[InvertedResidual]:
    """A network's inverted residuals, in order; none in a ResNet."""
    return [module for module in network.modules() if isinstance(module, InvertedResidual)]
