"""Frozen blocks as autograd functions of our own, which save 1-bit masks and G x G tensors and nothing full-size.

    y = phi( S(x) + F(x) + upsample(a) )            S, F frozen; a (B, C', G, G) is learnt elsewhere

    d  = phi'(y) dL/dy                              phi' is 0 or 1: saved as one bit an element
    dL/da = sum of d over each cell                 (B, C', G, G)
    dL/dx = S^T d + F^T d                           F^T: input gradients of the branch's convolutions, last to first,
                                                    each masked by its activation's bits

For W x + b only the gradient of W needs x. W is frozen, so neither x nor F(x) is saved. A block that is not run is left
out in both directions: y = phi(S(x) + upsample(a)). With ``skip_path`` F^T is left out wherever there is a shortcut for
the gradient to take; phi' is then saved as its mean over each cell where that is smaller.

A backward pass here may overwrite the gradient it is handed. Nothing else reads that tensor in these networks, and a
full-size copy of it would be a good part of a step's peak memory.

Shapes: x (B, C, H, W), y (B, C', H', W'), channels-last. A bias that asks for a gradient gets it: it is additive too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.autograd.kernels import activate_, convolve, input_gradient
from da3.toolchain.autograd.masks import CellMask, Mask, cells
from da3.toolchain.autograd.parts import parts


def run_block(
    block: Block,
    x: Tensor,
    added: Tensor | None = None,
    *,
    run: bool = True,
    skip_path: bool = False,
) -> Tensor:
    """One block's output (B, C', H', W').

    x (B, C, H, W); added (B, C', G, G) or None, upsampled to the output by repetition; ``run`` off leaves the branch
    out. Raises ValueError for that where there is no shortcut.
    """
    if not run and not block.has_shortcut:
        raise ValueError(f"block {block.name} has no shortcut, so it cannot be left out")
    biases = [conv.bias for conv in block.every_conv if conv.bias.requires_grad]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, added, *biases)):
        y: Tensor = _BlockPass.apply(x, added, block, run, skip_path, *biases)  # type: ignore[no-untyped-call]
        return y
    return _in_parts(block, x, added, run, [(rows, None) for rows in parts(block, x, run)])


def run_conv(conv: FrozenConv, x: Tensor) -> Tensor:
    """phi(conv(x)) outside a block: x (B, C, H, H) -> (B, C', H', H'), saving one bit an element of phi."""
    if torch.is_grad_enabled() and (x.requires_grad or conv.bias.requires_grad):
        y: Tensor = _ConvPass.apply(x, conv.bias, conv)  # type: ignore[no-untyped-call]
        return y
    return convolve(conv, x.contiguous(memory_format=torch.channels_last), activation=conv.activation)


class _Saved:
    """What a block's backward pass needs of the forward pass of some images."""

    def __init__(self, *, through_branch: bool, coarse_mask: bool):
        self.through_branch = through_branch  # the gradient goes through the branch as well
        self.coarse_mask = coarse_mask  # phi' may be saved as its mean over each cell
        self.inner: list[Mask | None] = []  # of the branch's convolutions but the last
        self.outer: Mask | CellMask | None = None


def _in_parts(
    block: Block, x: Tensor, added: Tensor | None, run: bool, todo: Sequence[tuple[slice, _Saved | None]]
) -> Tensor:
    """``run_block``'s result, so many images at a time."""
    x = x.contiguous(memory_format=torch.channels_last)
    y = None
    for rows, saved in todo:
        y = _placed(y, rows, _forward(block, x[rows], None if added is None else added[rows], run, saved), x)
    assert y is not None
    return y


def _forward(block: Block, x: Tensor, added: Tensor | None, run: bool, saved: _Saved | None) -> Tensor:
    """``run_block``'s result for x (B, C, H, H), channels-last; fills ``saved`` where there will be a backward pass."""
    shortcut = x if block.projection is None else convolve(block.projection, x)
    base = None
    if block.has_shortcut:
        fresh = block.projection is not None
        base = shortcut if added is None and fresh else _add_cells(shortcut, added, fresh)

    if run:
        h = x
        *first, last = block.convs
        for conv in first:
            h = convolve(conv, h, activation=conv.activation)
            if saved is not None and saved.through_branch:
                saved.inner.append(None if conv.activation is None else Mask(h, conv.activation))
        y = convolve(last, h, base, block.activation if base is not None or added is None else None)
        if base is None and added is not None:
            y = activate_(_add_cells(y, added, True), block.activation)
    else:
        assert base is not None
        y = activate_(base, block.activation)
    if saved is not None and block.activation is not None:
        side = y.shape[-1] if added is None else added.shape[-1]
        coarse = saved.coarse_mask and (y.shape[-1] // side) ** 2 > 8
        saved.outer = CellMask(y, block.activation, side) if coarse else Mask(y, block.activation)
    return y


class _BlockPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        block: Block,
        run: bool,
        skip_path: bool,
        *biases: Tensor,
    ) -> Tensor:
        needs_x, needs_biases = x.requires_grad, bool(biases)
        shortcut_only = skip_path and block.has_shortcut and not needs_biases
        through_branch = run and ((needs_x and not shortcut_only) or needs_biases)
        ctx.parts = [
            (rows, _Saved(through_branch=through_branch, coarse_mask=shortcut_only)) for rows in parts(block, x, run)
        ]
        ctx.block, ctx.height = block, x.shape[-1]
        ctx.side = None if added is None else added.shape[-1]
        return _in_parts(block, x, added, run, ctx.parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        block: Block = ctx.block
        height: int = ctx.height
        needs_x, needs_added = ctx.needs_input_grad[:2]
        grad = grad.contiguous(memory_format=torch.channels_last)
        d_x = d_added = None
        bias_grads: dict[int, Tensor] = {}
        for rows, saved in ctx.parts:
            d = grad[rows] if saved.outer is None else saved.outer.on_(grad[rows])
            if needs_added:
                d_added = _placed(d_added, rows, _cell_sums(d, ctx.side), grad)
            if saved.through_branch:
                d_branch = _branch_gradient(block, saved, d, height, bias_grads)
                if needs_x:
                    onto = _shortcut_gradient(block, d, height)
                    d_x = _placed(d_x, rows, input_gradient(block.convs[0], d_branch, height, onto), grad)
            elif needs_x:
                found = _shortcut_gradient(block, d, height)
                d_x = None if found is None else _placed(d_x, rows, found, grad)
            if block.projection is not None:
                _note_bias(bias_grads, block.projection, d)
        biases = [bias_grads.get(id(c)) for c in block.every_conv if c.bias.requires_grad]
        return d_x, d_added, None, None, None, *biases


def _placed(whole: Tensor | None, rows: slice, some: Tensor, batch: Tensor) -> Tensor:
    """``whole``, of as many images as the ``batch``, with ``some`` at its ``rows``; made if this is the first part."""
    if len(some) == len(batch):
        return some
    if whole is None:
        channels, height, width = some.shape[1:]
        whole = some.new_empty(len(batch), height, width, channels).permute(0, 3, 1, 2)
    whole[rows] = some
    return whole


def _branch_gradient(block: Block, saved: _Saved, d: Tensor, height: int, bias_grads: dict[int, Tensor]) -> Tensor:
    """The gradient of the first convolution's output; notes those of biases on the way."""
    g = d
    heights = block.heights(height)
    for i, conv in reversed(list(enumerate(block.convs))):
        mask = saved.inner[i] if i < len(saved.inner) else None
        if mask is not None:
            g = mask.on_(g)
        _note_bias(bias_grads, conv, g)
        if i > 0:
            g = input_gradient(conv, g, heights[i])
    return g


def _shortcut_gradient(block: Block, d: Tensor, height: int) -> Tensor | None:
    """S^T d; None without a shortcut."""
    if block.projection is not None:
        return input_gradient(block.projection, d, height)
    return d if block.has_shortcut else None


def _note_bias(grads: dict[int, Tensor], conv: FrozenConv, d: Tensor) -> None:
    if conv.bias.requires_grad:
        own, before = d.sum((0, 2, 3)), grads.get(id(conv))
        grads[id(conv)] = own if before is None else before.add_(own)


class _ConvPass(torch.autograd.Function):
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


class PooledInput(torch.autograd.Function):
    """x (B, C, H, H), side G -> x itself, and the mean of each of G x G cells (B, G*G, C); saves nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
        ctx.factor, ctx.side = x.shape[-1] // side, side
        return x.view_as(x), cell_means(x, side)

    @staticmethod
    def backward(ctx: Any, d_x: Tensor, d_cells: Tensor) -> tuple[Tensor, None]:
        small = (d_cells / ctx.factor**2).view(len(d_cells), ctx.side, ctx.side, -1).permute(0, 3, 1, 2)
        return _add_cells(d_x.contiguous(memory_format=torch.channels_last), small, True), None


def cell_means(x: Tensor, side: int) -> Tensor:
    """Mean of each of G x G cells: (B, C, H, H) -> (B, G*G, C) of at least float32."""
    means = F.avg_pool2d(x, x.shape[-1] // side).permute(0, 2, 3, 1).flatten(1, 2)
    return means.float() if means.dtype is torch.bfloat16 else means


def _cell_sums(x: Tensor, side: int) -> Tensor:
    """Sum of each of G x G cells: (B, C, H, H) -> channels-last (B, C, G, G)."""
    factor = x.shape[-1] // side
    return F.avg_pool2d(x, factor) * factor**2 if factor > 1 else x


# With fewer, cells are repeated along a row first, which is then added in one go, and not a few numbers at a time.
_MANY_CHANNELS = 128


def _add_cells(x: Tensor, small: Tensor | None, in_place: bool) -> Tensor:
    """x (B, C, H, H) + small (B, C, G, G), each cell repeated; a new tensor unless ``in_place``."""
    out = x if in_place else torch.empty_like(x)
    if small is None:
        return out if in_place else out.copy_(x)
    batch, channels, _, width = x.shape
    side = small.shape[-1]
    factor = width // side
    small = small.to(x.dtype)
    if factor == 1 or channels >= _MANY_CHANNELS:
        torch.add(cells(x, factor), cells(small, 1), out=cells(out, factor))
    else:
        row = small.permute(0, 2, 3, 1)[:, :, :, None].expand(-1, -1, -1, factor, -1).reshape(batch, side, 1, -1)
        as_rows = (batch, side, factor, width * channels)
        torch.add(x.permute(0, 2, 3, 1).view(as_rows), row, out=out.permute(0, 2, 3, 1).view(as_rows))
    return out
