"""The additive adaptor: what one domain learns beside a frozen block.

    p = AvgPool(x) to G x G                 z = (p - mean) / std, both fixed before training
    h = ReLU(W_d z + b_d)                   (m channels)
    a = s (W_u h + b_u)                     W_u = 0 at the start, so training starts at the pretrained network

After Dynamic Additive Attention Adaption (Yang, Rakin, Fan; arXiv 2012.01362); the equations are this project's own.
mean, std and s (the typical deviation of the block's output) are measured once, before training. A step of the
optimiser then means the same in every block of every backbone, and samples stay independent of their batch. Export
folds all three into the matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.runtime.training.randomness import initial_down
from da3.toolchain.autograd.frozen import PooledInput, cell_means
from da3.toolchain.autograd.saved import SavedTensor


def grid_side(height: int, most: int) -> int:
    """Cells a side for an output of ``height``: the largest divisor of it that is at most ``most``.

    Where that would leave less than half of ``most`` (a prime height such as 11), the smallest larger divisor.
    """
    divisors = [d for d in range(1, height + 1) if height % d == 0]
    small = max(d for d in divisors if d <= most)
    if 2 * small >= min(most, height):
        return small
    return min(d for d in divisors if d > most)


class AdaptorOutput(NamedTuple):
    """What an adaptor makes of x, without x itself: its cell means p (B, G*G, C); a (B, C', G, G); and p as it is kept
    for the backward pass, for all that reads p (None without gradients).
    """

    p: Tensor
    a: Tensor
    saved: SavedTensor | None


class _AdaptorPass(torch.autograd.Function):
    """``Adaptor.compute`` with the p that was saved. With rows of B*G*G cells:

    z = (p - mean) / std      u = z W_d^T + b_d      h = ReLU(u)              a = s (h W_u^T + b_u)
    dW_u = s da^T h           dh = s da W_u          du = dh where u > 0      dW_d = du^T z
    dp = du W_d / std
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, adaptor: Adaptor, saved: SavedTensor, *parameters: Tensor) -> Tensor:
        ctx.saved, ctx.adaptor, ctx.dtype, ctx.shape = saved, adaptor, p.dtype, p.shape
        return adaptor.compute(p)

    @staticmethod
    def backward(ctx: Any, d_a: Tensor) -> tuple[Tensor | None, ...]:
        adaptor: Adaptor = ctx.adaptor
        channels = ctx.shape[2]
        z = adaptor.normalise(ctx.saved.restore(ctx.dtype)).reshape(-1, channels)
        h = torch.addmm(adaptor.down_bias, z, adaptor.down.T).relu_()  # (B*G*G, m)
        d = adaptor.out_scale * d_a.permute(0, 2, 3, 1).reshape(-1, adaptor.cout)
        grads = {"up": d.T @ h, "up_bias": d.sum(0)}
        d_u = torch.ops.aten.threshold_backward(d @ adaptor.up, h, 0)  # that of ReLU
        grads |= {"down": d_u.T @ z, "down_bias": d_u.sum(0)}
        d_p = (d_u @ (adaptor.down / adaptor.std)).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return d_p, None, None, *(grads.get(name) for name, _ in adaptor.named_parameters())


class Adaptor(nn.Module):
    """x (B, C, H, H) -> a (B, C', G, G).

    ``mid`` is m, ``side`` is G; ``cin`` and ``cout`` are the block's C and C'.
    """

    mean: Tensor
    std: Tensor
    out_scale: Tensor

    def __init__(self, *, cin: int, cout: int, mid: int, side: int, seed: int = 0, block: int = 0):
        """``seed`` and the index of the ``block`` decide what W_d starts from."""
        super().__init__()
        self.cin, self.cout, self.mid, self.side = cin, cout, mid, side
        self.register_buffer("mean", torch.zeros(cin))
        self.register_buffer("std", torch.ones(cin))
        self.register_buffer("out_scale", torch.ones(()))
        self.down = nn.Parameter(torch.from_numpy(initial_down(seed, block, mid, cin)))
        self.down_bias = nn.Parameter(torch.zeros(mid))
        self.up = nn.Parameter(torch.zeros(cout, mid))
        self.up_bias = nn.Parameter(torch.zeros(cout))

    def set_statistics(self, mean: Tensor, std: Tensor, out_scale: float) -> None:
        """Fix the normalisation: mean and std (C,) of the pooled input, out_scale of the block's output."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.out_scale.fill_(out_scale)

    def forward(self, x: Tensor, saved_precision: str = "fp32") -> tuple[Tensor, AdaptorOutput]:
        """x (B, C, H, H) -> x, to be read by the block, and what is made of it.

        Whatever gradient flows into the returned x, p and a comes out at the given x.

        Between forward and backward only p is saved, at ``saved_precision``; h is computed again from it.
        """
        if not torch.is_grad_enabled():
            p = cell_means(x, self.side)
            return x, AdaptorOutput(p, self.compute(p), None)
        x, p = PooledInput.apply(x, self.side)  # type: ignore[no-untyped-call]
        saved = SavedTensor(p.detach(), saved_precision)
        a = _AdaptorPass.apply(p, self, saved, *self.parameters())  # type: ignore[no-untyped-call]
        return x, AdaptorOutput(p, a, saved)

    def compute(self, p: Tensor) -> Tensor:
        """The formulas above: p (B, G*G, C) -> a (B, C', G, G)."""
        h = F.relu(F.linear(self.normalise(p), self.down, self.down_bias))  # (B, G*G, m)
        a = self.out_scale * F.linear(h, self.up, self.up_bias)  # (B, G*G, C')
        return a.view(len(a), self.side, self.side, self.cout).permute(0, 3, 1, 2)

    def normalise(self, p: Tensor) -> Tensor:
        """z."""
        return (p - self.mean) / self.std

    def folded(self, down: Tensor, down_bias: Tensor) -> tuple[Tensor, Tensor]:
        """A map of z, (m, C) and (m,), as one of p: with the fixed normalisation folded in."""
        weight = down / self.std
        return weight, down_bias - weight @ self.mean

    def domain_tensors(self) -> dict[str, Tensor]:
        """What a bundle stores of this adaptor, by short name.

        down (m, C), down_bias (m,), up (C', m), up_bias (C',).
        """
        weight, bias = self.folded(self.down, self.down_bias)
        up, up_bias = self.out_scale * self.up, self.out_scale * self.up_bias
        tensors = {"down": weight, "down_bias": bias, "up": up, "up_bias": up_bias}
        return {k: v.detach() for k, v in tensors.items()}

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The reverse: afterwards the normalisation is the identity, since it is folded already."""
        self.set_statistics(torch.zeros(self.cin), torch.ones(self.cin), 1.0)
        with torch.no_grad():
            for name, value in tensors.items():
                getattr(self, name).copy_(value)
