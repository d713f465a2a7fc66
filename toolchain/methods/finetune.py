"""Full fine-tuning: every weight and batch-norm statistic of the network is trained. The baseline of the paper."""

from __future__ import annotations

from torch import Tensor

from da3.toolchain.backbones import Network, WeightsFile, build_network
from da3.toolchain.backbones.weights import load_into
from da3.toolchain.methods.base import Learner, Task
from da3.toolchain.model import Output


class Finetune(Learner):
    """Trains the whole network and stores all of it."""

    name = "finetune"
    default_lr = 3e-4
    model: Network

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        self.model = build_network(task.arch, weights.width, weights.padding, task.classes)
        load_into(self.model, weights)

    def forward(self, images: Tensor) -> Output:
        return Output.ungated(self.model(images), 1)

    def domain_state(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())
