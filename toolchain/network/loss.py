"""The loss that adaptors, exits and head are trained with; the recipe has its formula."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from da3.runtime.training.recipe import EXIT_WEIGHT, MATCH


def answers_loss(logits: Tensor, exits: Sequence[Tensor], labels: Tensor, smoothing: float) -> Tensor:
    """Summed over the samples, a scalar: ``logits`` (B, classes) of the last answer, and of each of the ``exits``."""

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")

    loss = cross_entropy(logits)
    last = F.log_softmax(logits.detach(), 1)
    for answer in exits:
        match = F.kl_div(F.log_softmax(answer, 1), last, log_target=True, reduction="sum")
        loss = loss + EXIT_WEIGHT * ((1 - MATCH) * cross_entropy(answer) + MATCH * match)
    return loss
