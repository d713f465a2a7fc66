"""Exits: small classifiers on the way, at which a picture that is easy may leave, and where in a network they are.

Behind block i, from the cell means p that the adaptor of block i + 1 reads, and that adaptor's fixed mean and std:

    z = (p - mean) / std                n = mean of z over 3 x 3 cells, those outside left out
    u = ReLU(W [z, n] + b)                                                      (E channels)
    f = [mean of u over the cells, maximum of u over the cells]                 (2 E,)
    l_k = Head(f) + CARRY l_(k-1)                                               (the first exit has nothing to carry)

Known ground: BranchyNet (arXiv 1709.01686), and Zero Time Waste (arXiv 2106.05409), whose exits build on those before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.runtime.training import AdaptorSpec
from da3.runtime.training.randomness import EXITS, initial_down
from da3.runtime.training.recipe import CARRY, EXIT_WIDTH
from da3.toolchain.autograd.block import Block
from da3.toolchain.autograd.saved import SavedTensor
from da3.toolchain.backbones.split import SplitNetwork
from da3.toolchain.network.adaptor import Adaptor, AdaptorOutput
from da3.toolchain.network.head import Head
from da3.toolchain.network.neighbourhood import from_neighbours, with_neighbours

EARLIEST, LATEST = 0.35, 0.95  # of the block FLOPs: before there is little to tell by, behind little to save
WIDEST_GAP = 0.25  # of the block FLOPs, between neighbouring exits


def exit_places(blocks: Sequence[Block], flops: Sequence[int]) -> tuple[int, ...]:
    """After which blocks there are exits, for blocks that take so many ``flops`` each.

    After the last block of each stage, which ends where the next block changes channels or resolution; where that
    leaves a gap wider than WIDEST_GAP, also after the block nearest to its middle.
    """
    share = [done / sum(flops) for done in accumulate(flops)]
    ends = [i for i, block in enumerate(blocks[1:]) if not (block.has_shortcut and block.projection is None)]
    places = [i for i in ends if EARLIEST <= share[i] < LATEST]
    borders = [EARLIEST, *(share[i] for i in places), 1.0]
    for low, high in pairwise(borders):
        inside = [i for i, s in enumerate(share) if low < s < min(high, LATEST)]
        if high - low > WIDEST_GAP and inside:
            places.append(min(inside, key=lambda i: abs(share[i] - (low + high) / 2)))
    return tuple(sorted(places))


def with_exits(spec: AdaptorSpec, network: SplitNetwork, size: int) -> AdaptorSpec:
    """``spec`` with the exits that suit ``network`` at images of ``size`` pixels."""
    places = exit_places(network.blocks, [f.total for f in network.block_flops(size)])
    found = tuple(i for i in places if i + 1 >= spec.first)
    width = min(EXIT_WIDTH, 2 * spec.mid)  # no wider where adaptors are narrow, so that a domain stays small
    return spec._replace(exits=found, exit_width=width if found else 0)


class _FeaturesPass(torch.autograd.Function):
    """``Exit.features`` with the p that the adaptor saved, and which cell had each maximum: from a p of lower precision
    another might have it. With rows of B*G*G cells:

    du = df_mean / G^2, and df_max in the cell of the maximum, where u > 0
    dW = du^T [z, n]      db = sum of du      dp = (du W, through [z, n]) / std
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, exit: Exit, saved: SavedTensor, *parameters: Tensor) -> Tensor:
        ctx.saved, ctx.exit, ctx.dtype, ctx.shape = saved, exit, p.dtype, p.shape
        u = exit.hidden(exit.inputs(p))
        largest, cell = u.max(1)
        ctx.cell = cell.to(torch.int16)  # (B, E)
        return torch.cat([u.mean(1), largest], 1)

    @staticmethod
    def backward(ctx: Any, d_f: Tensor) -> tuple[Tensor | None, ...]:
        exit: Exit = ctx.exit
        batch, cells, _ = ctx.shape
        z = exit.inputs(ctx.saved.restore(ctx.dtype))
        d_mean, d_max = d_f[:, None].chunk(2, 2)
        d_u = (d_mean / cells).repeat(1, cells, 1).scatter_add_(1, ctx.cell[:, None].long(), d_max)
        d_u = torch.ops.aten.threshold_backward(d_u, exit.hidden(z), 0)  # that of ReLU
        grads = (d_u.view(batch * cells, -1).T @ z.view(batch * cells, -1), d_u.sum((0, 1)))
        del z
        d_p = None
        if ctx.needs_input_grad[0]:
            d_p = from_neighbours(d_u @ exit.down, exit.adaptor.side).div_(exit.adaptor.std)
        return d_p, None, None, *grads


