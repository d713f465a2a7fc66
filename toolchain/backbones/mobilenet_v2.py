"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), with torchvision's state-dict keys and width multiplier."""

from __future__ import annotations

from torch import Tensor, nn

from da3.toolchain.backbones.layers import FrozenConv, Read, conv_bn
from da3.toolchain.backbones.split import Block, Stem, Tail

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
    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, padding: str = "torch"):
        super().__init__(*conv_bn(cin, cout, kernel, stride, groups, padding), nn.ReLU6())

    def fold(self, read: Read) -> FrozenConv:
        return FrozenConv.fold(self[0], self[1], "relu6", read)


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, expand: int, padding: str):
        super().__init__()
        hidden = cin * expand
        self.residual = stride == 1 and cin == cout
        layers: list[nn.Module] = [] if expand == 1 else [ConvBnRelu6(cin, hidden, 1)]
        layers.append(ConvBnRelu6(hidden, hidden, 3, stride, hidden, padding))
        layers.extend(conv_bn(hidden, cout, 1))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)

    def split(self, name: str, read: Read) -> Block:
        *hidden, conv, bn = self.conv
        branch = [layer.fold(read) for layer in hidden] + [FrozenConv.fold(conv, bn, None, read)]
        return Block(name, branch, "identity" if self.residual else None, None)


class MobileNetV2(nn.Module):
    """The whole trainable network. (B, 3, S, S) -> (B, classes)."""

    def __init__(self, classes: int = 1000, width: float = 1.0, padding: str = "torch"):
        super().__init__()
        cin = _round8(32 * width)
        self.feature_size = _round8(1280 * max(1.0, width))
        layers: list[nn.Module] = [ConvBnRelu6(3, cin, 3, 2, padding=padding)]
        for t, c, n, s in SETTINGS:
            cout = _round8(c * width)
            for i in range(n):
                layers.append(InvertedResidual(cin, cout, s if i == 0 else 1, t, padding))
                cin = cout
        layers.append(ConvBnRelu6(cin, self.feature_size, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.feature_size, classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).mean((2, 3)))

    @property
    def head(self) -> nn.Linear:
        return self.classifier[1]

    def split(self, read: Read = getattr) -> tuple[Stem, list[Block], Tail]:
        """Stem, blocks and tail with batch norm folded in; ``read`` as in ``FrozenConv.fold``."""
        stem, *blocks, last = self.features
        return (
            Stem(stem.fold(read), max_pool=False),
            [b.split(name, read) for b, name in zip(blocks, BLOCK_NAMES, strict=True)],
            Tail(last.fold(read)),
        )
