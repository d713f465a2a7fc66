"""How one frozen block is run: y = phi(S(x) + g F(x) + upsample(a)).

This is the seam for memory: everything that runs a frozen block goes through ``run_block``. Here it is written in
stock autograd, which keeps full-size activations for the backward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from da3.toolchain.backbones.split import Block


def run_block(block: Block, x: Tensor, added: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """One block's output.

    x (B, C, H, W); added (B, C', G, G) or None, upsampled to the output by repetition; gate (B,) of 0s and 1s, or
    None for "run it". Returns (B, C', H', W'). While gradients are recorded the branch is computed for every sample,
    since a gate's gradient is <dL/dy, F(x)>; otherwise the samples whose gate is 0 are left out of it.
    """
    shortcut = block.shortcut(x)
    if gate is None:
        y = block.branch(x)
        y = y if shortcut is None else y + shortcut
    elif shortcut is None:
        raise ValueError(f"block {block.name} has no shortcut, so it cannot be gated")
    elif torch.is_grad_enabled():
        y = gate.view(-1, 1, 1, 1) * block.branch(x) + shortcut
    else:
        run = gate.nonzero().flatten()
        y = shortcut
        if len(run):
            y = y.index_add(0, run, block.branch(x.index_select(0, run)))
    if added is not None:
        y = y + upsample(added, y.shape[-1])
    return activate(y, block.activation)


def upsample(a: Tensor, height: int) -> Tensor:
    """Repeat each cell of (B, C, G, G) to (B, C, height, height); height is a multiple of G."""
    factor = height // a.shape[-1]
    return F.interpolate(a, scale_factor=factor, mode="nearest") if factor > 1 else a


def activate(x: Tensor, name: str | None) -> Tensor:
    """Apply the activation called ``name``: None, "relu" or "relu6"."""
    if name == "relu":
        return F.relu(x)
    if name == "relu6":
        return F.relu6(x)
    return x
