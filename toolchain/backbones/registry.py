"""Backbones by name: the whole trainable network, or the frozen one cut into stem, blocks and tail."""

from __future__ import annotations

import torch

from da3.toolchain.backbones.layers import Read
from da3.toolchain.backbones.mobilenet_v2 import MobileNetV2
from da3.toolchain.backbones.resnet import ResNet
from da3.toolchain.backbones.split import Backbone, BackboneInfo
from da3.toolchain.backbones.weights import WeightsFile, check_fit
from da3.toolchain.errors import WeightsError

NAMES = ("mobilenet_v2", "resnet18", "resnet34", "resnet50")
Network = MobileNetV2 | ResNet


def build_network(arch: str, width: float = 1.0, padding: str = "torch", classes: int = 1000) -> Network:
    """A whole network with fresh random weights. Raises WeightsError for an unknown name or option."""
    if arch not in NAMES:
        raise WeightsError(f"unknown backbone {arch!r}; known are: {', '.join(NAMES)}")
    if arch == "mobilenet_v2":
        return MobileNetV2(classes, width, padding)
    if width != 1.0 or padding != "torch":
        raise WeightsError(f"{arch} has no width multiplier and no TensorFlow padding; mobilenet_v2 has both")
    return ResNet(arch, classes)


def freeze(network: Network, arch: str, weights: WeightsFile, read: Read = getattr) -> Backbone:
    """Cut ``network`` into a frozen Backbone, batch norm folded in; ``read`` as in ``layers.fold``."""
    network.eval()
    info = BackboneInfo(
        arch=arch,
        width=weights.width,
        padding=weights.padding,
        mean=weights.mean,
        std=weights.std,
        input_size=weights.input_size,
        sha256=weights.sha256(arch),
    )
    return Backbone(network.split(read), info).eval()


def load_backbone(arch: str, weights: WeightsFile, precision: str = "fp32") -> Backbone:
    """The frozen backbone ``arch`` with ``weights``, read one by one: in memory there is never a second copy.

    ``precision``: "fp32", or "bf16" for bfloat16 weights and computation.
    """
    with torch.device("meta"):
        network = build_network(arch, weights.width, weights.padding)
    check_fit(network, weights)
    names = {module: name for name, module in network.named_modules()}
    backbone = freeze(network, arch, weights, lambda module, key: weights.state[f"{names[module]}.{key}"])
    return backbone.bfloat16() if precision == "bf16" else backbone


@torch.no_grad()
def random_weights(arch: str, width: float = 1.0, seed: int = 0, padding: str = "torch") -> WeightsFile:
    """Random weights whose batch-norm statistics are those of noise images, so that no activation dies or explodes.

    For benchmarks and tests that need a healthy network but no accuracy.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(arch, width, padding)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # take the statistics of the one batch below
        network.train()
        network(torch.randn(8, 3, 64, 64))
    return WeightsFile(network.state_dict(), "random", arch=arch, width=width, padding=padding)
