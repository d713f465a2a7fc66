"""Backbones by name: the whole trainable network, or the frozen one cut into stem, blocks and tail."""

from __future__ import annotations

import torch

from da3.toolchain.backbones.inverted_residual import InvertedResidualNetwork, InvertedResiduals
from da3.toolchain.backbones.layers import Read
from da3.toolchain.backbones.resnet import ResNet
from da3.toolchain.backbones.rounding import to_bfloat16
from da3.toolchain.backbones.split import Backbone, BackboneInfo
from da3.toolchain.backbones.table import entry
from da3.toolchain.backbones.weights import WeightsFile, check_fit
from da3.toolchain.errors import WeightsError

Network = InvertedResidualNetwork | ResNet


def build_network(arch: str, width: float = 1.0, padding: str | None = None, classes: int = 1000) -> Network:
    """A whole network with fresh random weights; ``padding``: None for what the backbone's published weights expect.

    Raises WeightsError for an unknown name or option.
    """
    known = entry(arch)
    padding = padding or known.padding
    if isinstance(known.plan, InvertedResiduals):
        return InvertedResidualNetwork(known.plan, classes, width, padding)
    if width != 1.0 or padding != "torch":
        raise WeightsError(f"{arch} has no width multiplier and no TensorFlow padding; mobilenet_v2 has both")
    return ResNet(known.plan, classes)


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
    if precision == "bf16":
        to_bfloat16(backbone)
    return backbone


@torch.no_grad()
def random_weights(arch: str, width: float = 1.0, seed: int = 0, padding: str | None = None) -> WeightsFile:
    """Random weights whose batch-norm statistics are those of noise images, so that no activation dies or explodes.

    For benchmarks and tests that need a healthy network but no accuracy. ``padding`` as for ``build_network``.
    """
    known = entry(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(arch, width, padding)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # take the statistics of the one batch below
        network.train()
        network(torch.randn(8, 3, 64, 64))
    return WeightsFile(
        network.state_dict(),
        "random",
        arch=arch,
        width=width,
        padding=padding or known.padding,
        input_range=known.input_range,
        input_size=known.input_size,
    )
