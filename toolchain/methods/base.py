"""What every training method offers to the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.adaptor import AdaptorSpec
from da3.toolchain.backbones import WeightsFile
from da3.toolchain.model import Output


@dataclass(frozen=True)
class Task:
    """What is to be learnt: ``classes`` classes from images of ``size``, at ``keep`` of the block FLOPs."""

    arch: str
    size: int
    classes: int
    keep: float
    adaptor: AdaptorSpec


class Learner(ABC):
    """One method applied to one domain. ``model`` maps images (B, 3, S, S) to logits or to an Output."""

    name: str
    default_lr: float
    warm_up: float = 0.1  # share of all steps during which the learning rate rises
    model: nn.Module

    @abstractmethod
    def __init__(self, task: Task, weights: WeightsFile): ...

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Logits, and which blocks ran, in the mode last set."""

    @abstractmethod
    def domain_state(self) -> dict[str, Tensor]:
        """The tensors that make this domain, by name: what a checkpoint stores beside the frozen backbone."""

    def load_domain_state(self, state: dict[str, Tensor]) -> None:
        """Restore ``domain_state()``; names and shapes must match exactly."""
        own = self.domain_state()
        if own.keys() != state.keys():
            raise KeyError(f"expected {len(own)} tensors, found {len(state)}")
        self.model.load_state_dict(state, strict=False)

    def prepare(self, images: Iterable[Tensor]) -> None:
        """Look at some training images (B, 3, S, S) before the first step. Default: nothing to do."""

    def train_mode(self, progress: float) -> None:
        """Get ready for a training step, ``progress`` (0 to 1) of the way through all steps."""
        self.model.train()

    def eval_mode(self) -> None:
        """Behave as deployed."""
        self.model.eval()

    def is_final(self, progress: float) -> bool:
        """Whether what is trained at ``progress`` already meets the task, so it may be kept as the best."""
        return True

    def loss(self, output: Output, labels: Tensor, smoothing: float) -> Tensor:
        """Training loss (scalar) of one batch."""
        return F.cross_entropy(output.logits, labels, label_smoothing=smoothing)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser updates."""
        return [p for p in self.model.parameters() if p.requires_grad]
