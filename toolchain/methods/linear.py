"""Linear probe: only a classifier on the frozen backbone's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from da3.toolchain.backbones.registry import load_backbone
from da3.toolchain.backbones.split import Backbone
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.methods.base import Images, Task
from da3.toolchain.methods.ordinary import Ordinary
from da3.toolchain.network.head import Head
from da3.toolchain.network.model import Output
from da3.toolchain.network.statistics import fixed_statistics, sums_of


class LinearModel(nn.Module):
    """Image (B, 3, S, S) -> logits (B, classes)."""

    def __init__(self, backbone: Backbone, classes: int):
        super().__init__()
        self.backbone, self.head = backbone, Head(backbone.feature_size, classes)

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(image)
        logits: Tensor = self.head(features)
        return logits


class Linear(Ordinary):
    """Trains the head alone."""

    name = "linear"
    default_lr = 4e-3
    sliceable = True
    model: LinearModel
    model_type: type[LinearModel] = LinearModel

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        self.model = self.model_type(load_backbone(task.arch, weights, task.memory.backbone_precision), task.classes)

    def forward(self, images: Tensor) -> Output:
        return Output(self.model(images))

    def domain_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if k.startswith("head.")}

    def frozen(self) -> tuple[Backbone, Head]:
        return self.model.backbone, self.model.head

    @torch.no_grad()
    def prepare(self, images: Images) -> None:
        found = ({0: sums_of(self.model.backbone(batch))} for batch in images())
        widths = {0: len(self.model.head.mean)}
        self.model.head.set_statistics(*fixed_statistics(widths, found, self.total)[0])
