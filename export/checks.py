"""One comparison of what was exported with what was trained."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-4  # largest difference over largest magnitude


@dataclass(frozen=True)
class Check:
    """``error`` is relative to the largest magnitude of the tensor that was compared; ``same``: what must be equal is,
    such as where images leave."""

    name: str
    error: float
    detail: str = ""
    same: bool = True

    @property
    def passed(self) -> bool:
        return self.same and self.error <= TOLERANCE
