"""The loss that adaptors, exits and head are trained with; the recipe has its formula."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from da3.runtime.training.recipe import EXIT_WEIGHT, MATCH


def answers_loss(logits: Tensor, exits: Sequence[Tensor], labels: Tensor, smoothing: float) -> Tensor:
    """Summed over the samples, a scalar: ``logits`` (B, classes) of the last answer, and of each of the ``exits``."""

    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    if not exits:
        return loss
    # Cross-entropies with two targets are one with their mean; what is missing to the divergence is a constant. All
    # exits at once, since what is kept for the backward pass of so small tensors is mostly bookkeeping.
    last = F.log_softmax(logits.detach(), 1)
    classes = logits.shape[1]
    target = (1 - smoothing) * F.one_hot(labels, classes) + smoothing / classes
    mixed = (1 - MATCH) * target + MATCH * last.exp()
    answers = F.log_softmax(torch.stack(list(exits), 1), 2)  # (B, K, classes)
    entropy = MATCH * len(exits) * (last.exp() * last).sum()
    return loss + EXIT_WEIGHT * (entropy - (answers * mixed[:, None]).sum())
