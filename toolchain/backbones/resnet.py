"""ResNet-18/34/50 (He et al. 2016, arXiv 1512.03385), with torchvision's state-dict keys.

The 50 is torchvision's "v1.5": the stride sits in the bottleneck's 3x3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.backbones.layers import Read, conv_bn, fold
from da3.toolchain.backbones.split import SplitNetwork, Stem, Tail


class ResNetPlan(NamedTuple):
    """A network's shape: residual blocks of each stage; ``expansion`` 1: basic blocks, 4: bottlenecks."""

    depths: tuple[int, int, int, int]
    expansion: int


class _Layer(NamedTuple):
    conv: nn.Module
    bn: nn.Module
    activation: str | None


class Residual(nn.Module):
    """A basic block (two 3x3) or a bottleneck (1x1, 3x3, 1x1), told apart by ``expansion`` (1 or 4)."""

    def __init__(self, cin: int, mid: int, *, stride: int, expansion: int):
        super().__init__()
        cout = mid * expansion
        if expansion == 1:
            convs = [conv_bn(cin, mid, 3, stride=stride), conv_bn(mid, cout, 3)]
        else:
            convs = [conv_bn(cin, mid, 1), conv_bn(mid, mid, 3, stride=stride), conv_bn(mid, cout, 1)]
        self.depth = len(convs)
        for i, (conv, bn) in enumerate(convs, 1):
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", bn)
        self.downsample = nn.Sequential(*conv_bn(cin, cout, 1, stride=stride)) if stride != 1 or cin != cout else None

    def _layers(self) -> list[_Layer]:
        last = self.depth
        return [
            _Layer(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), None if i == last else "relu")
            for i in range(1, last + 1)
        ]

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv, bn, activation in self._layers():
            y = bn(conv(y))
            if activation:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    def split(self, name: str, read: Read) -> Block:
        branch = [fold(*layer, read) for layer in self._layers()]
        shortcut: FrozenConv | str = "identity"
        if self.downsample is not None:
            conv, bn = self.downsample
            shortcut = fold(conv, bn, None, read)
        return Block(name, branch=branch, shortcut=shortcut, activation="relu")


class ResNet(nn.Module):
    """The whole trainable network. (B, 3, S, S) -> (B, classes)."""

    def __init__(self, plan: ResNetPlan, classes: int = 1000):
        super().__init__()
        expansion = plan.expansion
        self.conv1, self.bn1 = conv_bn(3, 64, 7, stride=2)
        cin = 64
        for stage, depth in enumerate(plan.depths, 1):
            mid = 64 * 2 ** (stage - 1)
            layers = []
            for i in range(depth):
                layers.append(Residual(cin, mid, stride=2 if i == 0 and stage > 1 else 1, expansion=expansion))
                cin = mid * expansion
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.feature_size = cin
        self.fc = nn.Linear(cin, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def split(self, read: Read = getattr) -> SplitNetwork:
        """Stem, blocks and tail with batch norm folded in; ``read`` as in ``layers.fold``."""
        blocks = [
            residual.split(f"layer{stage}.{i}", read)
            for stage in range(1, 5)
            for i, residual in enumerate(getattr(self, f"layer{stage}"))
        ]
        return SplitNetwork(Stem(fold(self.conv1, self.bn1, "relu", read), max_pool=True), blocks, Tail(None))
