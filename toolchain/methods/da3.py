"""DA3: additive adaptors and look-ahead gates on a frozen backbone (Yang, Rakin, Fan; arXiv 2012.01362)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from da3.runtime.training.recipe import (
    BUDGET_WEIGHT,
    CLOSED_BY,
    COST_BATCHES,
    FIT_BATCHES,
    GATES_FROM,
    LEARNING_RATE,
    LEAST_COST,
    NOISE,
    NOISE_FROM,
    NOISE_UNTIL,
    OVERSHOOT,
    SHARE_RATE,
    WARM_UP,
    ramp,
)
from da3.toolchain.backbones import WeightsFile, load_backbone
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods.base import Batch, Learner, Photos, Task
from da3.toolchain.network.gate_selection import close_gate, closing_costs, fit_bypasses, open_blocks
from da3.toolchain.network.model import DomainModel, Output


class Da3(Learner):
    """Trains adaptors, gates and head; stores nothing of the backbone."""

    name = "da3"
    default_lr = LEARNING_RATE
    warm_up = WARM_UP
    sliceable = True
    model: DomainModel

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        backbone = load_backbone(task.arch, weights, task.lean.backbone_precision)
        self.gated = task.keep < 1.0
        self.keep = task.keep
        self.model = DomainModel(backbone, task.adaptor, task.size, task.classes, self.gated, task.lean)
        if self.keep < self.model.least_share:
            raise TrainingError(
                f"--keep {task.keep:g}: {task.arch} at {task.size} px cannot go below "
                f"{self.model.least_share:.2f}, what is left when every block with a shortcut is skipped"
            )

    @property
    def slice_size(self) -> int:  # type: ignore[override]
        return self.model.slice_size

    def forward(self, images: Tensor) -> Output:
        return self.model(images)

    def domain_state(self) -> dict[str, Tensor]:
        left_out = ("backbone.",) if self.gated else ("backbone.", "substitutes.")
        return {k: v for k, v in self.model.state_dict().items() if not k.startswith(left_out)}

    def domain_bytes(self) -> int:
        """Of a pack's weights, in fp16."""
        return 2 * sum(t.numel() for t in self.model.domain_tensors().values())

    def prepare(self, images: Iterable[Tensor]) -> None:
        self.model.fit_normalisation(images)

    def revise(self, progress: float, photos: Photos) -> None:
        if not self.gated or not GATES_FROM <= progress < NOISE_FROM:
            return
        target = 1.0 - (1.0 - self.keep) * ramp(progress, GATES_FROM, CLOSED_BY)
        share = self.model.branch_share.tolist()
        self.model.gating = "hard"
        while True:
            still = open_blocks(self.model)
            now = 1.0 - sum(s for i, s in enumerate(share) if self.model.gateable[i] and i not in still)
            candidates = [i for i in still if now - share[i] >= self.keep - OVERSHOOT]
            if now <= target or not candidates:
                return
            with closing(photos(len(still))) as batches:
                fit_bypasses(self.model, (images for images, _ in self._parts(islice(batches, FIT_BATCHES))))
                costs = closing_costs(self.model, self._parts(islice(batches, COST_BATCHES)), candidates)
            close_gate(self.model, min(candidates, key=lambda i: (max(costs[i], 0.0) + LEAST_COST) / share[i]))

    def _parts(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Normalised images and labels, a slice at a time."""
        for pixels, labels in batches:
            for part in self._slices(len(labels)):
                yield self.normalise(pixels[part]), labels[part]

    def train_mode(self, progress: float) -> None:
        self.model.train()
        self.model.gating = "sampled" if progress >= CLOSED_BY else "hard"
        if not self.gated or progress < GATES_FROM:
            self.model.gating = "off"
        self.model.noise = NOISE * (1.0 - ramp(progress, NOISE_FROM, NOISE_UNTIL))

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
            slope = 2 * BUDGET_WEIGHT * (float(self.model.running_share) - self.keep)
            loss = loss + slope * output.share.sum() / count
        return loss

    def end_batch(self, share: float) -> None:
        if self.model.gating != "off":
            self.model.running_share.mul_(1 - SHARE_RATE).add_(SHARE_RATE * share)
