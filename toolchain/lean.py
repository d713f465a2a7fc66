"""How much memory a training step may use, and what it pays for less. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

KEEP_PRECISIONS = ("fp32", "bf16", "int8")
BACKBONE_PRECISIONS = ("fp32", "bf16")
GRADIENTS = ("exact", "skip-path")
CHOICES = {"keep_precision": KEEP_PRECISIONS, "backbone_precision": BACKBONE_PRECISIONS, "gradient": GRADIENTS}


@dataclass(frozen=True)
class Lean:
    """The levers of memory-lean training.

    keep_precision: of the pooled inputs kept for the backward pass. backbone_precision: of the frozen weights and of
    the computation with them. gradient: "exact", or "skip-path" (along shortcuts only: no branch is differentiated).
    micro_batch: images a slice; 0 is the whole batch at once.
    """

    keep_precision: str = "bf16"
    backbone_precision: str = "fp32"
    gradient: str = "exact"
    micro_batch: int = 0

    def to_json(self) -> dict[str, object]:
        return asdict(self)
