"""The low-rank bypass of a closed block: a linear map of the pooled input and of its neighbourhood's mean.

    z as in the adaptor                     n = mean of z over 3 x 3 cells, those outside left out
    v = W_d [z, n]                          r channels, a quarter of the input's
    c = s (W_u v + b)                       added as repeat(c) in the place of F(x)

The rank is low because one full matrix would cost a sixth of what the block does. A bypass is fitted to the cell means
of F(x) before its block is closed, by reduced-rank ridge regression (Izenman 1975: the full solution, projected onto
the leading principal directions of what it predicts), and then trained with the rest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.toolchain.autograd.saved import SavedTensor
from da3.toolchain.network.adaptor import Adaptor, AdaptorOutput
from da3.toolchain.network.neighbourhood import from_neighbours, with_neighbours
from da3.toolchain.network.totals import Total, own_total

RIDGE = 0.03  # of a normalised channel's variance
STEP = 0.2  # W_d, W_u and b are this times their parameters, so that a step of the optimiser does not undo the fit


class LowRankBypass(nn.Module):
    """a (B, C', G, G), pooled input p (B, G*G, C) -> a + c.

    ``adaptor`` is the same block's: its fixed statistics are used.
    """

    def __init__(self, adaptor: Adaptor):
        super().__init__()
        self.side, self.rank = adaptor.side, max(1, adaptor.cin // 4)
        self._adaptor = (adaptor,)  # not a submodule: its tensors are stored with the adaptor
        self.down = nn.Parameter(torch.zeros(self.rank, 2 * adaptor.cin))
        self.up = nn.Parameter(torch.zeros(adaptor.cout, self.rank))
        self.up_bias = nn.Parameter(torch.zeros(adaptor.cout))

    @property
    def adaptor(self) -> Adaptor:
        return self._adaptor[0]

    @property
    def flops(self) -> int:
        """Operations for one image, 2 a multiply-add."""
        return 2 * self.side**2 * (self.down.numel() + self.up.numel())

    @property
    def scale(self) -> Tensor:
        """The unit of W_u's and b's parameters: W_u's are multiplied by it, s included."""
        return STEP * self.adaptor.out_scale

    def forward(self, adapted: AdaptorOutput) -> Tensor:
        if adapted.saved is None:
            return adapted.a + self.compute(adapted.p)
        added: Tensor = _BypassPass.apply(adapted.a, adapted.p, self, adapted.saved, *self.parameters())  # type: ignore[no-untyped-call]
        return added

    def features(self, p: Tensor) -> Tensor:
        """[z, n]: (B, G*G, 2 C)."""
        return with_neighbours(self.adaptor.normalise(p), self.side)

    def squeeze(self, features: Tensor) -> Tensor:
        """v (B, G*G, r)."""
        return STEP * F.linear(features, self.down)

    def compute(self, p: Tensor) -> Tensor:
        """c (B, C', G, G)."""
        return self._image(self.scale * F.linear(self.squeeze(self.features(p)), self.up, self.up_bias))

    def pull_back(self, d: Tensor) -> Tensor:
        """The transpose of ``features``: (B, G*G, 2 C) -> (B, G*G, C)."""
        return from_neighbours(d, self.side) / self.adaptor.std

    def _image(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), self.side, self.side, rows.shape[2]).permute(0, 3, 1, 2)

    def set_maps(self, down: Tensor, up: Tensor, up_bias: Tensor) -> None:
        """Take these as W_d (r, 2 C), s W_u (C', r) and s b (C',)."""
        with torch.no_grad():
            self.down.copy_(down / STEP)
            self.up.copy_(up / self.scale)
            self.up_bias.copy_(up_bias / self.scale)

    def domain_tensors(self) -> dict[str, Tensor]:
        """What a bundle stores, normalisation and scale folded in.

        down (r, C) for p, around (r, C) for its neighbourhood's mean, down_bias (r,), up (C', r), up_bias (C',).
        """
        weight = STEP * self.down / self.adaptor.std.repeat(2)
        down, around = weight.chunk(2, 1)
        tensors = {"down": down, "around": around, "down_bias": -weight @ self.adaptor.mean.repeat(2)}
        tensors |= {"up": self.scale * self.up, "up_bias": self.scale * self.up_bias}
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The reverse, after the adaptor's own: its normalisation is the identity then."""
        down = torch.cat([tensors["down"], tensors["around"]], 1)
        self.set_maps(down, tensors["up"], tensors["up_bias"] + tensors["up"] @ tensors["down_bias"])


