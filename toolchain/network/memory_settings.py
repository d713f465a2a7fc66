"""How much memory a training step may use, and what it pays for less. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from da3.toolchain.errors import TrainingError

KEEP_PRECISIONS = ("fp32", "bf16", "int8")
BACKBONE_PRECISIONS = ("fp32", "bf16")
GRADIENTS = ("exact", "skip-path")
CHOICES = {"keep_precision": KEEP_PRECISIONS, "backbone_precision": BACKBONE_PRECISIONS, "gradient": GRADIENTS}


def slice_size(given: str | None) -> int | None:
    """``--micro-batch`` as ``MemorySettings`` has it. Raises TrainingError unless it is "auto" or a number above 0."""
    if given is None or given == "auto":
        return None if given is None else 0
    if not given.isdecimal() or int(given) == 0:
        raise TrainingError(f"--micro-batch {given}: use auto, or a number of photos such as 4")
    return int(given)


@dataclass(frozen=True)
class MemorySettings:
    """The levers of memory-lean training.

    keep_precision: of the pooled inputs kept for the backward pass. backbone_precision: of the frozen weights and of
    the computation with them. gradient: "exact", or "skip-path" (along shortcuts only: no branch is differentiated).
    micro_batch: images a slice of a batch; 0 chooses by the size of the largest activation, and gives the same result.
    """

    keep_precision: str = "int8"
    backbone_precision: str = "fp32"
    gradient: str = "exact"
    micro_batch: int = 0

    def to_json(self) -> dict[str, object]:
        return asdict(self)