class Exit(nn.Module):
    """What the next block's adaptor pooled, and the logits (B, classes) of the exit before (None: there is none) ->
    logits (B, classes).

    ``adaptor`` is that of the next block: its pooled input and its fixed statistics are used.
    """

    def __init__(self, adaptor: Adaptor, *, width: int, classes: int, seed: int = 0, block: int = 0):
        """``seed`` and the index of the ``block`` before it decide what W starts from."""
        super().__init__()
        self._adaptor = (adaptor,)  # not a submodule: its tensors are stored with the adaptor
        self.down = nn.Parameter(torch.from_numpy(initial_down(seed, block, width, 2 * adaptor.cin, EXITS)))
        self.down_bias = nn.Parameter(torch.zeros(width))
        self.head = Head(2 * width, classes)

    @property
    def adaptor(self) -> Adaptor:
        return self._adaptor[0]

    @property
    def width(self) -> int:
        return len(self.down_bias)

    def forward(self, adapted: AdaptorOutput, before: Tensor | None) -> Tensor:
        return carried(self.head(self.features(adapted)), before)

    def features(self, adapted: AdaptorOutput) -> Tensor:
        """f (B, 2 E)."""
        if adapted.saved is None:
            return self.compute(adapted.p)
        f: Tensor = _FeaturesPass.apply(adapted.p, self, adapted.saved, self.down, self.down_bias)  # type: ignore[no-untyped-call]
        return f

    def compute(self, p: Tensor) -> Tensor:
        """f (B, 2 E) of pooled inputs p (B, G*G, C)."""
        u = self.hidden(self.inputs(p))
        return torch.cat([u.mean(1), u.amax(1)], 1)

    def inputs(self, p: Tensor) -> Tensor:
        """[z, n] (B, G*G, 2 C)."""
        return with_neighbours(self.adaptor.normalise(p), self.adaptor.side)

    def hidden(self, inputs: Tensor) -> Tensor:
        """u (B, G*G, E)."""
        return F.linear(inputs, self.down, self.down_bias).relu_()

    def domain_tensors(self) -> dict[str, Tensor]:
        """What a bundle stores: with the normalisation folded in down (E, C) for p, around (E, C) for its
        neighbourhood's mean and down_bias (E,); and the head's own."""
        own, near = self.down.chunk(2, 1)
        down, bias = self.adaptor.folded(own, self.down_bias)
        around, bias = self.adaptor.folded(near, bias)
        tensors = {"down": down, "around": around, "down_bias": bias}
        return {name: tensor.detach() for name, tensor in tensors.items()} | self.head.domain_tensors()

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The reverse, after the adaptor's own: its normalisation is the identity then."""
        self.head.load_domain_tensors(tensors)
        with torch.no_grad():
            self.down.copy_(torch.cat([tensors["down"], tensors["around"]], 1))
            self.down_bias.copy_(tensors["down_bias"])


def carried(logits: Tensor, before: Tensor | None, part: float = CARRY) -> Tensor:
    """A classifier's ``logits`` (B, classes) and a ``part`` of what the exit before answered, where there is one."""
    return logits if before is None else logits + part * before
