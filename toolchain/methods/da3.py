"""DA3: additive adaptors and exits on a frozen backbone (Yang, Rakin, Fan; arXiv 2012.01362)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cached_property
from itertools import islice

from torch import Tensor

from da3.runtime.training.closing import cheapest, closing_target, may_be_closed
from da3.runtime.training.recipe import (
    CLOSE_FROM,
    CLOSED_BY,
    COST_BATCHES,
    FIT_BATCHES,
    LEARNING_RATE,
    WARM_UP,
    closing_share,
)
from da3.toolchain.backbones.registry import load_backbone
from da3.toolchain.backbones.split import SplitNetwork
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods.base import Batch, Images, Learner, Photos, Task
from da3.toolchain.methods.side_by_side import SideBySide
from da3.toolchain.network.block_selection import closing_costs, fit_bypasses, open_blocks
from da3.toolchain.network.loss import answers_loss
from da3.toolchain.network.model import DomainModel, Output
from da3.toolchain.network.slicing import images_a_slice


class Da3(Learner):
    """Trains adaptors, exits and head, and closes blocks; stores nothing of the backbone."""

    name = "da3"
    default_lr = LEARNING_RATE
    warm_up = WARM_UP
    sliceable = True
    model: DomainModel

    def __init__(self, task: Task, weights: WeightsFile):
        super().__init__(task, weights)
        self.side_by_side = SideBySide()
        backbone = load_backbone(task.arch, weights, task.memory.backbone_precision)
        self.share_left = closing_share(task.flops_budget)  # by closed blocks
        self.model = DomainModel(
            backbone,
            task.adaptor,
            size=task.size,
            classes=task.classes,
            may_close=self.share_left < 1.0,
            memory=task.memory,
            seed=task.seed,
        )
        if task.flops_budget < self.model.least_share:
            raise TrainingError(
                f"--keep {task.flops_budget:g}: {task.arch} at {task.size} px cannot go below "
                f"{self.model.least_share:.2f}, what is left when every block with a shortcut is closed and every "
                f"photo leaves at the first exit"
            )

    @cached_property
    def slice_size(self) -> int:
        return images_a_slice(self.model.largest_trained_bytes, self.image_flops, self.device.type)

    @property
    def network(self) -> SplitNetwork:
        return self.model.backbone

    def forward(self, images: Tensor) -> Output:
        output: Output = self.model(images)
        return output

    def loss(self, output: Output, labels: Tensor, smoothing: float, count: int) -> Tensor:
        return answers_loss(output.logits, output.exits, labels, smoothing) / count

    def domain_state(self) -> dict[str, Tensor]:
        left_out = ("backbone.",) if self.model.may_close else ("backbone.", "substitutes.", "closed")
        return {k: v for k, v in self.model.state_dict().items() if not k.startswith(left_out)}

    def domain_bytes(self) -> int:
        """Bytes of a pack's weights, in fp16."""
        return 2 * sum(t.numel() for t in self.model.domain_tensors().values())

    def answer_costs(self) -> list[float]:
        return self.model.answer_costs

    def prepare(self, images: Images) -> None:
        self.model.fit_normalisation(images, self.total, self.each_batch)

    def revise(self, progress: float, photos: Photos) -> None:
        if not self.model.may_close or progress < CLOSE_FROM:
            return
        target, saved = closing_target(progress, self.share_left), self.model.branch_share
        self.model.train()  # an epoch's validation may have come between, and another answer would cost something else
        while True:
            still, now = open_blocks(self.model), self.model.answer_costs[-1]
            candidates = may_be_closed(still, saved, now, self.share_left)
            if now <= target or not candidates:
                return
            with closing(photos(len(still))) as batches:
                few = (images for images, _ in self._in_slices(islice(batches, FIT_BATCHES)))
                fit_bypasses(self.model, few, self.total)
                others = self._in_slices(islice(batches, COST_BATCHES))
                costs = closing_costs(self.model, others, candidates, self.total)
            self.model.close(cheapest(costs, saved))

    def _in_slices(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Normalised images and labels, a slice at a time."""
        for pixels, labels in batches:
            for rows in self._slices(len(labels)):
                yield self.normalise(pixels[rows]), labels[rows]

    def is_final(self, progress: float) -> bool:
        return not self.model.may_close or progress > CLOSED_BY
