"""Frozen blocks as autograd functions of our own, which save 1-bit masks and G x G tensors and nothing full-size.

    y = phi( S(x) + g F(x) + upsample(a) )          S, F frozen; a (B, C', G, G) and g (B,) are learnt elsewhere

    d  = phi'(y) dL/dy                              phi' is 0 or 1: saved as one bit an element
    dL/da = sum of d over each cell                 (B, C', G, G)
    dL/dg = < d, F(x) >  ~  sum over cells of dL/da . mean of F(x) in the cell
    dL/dx = S^T d + F^T (g d)                       F^T: input gradients of the branch's convolutions, last to first,
                                                    each masked by its activation's bits

For W x + b only the gradient of W needs x. W is frozen, so x is not saved. F(x) is not saved either; its G x G averages
are, where there is a gate. Samples whose gate is 0 are left out of the branch in both directions, so their gates get
no gradient from the task. With ``skip_path`` F^T is left out wherever there is a shortcut for the gradient to take;
phi' is then saved as its mean over each cell where that is smaller.

A backward pass here may overwrite the gradient it is handed. Nothing else reads that tensor in these networks, and a
full-size copy of it would be a good part of a step's peak memory.

Shapes: x (B, C, H, W), y (B, C', H', W'), channels-last. A bias that asks for a gradient gets it: it is additive too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.conv import FrozenConv
from da3.toolchain.autograd.kernels import CellMask, Mask, activate_, cells, convolve, input_gradient
from da3.toolchain.autograd.saved import SavedTensor


def run_block(
    block: Block,
    x: Tensor,
    added: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    skip_path: bool = False,
    saved_precision: str = "fp32",
) -> Tensor:
    """One block's output (B, C', H', W').

    x (B, C, H, W); added (B, C', G, G) or None, upsampled to the output by repetition; gate (B,) of 0s and 1s, or
    None for "run it": samples whose gate is 0 are left out of the branch. ``saved_precision``, "fp32", "bf16" or
    "int8", is that of the branch's cell means. Raises ValueError for a gate where there is no shortcut.
    """
    if gate is not None and not block.has_shortcut:
        raise ValueError(f"block {block.name} has no shortcut, so it cannot be gated")
    biases = [conv.bias for conv in block.every_conv if conv.bias.requires_grad]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, added, gate, *biases)):
        y: Tensor = _BlockPass.apply(x, added, gate, block, skip_path, saved_precision, *biases)  # type: ignore[no-untyped-call]
        return y
    return _forward(block, x, added, gate, None)


def run_conv(conv: FrozenConv, x: Tensor) -> Tensor:
    """phi(conv(x)) outside a block: x (B, C, H, H) -> (B, C', H', H'), saving one bit an element of phi."""
    if torch.is_grad_enabled() and (x.requires_grad or conv.bias.requires_grad):
        y: Tensor = _ConvPass.apply(x, conv.bias, conv)  # type: ignore[no-untyped-call]
        return y
    return convolve(conv, x.contiguous(memory_format=torch.channels_last), activation=conv.activation)


class _Saved:
    """What a block's backward pass needs of its forward pass."""

    def __init__(self, *, through_branch: bool, precision: str, coarse_mask: bool):
        self.through_branch = through_branch  # the gradient goes through the branch as well
        self.precision = precision  # of mean_branch
        self.coarse_mask = coarse_mask  # phi' may be saved as its mean over each cell
        self.inner: list[Mask | None] = []  # of the branch's convolutions but the last
        self.outer: Mask | CellMask | None = None
        self.ran: Tensor | None = None  # indices of the samples that took the branch; None for all
        self.mean_branch: SavedTensor | None = None  # (samples that ran, G*G, C')


def _forward(block: Block, x: Tensor, added: Tensor | None, gate: Tensor | None, saved: _Saved | None) -> Tensor:
    """``run_block``'s result; fills ``saved`` where there will be a backward pass."""
    ran = None if gate is None else (gate > 0.5).nonzero().flatten()
    if ran is not None and len(ran) == len(x):
        ran = None
    x = x.contiguous(memory_format=torch.channels_last)
    shortcut = x if block.projection is None else convolve(block.projection, x)
    base = None
    if block.has_shortcut:
        fresh = block.projection is not None
        base = shortcut if added is None and fresh else _add_cells(shortcut, added, fresh)

    if ran is None or len(ran):
        h = x if ran is None else x.index_select(0, ran).contiguous(memory_format=torch.channels_last)
        *first, last = block.convs
        for conv in first:
            h = convolve(conv, h, activation=conv.activation)
            if saved is not None and saved.through_branch:
                saved.inner.append(None if conv.activation is None else Mask(h, conv.activation))
        save_mean = saved is not None and gate is not None and gate.requires_grad and added is not None
        if ran is None and not save_mean:
            y = convolve(last, h, base, block.activation if base is not None or added is None else None)
            if base is None and added is not None:
                y = activate_(_add_cells(y, added, True), block.activation)
        else:
            branch = convolve(last, h)
            if save_mean:
                assert saved is not None and added is not None
                saved.mean_branch = SavedTensor(cell_means(branch, added.shape[-1]), saved.precision)
            assert base is not None
            y = activate_(base.add_(branch) if ran is None else base.index_add_(0, ran, branch), block.activation)
    else:
        assert base is not None
        y = activate_(base, block.activation)
    if saved is not None:
        saved.ran = ran
        if block.activation is not None:
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
        gate: Tensor | None,
        block: Block,
        skip_path: bool,
        precision: str,
        *biases: Tensor,
    ) -> Tensor:
        needs_x, needs_biases = x.requires_grad, bool(biases)
        shortcut_only = skip_path and block.has_shortcut and not needs_biases
        ctx.saved = _Saved(
            through_branch=(needs_x and not shortcut_only) or needs_biases,
            precision=precision,
            coarse_mask=shortcut_only,
        )
        ctx.block, ctx.height = block, x.shape[-1]
        ctx.side = None if added is None else added.shape[-1]
        return _forward(block, x, added, gate, ctx.saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        block: Block = ctx.block
        saved: _Saved = ctx.saved
        height: int = ctx.height
        needs_x, needs_added, needs_gate = ctx.needs_input_grad[:3]
        d = grad.contiguous(memory_format=torch.channels_last)
        if saved.outer is not None:
            d = saved.outer.on_(d)
        d_added = d_gate = d_x = None
        if needs_added or needs_gate:
            d_added = _cell_sums(d, ctx.side)
            if needs_gate:
                d_gate = _gate_gradient(saved, d_added)
        bias_grads: dict[int, Tensor] = {}
        if saved.through_branch and (saved.ran is None or len(saved.ran)):
            d_branch = _branch_gradient(block, saved, d, height, bias_grads)
            if needs_x:
                d_x = _input_gradient(block, saved, d, d_branch, height)
        elif needs_x:
            d_x = _shortcut_gradient(block, d, height)
        if block.projection is not None:
            _note_bias(bias_grads, block.projection, d)
        biases = [bias_grads.get(id(c)) for c in block.every_conv if c.bias.requires_grad]
        return d_x, d_added if needs_added else None, d_gate, None, None, None, *biases


def _gate_gradient(saved: _Saved, d_added: Tensor) -> Tensor:
    """dL/dg (B,) from dL/da (B, C', G, G); 0 for the samples that did not run."""
    if saved.mean_branch is None:
        return d_added.new_zeros(len(d_added))
    through = d_added if saved.ran is None else d_added.index_select(0, saved.ran)
    through = through.permute(0, 2, 3, 1).flatten(1, 2)
    found = (through * saved.mean_branch.restore(through.dtype)).flatten(1).sum(1)
    return found if saved.ran is None else found.new_zeros(len(d_added)).index_copy_(0, saved.ran, found)


def _branch_gradient(block: Block, saved: _Saved, d: Tensor, height: int, bias_grads: dict[int, Tensor]) -> Tensor:
    """The gradient of the first convolution's output, of the samples that ran; notes those of biases on the way."""
    g = d if saved.ran is None else d.index_select(0, saved.ran).contiguous(memory_format=torch.channels_last)
    heights = block.heights(height)
    for i, conv in reversed(list(enumerate(block.convs))):
        mask = saved.inner[i] if i < len(saved.inner) else None
        if mask is not None:
            g = mask.on_(g)
        _note_bias(bias_grads, conv, g)
        if i > 0:
            g = input_gradient(conv, g, heights[i])
    return g


def _input_gradient(block: Block, saved: _Saved, d: Tensor, d_branch: Tensor, height: int) -> Tensor:
    """S^T d + F^T (g d), where ``d_branch`` is what the branch's first convolution has yet to pass on."""
    shortcut = _shortcut_gradient(block, d, height)
    if saved.ran is None:
        return input_gradient(block.convs[0], d_branch, height, shortcut)
    assert shortcut is not None, "a block without shortcut has no gate, so every sample ran"
    return shortcut.index_add(0, saved.ran, input_gradient(block.convs[0], d_branch, height))


def _shortcut_gradient(block: Block, d: Tensor, height: int) -> Tensor | None:
    """S^T d; None without a shortcut."""
    if block.projection is not None:
        return input_gradient(block.projection, d, height)
    return d if block.has_shortcut else None


def _note_bias(grads: dict[int, Tensor], conv: FrozenConv, d: Tensor) -> None:
    if conv.bias.requires_grad:
        grads[id(conv)] = d.sum((0, 2, 3))


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


def _add_cells(x: Tensor, small: Tensor | None, in_place: bool) -> Tensor:
    """x (B, C, H, H) + small (B, C, G, G), each cell repeated; a new tensor unless ``in_place``."""
    out = x if in_place else torch.empty_like(x)
    if small is None:
        return out if in_place else out.copy_(x)
    factor = x.shape[-1] // small.shape[-1]
    torch.add(cells(x, factor), cells(small.to(x.dtype), 1), out=cells(out, factor))
    return out