class Fit:
    """The regression of one bypass: sums over batches, then its maps. Holds (2 C + 1) (2 C + 1 + C') numbers."""

    def __init__(self, bypass: LowRankBypass):
        self.bypass = bypass
        adaptor = bypass.adaptor
        device = bypass.down.device
        self.inner = torch.zeros((2 * adaptor.cin + 1,) * 2, dtype=torch.float64, device=device)
        self.outer = torch.zeros(2 * adaptor.cin + 1, adaptor.cout, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, p: Tensor, branch: Tensor) -> None:
        """Take in p (B, G*G, C) and the cell means of F(x), (B, G*G, C')."""
        u = F.pad(self.bypass.features(p), (0, 1), value=1.0).flatten(0, 1).double()
        self.inner = self.inner + u.T @ u
        self.outer = self.outer + u.T @ branch.flatten(0, 1).double()
        self.count += len(u)

    def solve(self, total: Total = own_total) -> None:
        """Give the bypass the best maps of its rank for what was added, here and in other processes."""
        inner, outer, count = total([self.inner, self.outer, self.inner.new_tensor(self.count)])
        penalty = inner.new_full((len(inner),), RIDGE) * count
        penalty[-1] = 0  # none on the bias
        full = torch.linalg.solve(inner + penalty.diag(), outer)  # (2 C + 1, C')
        mean = inner[-1] @ full / count  # of the full solution's predictions; the last feature is 1
        spread = full.T @ inner @ full / count - torch.outer(mean, mean)
        leading = torch.linalg.eigh(spread)[1][:, -self.bypass.rank :]  # (C', r), orthonormal
        bias = mean + leading @ (leading.T @ (full[-1] - mean))
        # Scaled like this, W_u's entries are about 1 / sqrt(C') in units of s, and W_d's are of like size.
        size = self.bypass.adaptor.out_scale
        self.bypass.set_maps(leading.T @ full[:-1].T / size, leading * size, bias)


class _BypassPass(torch.autograd.Function):
    """a + c with the p that was saved. With rows of G*G cells, d = s dL/da, and u = [z, n]:

    dW_u = d^T v      db = sum of d      dW_d = (d W_u)^T u      dp = u^T (d W_u W_d)
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, p: Tensor, bypass: LowRankBypass, saved: SavedTensor, *_: Tensor) -> Tensor:
        ctx.saved, ctx.dtype, ctx.bypass = saved, p.dtype, bypass
        return a + bypass.compute(p)

    @staticmethod
    def backward(ctx: Any, d_added: Tensor) -> tuple[Tensor | None, ...]:
        bypass: LowRankBypass = ctx.bypass
        d = bypass.scale * d_added.permute(0, 2, 3, 1).flatten(1, 2)  # (B, G*G, C')
        u = bypass.features(ctx.saved.restore(ctx.dtype))
        v = bypass.squeeze(u)
        d_v = STEP * (d @ bypass.up)
        grads = (d_v.flatten(0, 1).T @ u.flatten(0, 1), d.flatten(0, 1).T @ v.flatten(0, 1), d.sum((0, 1)))
        d_p = bypass.pull_back(d_v @ bypass.down) if ctx.needs_input_grad[1] else None
        return d_added, d_p, None, None, *grads
