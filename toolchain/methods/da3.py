"""DA3: additive adaptors and look-ahead gates on a frozen backbone (Yang, Rakin, Fan; arXiv 2012.01362)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor

from da3.runtime.training.randomness import gate_draws
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
from da3.toolchain.backbones.registry import load_backbone
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods.base import Batch, Learner, Photos, Task
from da3.toolchain.network.gate_selection import close_gate, fit_bypasses, gate_costs, open_blocks
from da3.toolchain.network.gating import Gating
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
        backbone = load_backbone(task.arch, weights, task.memory.backbone_precision)
        self.flops_budget = task.flops_budget
        self.gated = self.flops_budget < 1.0
        self.model = DomainModel(
            backbone,
            task.adaptor,
            size=task.size,
            classes=task.classes,
            gated=self.gated,
            memory=task.memory,
            seed=task.seed,
        )
        if self.flops_budget < self.model.least_share:
            raise TrainingError(
                f"--keep {self.flops_budget:g}: {task.arch} at {task.size} px cannot go below "
                f"{self.model.least_share:.2f}, what is left when every block with a shortcut is skipped"
            )

    @property
    def slice_size(self) -> int:
        return self.model.slice_size

    def forward(self, images: Tensor) -> Output:
        output: Output = self.model(images)
        return output

    def domain_state(self) -> dict[str, Tensor]:
        left_out = ("backbone.",) if self.gated else ("backbone.", "substitutes.")
        return {k: v for k, v in self.model.state_dict().items() if not k.startswith(left_out)}

    def domain_bytes(self) -> int:
        """Bytes of a pack's weights, in fp16."""
        return 2 * sum(t.numel() for t in self.model.domain_tensors().values())

    def prepare(self, images: Iterable[Tensor]) -> None:
        self.model.fit_normalisation(images)

    def revise(self, progress: float, photos: Photos) -> None:
        if not self.gated or not GATES_FROM <= progress < NOISE_FROM:
            return
        target = 1.0 - (1.0 - self.flops_budget) * ramp(progress, GATES_FROM, CLOSED_BY)
        share = self.model.branch_share.tolist()
        self.model.gating = Gating.hard()
        while True:
            still = open_blocks(self.model)
            now = 1.0 - sum(s for i, s in enumerate(share) if self.model.gateable[i] and i not in still)
            candidates = [i for i in still if now - share[i] >= self.flops_budget - OVERSHOOT]
            if now <= target or not candidates:
                return
            with closing(photos(len(still))) as batches:
                fit_bypasses(self.model, (images for images, _ in self._in_slices(islice(batches, FIT_BATCHES))))
                costs = gate_costs(self.model, self._in_slices(islice(batches, COST_BATCHES)), candidates)
            close_gate(self.model, min(candidates, key=lambda i: (max(costs[i], 0.0) + LEAST_COST) / share[i]))

    def _in_slices(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Normalised images and labels, a slice at a time."""
        for pixels, labels in batches:
            for rows in self._slices(len(labels)):
                yield self.normalise(pixels[rows]), labels[rows]

    def train_mode(self, progress: float) -> None:
        self.model.train()
        if not self.gated or progress < GATES_FROM:
            self.model.gating = Gating.off()
        elif progress < CLOSED_BY:
            self.model.gating = Gating.hard()
        else:
            self.model.gating = Gating.sampled(NOISE * (1.0 - ramp(progress, NOISE_FROM, NOISE_UNTIL)))

    def eval_mode(self) -> None:
        self.model.eval()
        self.model.gating = Gating.hard() if self.gated else Gating.off()

    def is_final(self, progress: float) -> bool:
        return not self.gated or progress >= NOISE_UNTIL

    def begin_batch(self, count: int, number: int = 0) -> None:
        self._draws = self.draw_gates(count, number)

    def draw_gates(self, count: int, number: int) -> Tensor:
        """The randomness of sampled gates for the batch of ``count`` of step ``number``: (count, blocks), in 0..1."""
        # They are drawn on the CPU, for the whole batch: every device and every slicing gets the same.
        return torch.from_numpy(gate_draws(self.task.seed, number, count, len(self.model.backbone.blocks)))

    def forward_slice(self, images: Tensor, rows: slice) -> Output:
        output: Output = self.model(images, draws=self._draws[rows].to(images.device))
        return output

    def loss(self, output: Output, labels: Tensor, smoothing: float, count: int) -> Tensor:
        loss = super().loss(output, labels, smoothing, count)
        if self.model.gating.mode == "sampled":
            # The derivative by share of BUDGET_WEIGHT (share - budget)^2, taken at the share that recent batches ran.
            # The loss is linear in every sample's share then, so that a batch can be cut into slices.
            slope = 2 * BUDGET_WEIGHT * (float(self.model.running_share) - self.flops_budget)
            loss = loss + slope * output.share.sum() / count
        return loss

    def end_batch(self, share: float) -> None:
        if self.model.gating.mode != "off":
            self.model.running_share.mul_(1 - SHARE_RATE).add_(SHARE_RATE * share)
