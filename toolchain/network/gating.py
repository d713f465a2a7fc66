"""How a model's gates decide which blocks run: not at all, by sampling in training, or as deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Gating:
    """The gating state of a model; make one by ``off``, ``sampled`` or ``hard``.

    ``noise`` scales the logistic noise of sampled gates; it is 0 in the other modes.
    """

    mode: Literal["off", "sampled", "hard"]
    noise: float = 0.0

    @classmethod
    def off(cls) -> Gating:
        """Every block runs for every sample."""
        return cls("off")

    @classmethod
    def sampled(cls, noise: float) -> Gating:
        """Gates are drawn with the Gumbel-sigmoid trick, and gradients pass straight through (training)."""
        return cls("sampled", noise)

    @classmethod
    def hard(cls) -> Gating:
        """A block runs where its logit is above the domain's theta (deployment)."""
        return cls("hard")
