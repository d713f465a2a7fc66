"""The classifier of a domain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """Linear classifier on features normalised by fixed statistics. (B, F) -> (B, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.weight = nn.Parameter(torch.zeros(classes, features))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, features: Tensor) -> Tensor:
        # Not as a product with weight / std, of which a copy would be kept for the backward pass.
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Fix what features are normalised by: mean and std (F,)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def domain_tensors(self) -> dict[str, Tensor]:
        """What a bundle stores of the head: mean (F,), weight (classes, F) with std folded in, bias (classes,).

        The mean stays apart: folded into the bias it would cancel against large features and lose digits.
        """
        return {"mean": self.mean, "weight": (self.weight / self.std).detach(), "bias": self.bias.detach()}

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The reverse: afterwards std is 1, since it is folded already."""
        self.set_statistics(tensors["mean"], torch.ones_like(self.std))
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])
            self.bias.copy_(tensors["bias"])
