"""Methods whose result is an ordinary network: a frozen backbone with a linear head, and nothing else to run."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from da3.toolchain.backbones.layers import ExplicitConv2d
from da3.toolchain.backbones.registry import Network, build_network, freeze
from da3.toolchain.backbones.split import Backbone
from da3.toolchain.backbones.weights import WeightsFile, load_into
from da3.toolchain.methods.base import Learner, Task
from da3.toolchain.network.head import Head
from da3.toolchain.network.model import Output


class Ordinary(Learner):
    """A method whose trained network can be written as convolutions, shortcuts and a linear head."""

    @abstractmethod
    def frozen(self) -> tuple[Backbone, Head]:
        """The trained network, as deployed, with everything that was added folded in. The learner stays as it is."""


class WholeNetwork(Ordinary):
    """A method that trains (parts of) the whole network, batch norms unfolded, with the network's own classifier."""

    model: Network

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        self.model = build_network(task.arch, weights.width, weights.padding, task.classes)
        load_into(self.model, weights)
        self._facts = replace(weights, state={}, source="training")  # the tensors are in the model: no second copy

    def forward(self, images: Tensor) -> Output:
        # PyTorch's default layout, which people train with. Channels-last is a sixth faster on a CPU, but the weight
        # gradient of a strided 1x1 convolution may then write past its end (PyTorch 2.13, oneDNN).
        images, dtype = images.contiguous(), torch.bfloat16
        # Weights stay float32; the answers that a run reports are those of the network as it is exported.
        shorter = self.model.training and self.task.memory.backbone_precision == "bf16"
        with torch.autocast(images.device.type, dtype, enabled=shorter):
            return Output(self.model(images).float())

    def plain(self) -> Network:
        """A copy of the trained network in which everything that the method added is folded into the convolutions."""
        return copy.deepcopy(self.model)

    def frozen(self) -> tuple[Backbone, Head]:
        network = self.plain()
        head = Head(network.feature_size, self.task.classes)
        head.load_domain_tensors({"mean": head.mean, "weight": network.head.weight, "bias": network.head.bias})
        trained = replace(self._facts, state={k: v.cpu() for k, v in network.state_dict().items()})
        return freeze(network, self.task.arch, trained), head


def with_weight(conv: ExplicitConv2d, weight: Tensor) -> ExplicitConv2d:
    """A frozen convolution like ``conv`` with another weight."""
    found = ExplicitConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size[0],
        stride=conv.stride[0],
        pads=conv.pads,
        groups=conv.groups,
    )
    found.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    return found
