"""The network of one domain: a frozen backbone, its adaptors and gates, and a classifier head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from da3.runtime.records import Block
from da3.runtime.schedule.decisions import opens
from da3.runtime.schedule.flops import saved_shares
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.backbones import Backbone
from da3.toolchain.network.adaptor import Adaptor, AdaptorSpec, grid_side
from da3.toolchain.network.bypass import LowRankBypass
from da3.toolchain.network.memory_settings import MemorySettings, images_a_slice


@dataclass(frozen=True)
class Output:
    """logits (B, classes); ``share`` (B,) of block FLOPs run; gates (B, blocks) of 0/1 (1 where none is)."""

    logits: Tensor
    share: Tensor
    gates: Tensor

    @classmethod
    def ungated(cls, logits: Tensor, blocks: int) -> Output:
        """Every block ran for every sample."""
        return cls(logits, logits.new_ones(len(logits)), logits.new_ones(len(logits), blocks))


class Head(nn.Module):
    """Linear classifier on features normalised by fixed statistics. (B, F) -> (B, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.weight = nn.Parameter(torch.zeros(classes, features))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) @ (self.weight / self.std).T + self.bias

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Fix what features are normalised by: mean and std (F,)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def fit_normalisation(self, features: Tensor) -> None:
        """Measure the statistics on features (N, F)."""
        features = features.double()
        self.set_statistics(*_statistics(features.mean(0), features.square().mean(0)))

    def domain_tensors(self) -> dict[str, Tensor]:
        """What a bundle stores of the head: mean (F,), weight (classes, F) with std folded in, bias (classes,).

        The mean stays apart: folded into the bias it would cancel against large features and lose digits.
        """
        return {"mean": self.mean, "weight": (self.weight / self.std).detach(), "bias": self.bias.detach()}

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The reverse: afterwards std is 1, since it is folded already."""
        self.set_statistics(tensors["mean"], torch.ones_like(self.std))
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])
            self.bias.copy_(tensors["bias"])


def _statistics(mean: Tensor, mean_square: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) to normalise by.

    A channel that hardly varies on the training photos would be blown up by whatever moves it later: its deviation
    is taken as no less than 5 % of the typical channel's, and 2 % of the layer's root mean square.
    """
    std = (mean_square - mean.square()).clamp_min(0).sqrt()
    floor = max(0.05 * float(std.median()), 0.02 * float(mean_square.mean().sqrt()), 1e-6)
    return mean, std.clamp_min(floor)


