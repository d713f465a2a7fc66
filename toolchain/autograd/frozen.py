"""Frozen blocks as autograd functions of our own, which keep 1-bit masks and G x G tensors and nothing full-size.

    y = phi( S(x) + g F(x) + upsample(a) )          S, F frozen; a (B, C', G, G) and g (B,) are learnt elsewhere

    d  = phi'(y) dL/dy                              phi' is 0 or 1: kept as one bit an element
    dL/da = sum of d over each cell                 (B, C', G, G)
    dL/dg = < d, F(x) >  ~  sum over cells of dL/da . mean of F(x) in the cell
    dL/dx = S^T d + F^T (g d)                       F^T: input gradients of the branch's convolutions, last to first,
                                                    each masked by its activation's bits

For W x + b the gradient of W alone needs x. W is frozen, so x is not kept, and neither is F(x): its G x G averages are,
where there is a gate. Samples whose gate is 0 are left out of the branch in both directions, so their gates get no
gradient from the task. With ``skip_path`` F^T is left out wherever there is a shortcut for the gradient to take, and
phi' there is its mean over each cell where that is smaller to keep.

The gradient handed to a backward pass here may be overwritten: what comes after a block in these networks hands on a
tensor of its own, and a full-size copy less is a good part of a step's peak.

Shapes: x (B, C, H, W), y (B, C', H', W'), channels-last. A bias that asks for a gradient gets it: it is additive too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from da3.toolchain.autograd.kernels import CellMask, Mask, activate_, cells, convolve, input_gradient
from da3.toolchain.autograd.saved import Kept

if TYPE_CHECKING:
    from da3.toolchain.backbones.layers import FrozenConv
    from da3.toolchain.backbones.split import Block


def run_block(
    block: Block,
    x: Tensor,
    added: Tensor | None = None,
    gate: Tensor | None = None,
    skip_path: bool = False,
    keep_precision: str = "fp32",
) -> Tensor:
    """One block's output (B, C', H', W').

    x (B, C, H, W); added (B, C', G, G) or None, upsampled to the output by repetition; gate (B,) of 0s and 1s, or
    None for "run it": samples whose gate is 0 are left out of the branch.
    """
    if gate is not None and not block.has_shortcut:
        raise ValueError(f"block {block.name} has no shortcut, so it cannot be gated")
    biases = [conv.bias for conv in block.every_conv if conv.bias.requires_grad]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, added, gate, *biases)):
        return _BlockPass.apply(x, added, gate, block, skip_path, keep_precision, *biases)
    return _forward(block, x, added, gate, None)


class _Pass:
    """What a block's backward pass needs of its forward pass."""

    def __init__(self, through_branch: bool, precision: str, skips: bool):
        self.through_branch = through_branch
        self.precision = precision  # of mean_branch
        self.skips = skips  # the gradient takes the shortcut alone, and may be a mean over each cell
        self.inner: list[Mask | None] = []  # of the branch's convolutions but the last
        self.outer: Mask | CellMask | None = None
        self.run: Tensor | None = None  # indices of the samples that took the branch; None for all
        self.mean_branch: Kept | None = None  # (samples run, G*G, C')


def _forward(block: Block, x: Tensor, added: Tensor | None, gate: Tensor | None, kept: _Pass | None) -> Tensor:
    run = None if gate is None else (gate > 0.5).nonzero().flatten()
    everyone = run is None or len(run) == len(x)
    x = x.contiguous(memory_format=torch.channels_last)
    shortcut = x if block.projection is None else convolve(block.projection, x)
    base = None
    if block.has_shortcut:
        fresh = block.projection is not None
        base = shortcut if added is None and fresh else _add_cells(shortcut, added, fresh)

    y: Tensor | None = base
    if run is None or len(run):
        h = x if everyone else x.index_select(0, run).contiguous(memory_format=torch.channels_last)
        *first, last = block.convs
        for conv in first:
            h = convolve(conv, h, activation=conv.activation)
            if kept is not None and kept.through_branch:
                kept.inner.append(None if conv.activation is None else Mask(h, conv.activation))
        keep_mean = kept is not None and gate is not None and gate.requires_grad and added is not None
        if everyone and not keep_mean:
            y = convolve(last, h, base, block.activation if base is not None or added is None else None)
            if base is None and added is not None:
                y = activate_(_add_cells(y, added, True), block.activation)
        else:
            branch = convolve(last, h)
            if keep_mean:
                assert kept is not None and added is not None
                kept.mean_branch = Kept(cell_means(branch, added.shape[-1]), kept.precision)
            assert base is not None
            y = activate_(base.add_(branch) if everyone else base.index_add_(0, run, branch), block.activation)
    else:
        assert base is not None
        y = activate_(base, block.activation)
    assert y is not None
    if kept is not None:
        kept.run = None if everyone else run
        if block.activation is not None:
            side = y.shape[-1] if added is None else added.shape[-1]
            coarse = kept.skips and (y.shape[-1] // side) ** 2 > 8
            kept.outer = CellMask(y, block.activation, side) if coarse else Mask(y, block.activation)
    return y


class _BlockPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        gate: Tensor | None,
        block: Block,
        skip_path: bool,
        precision: str,
        *biases: Tensor,
    ) -> Tensor:
        needs_x, needs_biases = x.requires_grad, bool(biases)
        skips = skip_path and block.has_shortcut and not needs_biases
        ctx.kept = _Pass((needs_x and not skips) or needs_biases, precision, skips)
        ctx.block, ctx.height = block, x.shape[-1]
        ctx.side = None if added is None else added.shape[-1]
        ctx.batch = len(x)
        return _forward(block, x, added, gate, ctx.kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        block, kept, height = ctx.block, ctx.kept, ctx.height
        needs_x, needs_added, needs_gate = ctx.needs_input_grad[:3]
        d = grad.contiguous(memory_format=torch.channels_last)
        if kept.outer is not None:
            d = kept.outer.on_(d)
        d_added = d_gate = d_x = None
        if needs_added or needs_gate:
            d_added = _cell_sums(d, ctx.side)
        if needs_gate and kept.mean_branch is not None:
            through = d_added if kept.run is None else d_added.index_select(0, kept.run)
            through = through.permute(0, 2, 3, 1).flatten(1, 2)
            found = (through * kept.mean_branch.restore(through.dtype)).flatten(1).sum(1)
            d_gate = found if kept.run is None else found.new_zeros(ctx.batch).index_copy_(0, kept.run, found)
        elif needs_gate:
            d_gate = d.new_zeros(ctx.batch)

        bias_grads: dict[int, Tensor] = {}
        if kept.through_branch and (kept.run is None or len(kept.run)):
            g = d if kept.run is None else d.index_select(0, kept.run).contiguous(memory_format=torch.channels_last)
            heights = _heights(block, height)
            for i in reversed(range(len(block.convs))):
                conv = block.convs[i]
                if i < len(kept.inner) and kept.inner[i] is not None:
                    g = kept.inner[i].on_(g)
                _note_bias(bias_grads, conv, g)
                if i > 0:
                    g = input_gradient(conv, g, heights[i])
            if needs_x:
                first = block.convs[0]
                if kept.run is None:
                    onto = _shortcut_gradient(block, d, height)
                    d_x = input_gradient(first, g, height, onto)
                else:
                    d_x = _shortcut_gradient(block, d, height).index_add(0, kept.run, input_gradient(first, g, height))
        elif needs_x:
            d_x = _shortcut_gradient(block, d, height)
        if block.projection is not None:
            _note_bias(bias_grads, block.projection, d)
        biases = [bias_grads.get(id(c)) for c in block.every_conv if c.bias.requires_grad]
        return d_x, d_added if needs_added else None, d_gate, None, None, None, *biases


def _shortcut_gradient(block: Block, d: Tensor, height: int) -> Tensor | None:
    """S^T d; None without a shortcut."""
    if block.projection is not None:
        return input_gradient(block.projection, d, height)
    return d if block.has_shortcut else None


def _note_bias(grads: dict[int, Tensor], conv: FrozenConv, d: Tensor) -> None:
    if conv.bias.requires_grad:
        grads[id(conv)] = d.sum((0, 2, 3))


def _heights(block: Block, height: int) -> list[int]:
    """Input height of each of the branch's convolutions."""
    heights = [height]
    for conv in block.convs[:-1]:
        heights.append(conv.flops(heights[-1])[1])
    return heights


class PooledInput(torch.autograd.Function):
    """x (B, C, H, H), side G -> x itself, and the mean of each of G x G cells (B, G*G, C); keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
        ctx.factor, ctx.side = x.shape[-1] // side, side
        return x.view_as(x), cell_means(x, side)

    @staticmethod
    def backward(ctx: Any, d_x: Tensor, d_cells: Tensor) -> tuple[Tensor, None]:
        small = (d_cells / ctx.factor**2).unflatten(1, (ctx.side, ctx.side)).permute(0, 3, 1, 2)
        return _add_cells(d_x.contiguous(memory_format=torch.channels_last), small, True), None


class ConvPass(torch.autograd.Function):
    """phi(conv(x)) outside a block: x (B, C, H, H) -> (B, C', H', H'), keeping one bit an element of phi."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, conv: FrozenConv) -> Tensor:
        y = convolve(conv, x.contiguous(memory_format=torch.channels_last), activation=conv.activation)
        ctx.mask = None if conv.activation is None else Mask(y, conv.activation)
        ctx.conv, ctx.height = conv, x.shape[-1]
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        d = grad.contiguous(memory_format=torch.channels_last)
        if ctx.mask is not None:
            d = ctx.mask.on_(d)
        needs_x, needs_bias = ctx.needs_input_grad[:2]
        d_x = input_gradient(ctx.conv, d, ctx.height) if needs_x else None
        return d_x, d.sum((0, 2, 3)) if needs_bias else None, None


def cell_means(x: Tensor, side: int) -> Tensor:
    """Mean of each of G x G cells: (B, C, H, H) -> (B, G*G, C) of at least float32."""
    means = F.avg_pool2d(x, x.shape[-1] // side).permute(0, 2, 3, 1).flatten(1, 2)
    return means.float() if means.dtype is torch.bfloat16 else means


def _cell_sums(x: Tensor, side: int) -> Tensor:
    """Sum of each of G x G cells: (B, C, H, H) -> channels-last (B, C, G, G)."""
    factor = x.shape[-1] // side
    return F.avg_pool2d(x, factor) * factor**2 if factor > 1 else x


def _add_cells(x: Tensor, small: Tensor | None, in_place: bool) -> Tensor:
    """x (B, C, H, H) + small (B, C, G, G), each cell repeated; a new tensor unless ``in_place``."""
    out = x if in_place else torch.empty_like(x)
    if small is None:
        return out if in_place else out.copy_(x)
    factor = x.shape[-1] // small.shape[-1]
    torch.add(cells(x, factor), cells(small.to(x.dtype), 1), out=cells(out, factor))
    return out
