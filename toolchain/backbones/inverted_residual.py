"""Networks of inverted residuals: MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), and the EfficientNet-Lites,
which are EfficientNets (Tan, Le 2019, arXiv 1905.11946) with ReLU6 and without squeeze-and-excitation.

State-dict keys are those of torchvision's MobileNetV2; ``efficientnet_names`` translates the EfficientNets' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from torch import Tensor, nn

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.backbones.layers import EPS, Read, conv_bn, fold
from da3.toolchain.backbones.split import SplitNetwork, Stem, Tail

_STEM, _HEAD = 32, 1280  # channels


class Stage(NamedTuple):
    """``repeats`` blocks of ``channels`` output channels, the first with ``stride``; ``kernel``: of the depth-wise."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int = 3


class BlockShape(NamedTuple):
    """One inverted residual; ``expansion`` 1: it has no convolution that expands."""

    cin: int
    cout: int
    stride: int
    expansion: int
    kernel: int


@dataclass(frozen=True, kw_only=True)
class InvertedResiduals:
    """A network's shape. ``width`` multiplies every stage's channels, the stem's and the head's too where
    ``scaled_ends``; ``depth`` every stage's repeats but those of the first and the last. ``eps``: of batch norm.
    """

    stages: tuple[Stage, ...]
    width: float = 1.0
    depth: float = 1.0
    scaled_ends: bool = False
    eps: float = EPS
    dropout: float = 0.2

    def stem(self, width: float) -> int:
        """Channels of the stem, with a user's ``width`` on top of the network's own."""
        return _round8(_STEM * width * self.width) if self.scaled_ends else _STEM

    def head(self, width: float) -> int:
        """Channels of the last convolution, which are never fewer than at width 1."""
        return _round8(_HEAD * max(1.0, width * self.width)) if self.scaled_ends else _HEAD

    def blocks(self, width: float = 1.0) -> list[BlockShape]:
        """Every block, in order."""
        shapes = []
        cin, last = self.stem(width), len(self.stages) - 1
        for number, stage in enumerate(self.stages):
            cout = _round8(stage.channels * width * self.width)
            for i in range(stage.repeats if number in (0, last) else ceil(stage.repeats * self.depth)):
                stride = stage.stride if i == 0 else 1
                shapes.append(BlockShape(cin, cout, stride, stage.expansion, stage.kernel))
                cin = cout
        return shapes


def _round8(value: float) -> int:
    """The nearest multiple of 8, at least 8 and never more than 10 % below ``value``."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * value else rounded + 8


def efficientnet_names(plan: InvertedResiduals) -> dict[str, str]:
    """By name of a module here: what the EfficientNets' published files call it."""
    blocks = plan.blocks()
    tail = f"features.{len(blocks) + 1}"
    names = {"features.0.0": "_conv_stem", "features.0.1": "_bn0", f"{tail}.0": "_conv_head", f"{tail}.1": "_bn1"}
    names["classifier.1"] = "_fc"
    for i, block in enumerate(blocks):
        ours = ["0.0", "0.1", "1.0", "1.1", "2", "3"] if block.expansion > 1 else ["0.0", "0.1", "1", "2"]
        theirs = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"][-len(ours) :]
        names.update({f"features.{i + 1}.conv.{a}": f"_blocks.{i}.{b}" for a, b in zip(ours, theirs, strict=True)})
    return names


class ConvBnRelu6(nn.Sequential):
    """Convolution, batch norm and ReLU6. (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: str = "torch",
        eps: float = EPS,
    ):
        super().__init__(
            *conv_bn(cin, cout, kernel, stride=stride, groups=groups, padding=padding, eps=eps), nn.ReLU6()
        )

    def fold(self, read: Read) -> FrozenConv:
        return fold(self[0], self[1], "relu6", read)


class InvertedResidual(nn.Module):
    """Expansion, depth-wise convolution and linear projection. (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    conv: nn.Module  # an nn.Sequential, in whose place a method may put a branch of its own

    def __init__(self, shape: BlockShape, *, padding: str, eps: float):
        super().__init__()
        cin, cout, stride, expansion, kernel = shape
        hidden = cin * expansion
        self.residual = stride == 1 and cin == cout
        layers: list[nn.Module] = [] if expansion == 1 else [ConvBnRelu6(cin, hidden, 1, eps=eps)]
        layers.append(ConvBnRelu6(hidden, hidden, kernel, stride=stride, groups=hidden, padding=padding, eps=eps))
        layers.extend(conv_bn(hidden, cout, 1, eps=eps))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y

    def split(self, name: str, read: Read) -> Block:
        *hidden, conv, bn = self.conv.children()
        branch = []
        for layer in hidden:
            assert isinstance(layer, ConvBnRelu6)
            branch.append(layer.fold(read))
        branch.append(fold(conv, bn, None, read))
        return Block(name, branch=branch, shortcut="identity" if self.residual else None, activation=None)


class InvertedResidualNetwork(nn.Module):
    """The whole trainable network. (B, 3, S, S) -> (B, classes). ``padding``: of stride-2 convolutions, as
    ``layers.stride2_pads`` has it."""

    def __init__(self, plan: InvertedResiduals, classes: int = 1000, width: float = 1.0, padding: str = "torch"):
        super().__init__()
        blocks, self.feature_size = plan.blocks(width), plan.head(width)
        layers: list[nn.Module] = [ConvBnRelu6(3, plan.stem(width), 3, stride=2, padding=padding, eps=plan.eps)]
        layers.extend(InvertedResidual(shape, padding=padding, eps=plan.eps) for shape in blocks)
        layers.append(ConvBnRelu6(blocks[-1].cout, self.feature_size, 1, eps=plan.eps))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(plan.dropout), nn.Linear(self.feature_size, classes))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits

    @property
    def head(self) -> nn.Linear:
        head = self.classifier[1]
        assert isinstance(head, nn.Linear)
        return head

    def split(self, read: Read = getattr) -> SplitNetwork:
        """Stem, blocks and tail with batch norm folded in; ``read`` as in ``layers.fold``."""
        stem, *blocks, last = self.features
        assert isinstance(stem, ConvBnRelu6) and isinstance(last, ConvBnRelu6)
        residuals = [block for block in blocks if isinstance(block, InvertedResidual)]
        return SplitNetwork(
            Stem(stem.fold(read), max_pool=False),
            [block.split(f"features.{i}", read) for i, block in enumerate(residuals, 1)],
            Tail(last.fold(read)),
        )
