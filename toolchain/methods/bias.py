"""Bias-only tuning: TinyTL-B (Cai, Gan, Zhu, Han 2020, "TinyTL", arXiv 2007.11622).

For ``y = W x + b`` the gradient of b needs no x, so nothing but the activations' masks has to be saved. Weights are
frozen; every bias of the network and the classifier are trained, which is what ``enable_bias_update`` of the
authors' code (mit-han-lab/tinyml) does. Where we differ: the authors replace batch norm by group norm and pretrain
again; here batch norm keeps its ImageNet statistics and is folded into the convolutions, so its shift is the bias
and samples stay independent of their batch. Their learning rate (Adam, 2e-4 to 6e-4, 50 epochs) is tuned by data
set; ours is for AdamW and the few epochs of this project, chosen on flowers and characters.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.backbones.split import Backbone
from da3.toolchain.methods.linear import Linear, LinearModel
from da3.toolchain.network.head import Head


class BiasModel(LinearModel):
    """Image (B, 3, S, S) -> logits (B, classes). The backbone's biases are parameters, its weights still buffers."""

    def __init__(self, backbone: Backbone, classes: int):
        super().__init__(backbone, classes)
        for conv in frozen_convs(backbone):
            bias = conv.bias
            del conv.bias
            conv.bias = nn.Parameter(bias.clone())

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(image))
        return logits


class Bias(Linear):
    """Trains every bias of the frozen network, and the head."""

    name = "bias"
    default_lr = 4e-3
    model: BiasModel
    model_type = BiasModel

    def domain_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if k.startswith("head.") or k.endswith(".bias")}

    def frozen(self) -> tuple[Backbone, Head]:
        backbone = copy.deepcopy(self.model.backbone)
        for conv in frozen_convs(backbone):
            bias = conv.bias.detach()
            del conv.bias
            conv.register_buffer("bias", bias)
        return backbone, self.model.head


def frozen_convs(backbone: Backbone) -> Iterator[FrozenConv]:
    """Every convolution: the stem's, the blocks' and their projections', the tail's."""
    return (module for module in backbone.modules() if isinstance(module, FrozenConv))
