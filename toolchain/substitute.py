"""What a skipped block's branch is replaced by: a linear map of the pooled input and of its neighbourhood's mean.

    z as in the adaptor                     n = mean of z over 3 x 3 cells, those outside left out
    c = s (W [z, n] + b)                    added as repeat(c) where the gate is 0

W and b are fitted by ridge regression to the cell means of F(x) when the block is about to be closed, then trained with
the rest. Where a gate is 1 they get no gradient, and the gate gets <dL/dy, F(x) - repeat(c)>: its part here is the
second. A gate that is 0 has no F(x) to set against c, so it gets nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.adaptor import Adaptor
from da3.toolchain.kept import Kept

RIDGE = 0.03  # of a normalised channel's variance
STEP = 0.2  # W and b are this times their parameters: a step of the optimiser must not undo the fit


class Substitute(nn.Module):
    """a (B, C', G, G), pooled input p (B, G*G, C), gate (B,) -> a, plus c where the gate is 0.

    ``adaptor`` is the same block's: its fixed statistics are used.
    """

    def __init__(self, adaptor: Adaptor):
        super().__init__()
        self.side = adaptor.side
        self._adaptor = (adaptor,)  # not a submodule: its tensors are stored with the adaptor
        self.weight = nn.Parameter(torch.zeros(adaptor.cout, 2 * adaptor.cin))
        self.bias = nn.Parameter(torch.zeros(adaptor.cout))

    @property
    def adaptor(self) -> Adaptor:
        return self._adaptor[0]

    @property
    def flops(self) -> int:
        """Operations for one image, 2 a multiply-add."""
        return 2 * self.side**2 * self.weight.numel()

    @property
    def scale(self) -> Tensor:
        """What weight and bias are in units of."""
        return STEP * self.adaptor.out_scale

    def forward(self, a: Tensor, p: Tensor, gate: Tensor, keep_precision: str) -> Tensor:
        if not torch.is_grad_enabled():
            return a + _closed(gate) * self.compute(p)
        added: Tensor = _SubstitutePass.apply(a, p, gate, self, keep_precision, self.weight, self.bias)
        return added

    def features(self, p: Tensor) -> Tensor:
        """[z, n]: (B, G*G, 2 C)."""
        z = (p - self.adaptor.mean) / self.adaptor.std
        n = F.avg_pool2d(self._image(z), 3, 1, 1, count_include_pad=False)
        return torch.cat([z, n.permute(0, 2, 3, 1).flatten(1, 2)], 2)

    def compute(self, p: Tensor) -> Tensor:
        """c (B, C', G, G)."""
        return self._image(self.scale * F.linear(self.features(p), self.weight, self.bias))

    def pull_back(self, d: Tensor) -> Tensor:
        """The transpose of ``features``: (B, G*G, 2 C) -> (B, G*G, C)."""
        d_z, d_n = d.chunk(2, 2)
        cells = F.avg_pool2d(d.new_ones(1, 1, self.side, self.side), 3, 1, 1)  # averaged by each, as a share of 9
        spread = F.avg_pool2d(self._image(d_n) / cells, 3, 1, 1)
        return (d_z + spread.permute(0, 2, 3, 1).flatten(1, 2)) / self.adaptor.std

    def _image(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)

    def domain_tensors(self) -> dict[str, Tensor]:
        """What a bundle stores: here (C', C) for z, around (C', C) for n, bias (C',); all but p itself folded in."""
        mean, std = self.adaptor.mean.repeat(2), self.adaptor.std.repeat(2)
        weight = self.weight / std
        bias = self.bias - weight @ mean
        here, around = (self.scale * weight).detach().chunk(2, 1)
        return {"here": here, "around": around, "bias": (self.scale * bias).detach()}

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The reverse, after the adaptor's own: its normalisation is the identity then."""
        with torch.no_grad():
            self.weight.copy_(torch.cat([tensors["here"], tensors["around"]], 1) / self.scale)
            self.bias.copy_(tensors["bias"] / self.scale)


class Fit:
    """Ridge regression of one substitute: sums over batches, then its weights. Keeps (2 C + 1)^2 numbers."""

    def __init__(self, substitute: Substitute):
        self.substitute = substitute
        self.inner: Tensor | float = 0.0
        self.outer: Tensor | float = 0.0
        self.count = 0

    def add(self, p: Tensor, branch: Tensor) -> None:
        """p (B, G*G, C) and the cell means of F(x), (B, G*G, C')."""
        u = F.pad(self.substitute.features(p), (0, 1), value=1.0).flatten(0, 1).double()
        self.inner = self.inner + u.T @ u
        self.outer = self.outer + u.T @ (branch / self.substitute.scale).flatten(0, 1).double()
        self.count += len(u)

    def solve(self) -> None:
        assert isinstance(self.inner, Tensor) and isinstance(self.outer, Tensor)
        penalty = torch.full_like(self.inner[0], RIDGE * self.count)
        penalty[-1] = 0  # none on the bias
        found = torch.linalg.solve(self.inner + penalty.diag(), self.outer)
        with torch.no_grad():
            self.substitute.weight.copy_(found[:-1].T)
            self.substitute.bias.copy_(found[-1])


def _closed(gate: Tensor) -> Tensor:
    """1 where the gate is 0: (B,) -> (B, 1, 1, 1)."""
    return (1 - gate)[:, None, None, None]


class _SubstitutePass(torch.autograd.Function):
    """a + (1 - g) c, keeping p alone. With rows of G*G cells and d = ``scale`` dL/da:

    dW = ((1 - g) d)^T [z, n]      db = sum of (1 - g) d      dg = -g <d, c / scale>      dp = [z, n]^T ((1 - g) d W)
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, p: Tensor, gate: Tensor, substitute: Substitute, precision: str, *_: Tensor
    ) -> Tensor:
        ctx.kept, ctx.dtype, ctx.substitute, ctx.gate = Kept(p, precision), p.dtype, substitute, gate.detach()
        return a + _closed(gate) * substitute.compute(p)

    @staticmethod
    def backward(ctx: Any, d_added: Tensor) -> tuple[Tensor | None, ...]:
        substitute, gate = ctx.substitute, ctx.gate
        _, needs_p, needs_gate = ctx.needs_input_grad[:3]
        d = substitute.scale * d_added.permute(0, 2, 3, 1).flatten(1, 2)  # (B, G*G, C')
        u = substitute.features(ctx.kept.restore(ctx.dtype))
        d_gate = None
        if needs_gate:
            d_gate = -gate * (d * F.linear(u, substitute.weight, substitute.bias)).sum((1, 2))
        d = d * (1 - gate)[:, None, None]
        d_weight = d.flatten(0, 1).T @ u.flatten(0, 1)
        d_p = substitute.pull_back(d @ substitute.weight) if needs_p else None
        return d_added, d_p, d_gate, None, None, d_weight, d.sum((0, 1))
