"""A small tensor saved for the backward pass at the precision asked for: fp32, bf16 or int8."""

from __future__ import annotations

import torch
from torch import Tensor


class SavedTensor:
    """p (B, P, C) as float32, bfloat16 (relative error 2^-9), or int8 with a scale per sample and channel.

    int8: p ~ scale q, q = round(p / scale) in -127..127, scale (B, 1, C) = max over P of |p| / 127, itself saved in
    bfloat16; the error is at most scale / 2.
    """

    def __init__(self, p: Tensor, precision: str):
        self.scale: Tensor | None = None
        if precision == "int8":
            # One bfloat16 step up, so that rounding the scale down cannot push the largest value past 127.
            self.scale = (p.abs().amax(1, keepdim=True).clamp_min(1e-12) * (1.01 / 127)).bfloat16()
            self.values = (p / self.scale.float()).round_().to(torch.int8)
        else:
            # A copy: p may be a view of a full-size tensor, which must not live on.
            self.values = p.to(torch.bfloat16 if precision == "bf16" else p.dtype, copy=True)

    def restore(self, dtype: torch.dtype) -> Tensor:
        """p again, as ``dtype``."""
        values = self.values.to(dtype)
        return values if self.scale is None else values.mul_(self.scale.to(dtype))
