"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), with torchvision's state-dict keys and width multiplier."""

from __future__ import annotations

from torch import Tensor, nn

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.backbones.layers import Read, conv_bn, fold
from da3.toolchain.backbones.split import SplitNetwork, Stem, Tail

# t (expansion), c (channels), n (repeats), s (stride of the first): table 2 of the paper.
SETTINGS = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
BLOCK_NAMES = [f"features.{i}" for i in range(1, 18)]


def _round8(value: float) -> int:
    """The nearest multiple of 8, at least 8 and never more than 10 % below ``value``."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * value else rounded + 8


class ConvBnRelu6(nn.Sequential):
    """Convolution, batch norm and ReLU6. (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(self, cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1, padding: str = "torch"):
        super().__init__(*conv_bn(cin, cout, kernel, stride=stride, groups=groups, padding=padding), nn.ReLU6())

    def fold(self, read: Read) -> FrozenConv:
        return fold(self[0], self[1], "relu6", read)


class InvertedResidual(nn.Module):
    """Expansion, depth-wise 3x3 and linear projection. (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    conv: nn.Module  # an nn.Sequential, in whose place a method may put a branch of its own

    def __init__(self, cin: int, cout: int, *, stride: int, expand: int, padding: str):
        super().__init__()
        hidden = cin * expand
        self.residual = stride == 1 and cin == cout
        layers: list[nn.Module] = [] if expand == 1 else [ConvBnRelu6(cin, hidden, 1)]
        layers.append(ConvBnRelu6(hidden, hidden, 3, stride=stride, groups=hidden, padding=padding))
        layers.extend(conv_bn(hidden, cout, 1))
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


class MobileNetV2(nn.Module):
    """The whole trainable network. (B, 3, S, S) -> (B, classes)."""

    def __init__(self, classes: int = 1000, width: float = 1.0, padding: str = "torch"):
        super().__init__()
        cin = _round8(32 * width)
        self.feature_size = _round8(1280 * max(1.0, width))
        layers: list[nn.Module] = [ConvBnRelu6(3, cin, 3, stride=2, padding=padding)]
        for t, c, n, s in SETTINGS:
            cout = _round8(c * width)
            for i in range(n):
                layers.append(InvertedResidual(cin, cout, stride=s if i == 0 else 1, expand=t, padding=padding))
                cin = cout
        layers.append(ConvBnRelu6(cin, self.feature_size, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.feature_size, classes))

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
            [block.split(name, read) for block, name in zip(residuals, BLOCK_NAMES, strict=True)],
            Tail(last.fold(read)),
        )