class _Round(torch.autograd.Function):
    """Straight-through: ``soft`` becomes ``hard``, and the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.to(soft.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class DomainModel(nn.Module):
    """Image (B, 3, S, S) -> Output. Only adaptors, gates and head have parameters; the backbone has buffers.

    ``gating``: "off" runs every block; "sampled" draws gates with the Gumbel-sigmoid trick, its noise scaled by
    ``noise``, and passes gradients straight through (training); "hard" thresholds logits at ``theta`` (deployment).
    """

    adaptors: nn.ModuleDict  # by block index; see adaptor()
    substitutes: nn.ModuleDict  # by block index, of gateable blocks where adaptors are as wide as their input
    branch_share: Tensor  # (blocks,) of the block FLOPs, saved where the block does not run
    running_share: Tensor  # scalar: of block FLOPs run by recent training batches

    def __init__(
        self,
        backbone: Backbone,
        spec: AdaptorSpec,
        size: int,
        classes: int,
        gated: bool,
        lean: MemorySettings = MemorySettings(),  # noqa: B008 (immutable)
    ):
        """``gated``: gates are trained; otherwise they are there, open and frozen, so that the graphs are the same."""
        super().__init__()
        self.backbone, self.spec, self.size, self.lean = backbone, spec, size, lean
        flops = backbone.block_flops(size)
        self.gateable = tuple(g and i > spec.first for i, g in enumerate(backbone.gateable))
        self.adaptors, self.substitutes = nn.ModuleDict(), nn.ModuleDict()
        for i, (block, f) in enumerate(zip(backbone.blocks, flops, strict=True)):
            if i >= spec.first:
                mid = max(8, min(block.in_channels, spec.mid))
                next_gated = i + 1 < len(flops) and self.gateable[i + 1]
                side = grid_side(f.out_height, spec.grid)
                self.adaptors[str(i)] = Adaptor(block.in_channels, block.out_channels, mid, side, next_gated)
                # Elsewhere they would be larger than the rest of a domain, or have an activation to see past.
                if self.gateable[i] and mid == block.in_channels and block.activation is None:
                    self.substitutes[str(i)] = LowRankBypass(self.adaptor(i))
        self.head = Head(backbone.feature_size, classes)
        saved = torch.tensor(saved_shares(self.block_records()).tolist())
        self.register_buffer("branch_share", saved, persistent=False)
        self.register_buffer("running_share", torch.ones(()))
        for name, parameter in self.named_parameters():
            if name.endswith((".gate", ".gate_bias")) or name.startswith("substitutes."):
                parameter.requires_grad_(gated)
        self.gated = gated
        self.gating = "off"
        self.theta = 0.0
        self.noise = 1.0
        self.forced: Tensor | None = None  # (B, blocks) of 0 and 1: sampled gates become these, for benchmarks

    @property
    def least_share(self) -> float:
        """Share of block FLOPs that run when every gate is closed."""
        shares = self.branch_share.tolist()
        return 1.0 - sum(s for s, g in zip(shares, self.gateable, strict=True) if g)

    def adaptor(self, block: int) -> Adaptor | None:
        """That of the block of this index; None before the first."""
        return self.adaptors[str(block)] if block >= self.spec.first else None  # type: ignore[return-value]

    def substitute(self, block: int) -> LowRankBypass | None:
        """That of the block of this index; None where it has none."""
        return self.substitutes[str(block)] if str(block) in self.substitutes else None  # type: ignore[return-value]  # noqa: SIM401 (no get)

    def bypass_flops(self, block: int) -> int:
        """Operations that stand in for the branch of this block, for an image it is skipped for."""
        substitute = self.substitute(block)
        return 0 if substitute is None else substitute.flops

    def block_records(self) -> list[Block]:
        """The backbone's blocks as a bundle's manifest has them."""
        flops = self.backbone.block_flops(self.size)
        return [
            Block(b.name, f.branch + f.shortcut, f.shortcut + self.bypass_flops(i) if gateable else None)
            for i, (b, f, gateable) in enumerate(zip(self.backbone.blocks, flops, self.gateable, strict=True))
        ]

    @property
    def slice_size(self) -> int:
        """Images a slice of what is trained, unless told otherwise."""
        return self._images(1, self.spec.first)

    @cached_property
    def _front_size(self) -> int:
        return self._images(2, 0, self.spec.first)

    def _images(self, caution: int, first: int, end: int | None = None) -> int:
        """Images to run at once through the blocks from ``first`` to before ``end``."""
        elements = caution * self.backbone.largest_activation(self.size, first, end)
        flops = sum(f.branch + f.shortcut for f in self.backbone.block_flops(self.size))
        return images_a_slice(elements * self.backbone.dtype.itemsize, flops, self.branch_share.device.type)

    def forward(self, image: Tensor, values: dict[str, Tensor] | None = None, draws: Tensor | None = None) -> Output:
        """``values``, if given, receives every intermediate by its name in a bundle's plan (x0, a0, g1, ...).

        ``draws`` (B, blocks), uniform in 0..1, is the randomness of sampled gates; drawn here if not given.
        """

        def note(**found: Tensor | None) -> None:
            if values is not None:
                values.update({name: value for name, value in found.items() if value is not None})

        if values is None:
            x = torch.cat([self.front(part, note) for part in image.split(self._front_size)])
        else:
            x = self.front(image, note)
        everyone = self.branch_share.new_ones(len(x))
        gates = [everyone] * self.spec.first
        logit: Tensor | None = None
        if draws is None and self.gating == "sampled":
            draws = torch.rand(len(x), len(self.backbone.blocks), device=x.device)
        for i in range(self.spec.first, len(self.backbone.blocks)):
            gate = None
            if logit is not None and self.gating != "off":
                gate = self.decide(logit, None if draws is None else draws[:, i], i)
            x, a, logit = self.run(i, x, gate)
            gates.append(everyone if gate is None else gate)
            note(**{f"a{i}": a, f"g{i + 1}": logit, f"x{i + 1}": x})
        features = self.backbone.tail(x)
        logits = self.head(features)
        note(features=features, logits=logits)
        stacked = torch.stack(gates, 1)  # (B, blocks)
        return Output(logits, 1.0 - (1.0 - stacked) @ self.branch_share, stacked)

    def run(self, i: int, x: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Block i on x (B, C, H, H) -> its output, its adaptor's a, and the logit of the gate after ``gate`` (B,)."""
        x, p, a, logit = self.adaptor(i)(x, self.lean.keep_precision)
        added, substitute = a, self.substitute(i)
        if gate is not None and substitute is not None and (gate.requires_grad or not bool(gate.all())):
            added = substitute(a, p, gate, self.lean.keep_precision)
        skip_path = self.lean.gradient == "skip-path"
        return run_block(self.backbone.blocks[i], x, added, gate, skip_path, self.lean.keep_precision), a, logit

    @torch.no_grad()
    def front(self, image: Tensor, note: Callable[..., None] = lambda **_: None) -> Tensor:
        """Image (B, 3, S, S) -> what the first adaptor reads. Nothing here is trained, so nothing is kept."""
        x = self.backbone.stem(image.to(self.backbone.dtype))
        note(image=image, x0=x)
        for i in range(self.spec.first):
            x = run_block(self.backbone.blocks[i], x)
            note(**{f"x{i + 1}": x})
        return x

    def decide(self, logit: Tensor, draw: Tensor | None, block: int) -> Tensor:
        """Gate logits (B,) of ``block``, and uniform draws (B,) for sampling -> gates (B,) of 0 and 1."""
        if self.gating == "hard" or draw is None:
            return opens(logit, self.theta).to(logit.dtype)
        # Logistic noise makes sigmoid(logit + noise) a relaxed Bernoulli sample (Maddison et al. 2017,
        # arXiv 1611.00712); forward uses its rounding, backward its slope.
        soft = torch.sigmoid(logit + self.noise * torch.logit(draw.clamp(1e-6, 1 - 1e-6)))
        return _Round.apply(soft, (soft > 0.5).to(soft.dtype) if self.forced is None else self.forced[:, block])

    @torch.no_grad()
    def fit_normalisation(self, batches: Iterable[Tensor]) -> None:
        """Set each adaptor's and the head's fixed statistics from the frozen network's activations."""
        blocks = self.backbone.blocks
        widths = [*(b.in_channels for b in blocks), blocks[-1].out_channels, len(self.head.mean)]
        sums = [torch.zeros(2, width, dtype=torch.float64) for width in widths]
        counts = [0] * len(widths)

        def add(i: int, values: Tensor) -> None:  # (N, C)
            values = values.double().cpu()
            sums[i] += torch.stack([values.sum(0), values.square().sum(0)])
            counts[i] += len(values)

        def add_cells(i: int, x: Tensor, at: int) -> None:
            adaptor = self.adaptor(at)
            if adaptor is not None:
                add(i, cell_means(x, adaptor.side).flatten(0, 1))

        for image in batches:
            x = self.backbone.stem(image.to(self.backbone.dtype))
            for i, block in enumerate(blocks):
                add_cells(i, x, i)
                x = run_block(block, x)
            add_cells(len(blocks), x, len(blocks) - 1)
            add(len(blocks) + 1, self.backbone.tail(x))
        found = {i: _statistics(*(sums[i] / n)) for i, n in enumerate(counts) if n}
        for i in range(self.spec.first, len(blocks)):
            self.adaptor(i).set_statistics(*found[i], out_scale=float(found[i + 1][1].median()))
        self.head.set_statistics(*found[len(blocks) + 1])

    def domain_tensors(self) -> dict[str, Tensor]:
        """Every tensor a bundle stores for this domain, by the plan's name (``adaptors.3.down``, ``head.bias``)."""
        tensors = {f"head.{k}": v for k, v in self.head.domain_tensors().items()}
        for i, adaptor in self.adaptors.items():
            tensors |= {f"adaptors.{i}.{k}": v for k, v in adaptor.domain_tensors().items()}
        if self.gated:
            for i, substitute in self.substitutes.items():
                tensors |= {f"substitutes.{i}.{k}": v for k, v in substitute.domain_tensors().items()}
        return tensors

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Become exactly the network that a bundle with these tensors holds."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.head.load_domain_tensors(part("head."))
        for i, adaptor in self.adaptors.items():
            adaptor.load_domain_tensors(part(f"adaptors.{i}."))
        for i, substitute in self.substitutes.items():
            found = part(f"substitutes.{i}.")
            if found:
                substitute.load_domain_tensors(found)
