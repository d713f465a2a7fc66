"""DA3: additive adaptors and look-ahead gates on a frozen backbone (Yang, Rakin, Fan; arXiv 2012.01362)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from da3.toolchain.backbones import WeightsFile, load_backbone
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods.base import Learner, Task
from da3.toolchain.model import DomainModel, Output

# The budget is asked for gradually: first learn with every block, then close gates, then settle. The gates' noise
# fades meanwhile, so that the budget is met by the very decisions that will be deployed.
GATES_FROM, BUDGET_FROM = 0.2, 0.6
NOISE, NOISE_UNTIL = 0.5, 0.8
BUDGET_WEIGHT = 10.0
SHARE_RATE = 0.5  # of the newest batch in the running share


class Da3(Learner):
    """Trains adaptors, gates and head; stores nothing of the backbone."""

    name = "da3"
    default_lr = 4e-3
    warm_up = 0.2
    sliceable = True
    model: DomainModel

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        backbone = load_backbone(task.arch, weights, task.lean.backbone_precision)
        self.gated = task.keep < 1.0
        self.keep = self.target = task.keep
        self.model = DomainModel(backbone, task.adaptor, task.size, task.classes, self.gated, task.lean)
        if self.keep < self.model.least_share:
            raise TrainingError(
                f"--keep {task.keep:g}: {task.arch} at {task.size} px cannot go below "
                f"{self.model.least_share:.2f}, the share of the blocks that have no shortcut"
            )

    @property
    def slice_size(self) -> int:  # type: ignore[override]
        return self.model.slice_size

    def forward(self, images: Tensor) -> Output:
        return self.model(images)

    def domain_state(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.state_dict().items() if not k.startswith("backbone.")}

    def domain_bytes(self) -> int:
        """Of a pack's weights, in fp16."""
        return 2 * sum(t.numel() for t in self.model.domain_tensors().values())

    def prepare(self, images: Iterable[Tensor]) -> None:
        self.model.fit_normalisation(images)

    def train_mode(self, progress: float) -> None:
        self.model.train()
        self.model.gating = "sampled" if self.gated and progress >= GATES_FROM else "off"
        self.target = 1.0 - (1.0 - self.keep) * _ramp(progress, GATES_FROM, BUDGET_FROM)
        self.model.noise = NOISE * (1.0 - _ramp(progress, BUDGET_FROM, NOISE_UNTIL))

    def eval_mode(self) -> None:
        self.model.eval()
        self.model.gating = "hard" if self.gated else "off"

    def is_final(self, progress: float) -> bool:
        return not self.gated or progress >= NOISE_UNTIL

    def begin_batch(self, count: int) -> None:
        # Drawn on the CPU for the whole batch: the same on every device and for every slicing.
        self._draws = torch.rand(count, len(self.model.backbone.blocks))

    def forward_part(self, images: Tensor, part: slice) -> Output:
        return self.model(images, draws=self._draws[part].to(images.device))

    def loss(self, output: Output, labels: Tensor, smoothing: float, count: int) -> Tensor:
        loss = super().loss(output, labels, smoothing, count)
        if self.model.gating == "sampled":
            # d/d share of BUDGET_WEIGHT (share - target)^2, with the share that recent batches ran: linear in every
            # sample, so that a batch can be cut into slices.
            slope = 2 * BUDGET_WEIGHT * (float(self.model.running_share) - self.target)
            loss = loss + slope * output.share.sum() / count
        return loss

    def end_batch(self, share: float) -> None:
        if self.model.gating == "sampled":
            self.model.running_share.mul_(1 - SHARE_RATE).add_(SHARE_RATE * share)


def _ramp(progress: float, start: float, end: float) -> float:
    """0 up to ``start``, 1 from ``end`` on, straight between."""
    return min(max((progress - start) / (end - start), 0.0), 1.0)
