"""The network of one domain: a frozen backbone, its adaptors and gates, and a classifier head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from da3.runtime.records import Block
from da3.runtime.schedule import opens, saved_shares
from da3.runtime.training import AdaptorSpec, MemorySettings
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.backbones.split import Backbone
from da3.toolchain.network.adaptor import Adaptor, AdaptorOutput, grid_side
from da3.toolchain.network.bypass import LowRankBypass
from da3.toolchain.network.gating import Gating
from da3.toolchain.network.head import Head, statistics
from da3.toolchain.network.slicing import images_a_slice


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

    @classmethod
    def joined(cls, outputs: Sequence[Output]) -> Output:
        """One output of the samples of several, in order."""
        return cls(
            torch.cat([o.logits for o in outputs]),
            torch.cat([o.share for o in outputs]),
            torch.cat([o.gates for o in outputs]),
        )


class BlockOutput(NamedTuple):
    """What a block and its adaptor make: y (B, C', H', W'); a (B, C', G, G), what the adaptor added; and the logit (B,)
    of the next block's gate, None where that has none.
    """

    y: Tensor
    a: Tensor
    logit: Tensor | None


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

    ``gating`` says how gates decide now. ``gated`` and ``theta`` are the domain's: whether its gates are trained, and
    the logit above which a block runs.
    """

    adaptors: MutableMapping[str, Adaptor]  # an nn.ModuleDict, by block index; see adaptor()
    # Bypasses by block index, of gateable blocks where adaptors are as wide as their input; an nn.ModuleDict. Its name
    # is the one that checkpoints and bundles store its tensors by.
    substitutes: MutableMapping[str, LowRankBypass]
    branch_share: Tensor  # (blocks,) of the block FLOPs, saved where the block does not run
    running_share: Tensor  # scalar: of block FLOPs run by recent training batches

    def __init__(
        self,
        backbone: Backbone,
        spec: AdaptorSpec,
        *,
        size: int,
        classes: int,
        gated: bool,
        memory: MemorySettings = MemorySettings(),  # noqa: B008 (immutable)
        seed: int = 0,
    ):
        """Where ``gated`` is off, gates are there all the same, open and frozen, so that the graphs do not differ.

        ``seed`` decides what the adaptors start from.
        """
        super().__init__()
        self.backbone, self.spec, self.size, self.memory = backbone, spec, size, memory
        self.gated, self.theta, self.gating = gated, 0.0, Gating.off()
        flops, heights = backbone.block_flops(size), backbone.heights(size)
        self.gateable = tuple(g and i > spec.first for i, g in enumerate(backbone.gateable))
        self.adaptors = nn.ModuleDict()  # type: ignore[assignment]
        self.substitutes = nn.ModuleDict()  # type: ignore[assignment]
        for i, block in list(enumerate(backbone.blocks))[spec.first :]:
            mid = max(8, min(block.in_channels, spec.mid))
            adaptor = Adaptor(
                cin=block.in_channels,
                cout=block.out_channels,
                mid=mid,
                side=grid_side(heights[i + 1], spec.grid),
                gated=i + 1 < len(flops) and self.gateable[i + 1],
                seed=seed,
                block=i,
            )
            self.adaptors[str(i)] = adaptor
            # Elsewhere a bypass would be larger than the rest of a domain, or have an activation to see past.
            if self.gateable[i] and mid == block.in_channels and block.activation is None:
                self.substitutes[str(i)] = LowRankBypass(adaptor)
        self.head = Head(backbone.feature_size, classes)
        saved = torch.tensor(saved_shares(self.block_records()).tolist())
        self.register_buffer("branch_share", saved, persistent=False)
        self.register_buffer("running_share", torch.ones(()))
        for name, parameter in self.named_parameters():
            if name.endswith((".gate", ".gate_bias")) or name.startswith("substitutes."):
                parameter.requires_grad_(gated)

    @property
    def least_share(self) -> float:
        """Share of block FLOPs that run when every gate is closed."""
        shares: list[float] = self.branch_share.tolist()
        return 1.0 - sum(s for s, g in zip(shares, self.gateable, strict=True) if g)

    def adaptor(self, block: int) -> Adaptor | None:
        """That of the block of this index; None before the first."""
        return self.adaptors[str(block)] if block >= self.spec.first else None

    def bypass(self, block: int) -> LowRankBypass | None:
        """That of the block of this index; None where it has none."""
        return self.substitutes[str(block)] if str(block) in self.substitutes else None  # noqa: SIM401 (no get)

    def bypass_flops(self, block: int) -> int:
        """Operations that the bypass of this block costs an image it is skipped for."""
        bypass = self.bypass(block)
        return 0 if bypass is None else bypass.flops

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
    def _untrained_slice_size(self) -> int:
        return self._images(2, 0, self.spec.first)

    def _images(self, caution: int, first: int, end: int | None = None) -> int:
        """Images to run at once through the blocks from ``first`` to before ``end``."""
        elements = caution * self.backbone.largest_activation(self.size, first, end)
        flops = sum(f.total for f in self.backbone.block_flops(self.size))
        return images_a_slice(elements * self.backbone.dtype.itemsize, flops, self.branch_share.device.type)

    def forward(self, image: Tensor, values: dict[str, Tensor] | None = None, draws: Tensor | None = None) -> Output:
        """``values``, if given, receives every intermediate by its name in a bundle's plan (x0, a0, g1, ...).

        ``draws`` (B, blocks), uniform in 0..1, is the randomness of sampled gates; drawn here if not given.
        """

        def note(**found: Tensor | None) -> None:
            if values is not None:
                values.update({name: value for name, value in found.items() if value is not None})

        if values is None:
            slices = torch.split(image, self._untrained_slice_size)
            x = torch.cat([self.run_to_first_adaptor(images, note) for images in slices])
        else:
            x = self.run_to_first_adaptor(image, note)
        everyone = self.branch_share.new_ones(len(x))
        gates = [everyone] * self.spec.first
        logit: Tensor | None = None
        if draws is None and self.gating.mode == "sampled":
            draws = torch.rand(len(x), len(self.backbone.blocks), device=x.device)
        for i in range(self.spec.first, len(self.backbone.blocks)):
            gate = None
            if logit is not None and self.gating.mode != "off":
                gate = self.decide(logit, None if draws is None else draws[:, i])
            x, a, logit = self.run(i, x, gate)
            gates.append(everyone if gate is None else gate)
            note(**{f"a{i}": a, f"g{i + 1}": logit, f"x{i + 1}": x})
        features = self.backbone.tail(x)
        logits = self.head(features)
        note(features=features, logits=logits)
        stacked = torch.stack(gates, 1)  # (B, blocks)
        return Output(logits, 1.0 - (1.0 - stacked) @ self.branch_share, stacked)

    def run(self, i: int, x: Tensor, gate: Tensor | None) -> BlockOutput:
        """Block i with its adaptor and bypass on x (B, C, H, H); ``gate`` (B,) of 0 and 1, or None for "run it"."""
        precision = self.memory.keep_precision
        adapted: AdaptorOutput = self.adaptors[str(i)](x, precision)
        added, bypass = adapted.a, self.bypass(i)
        if gate is not None and bypass is not None and (gate.requires_grad or not bool(gate.all())):
            added = bypass(adapted.a, adapted.p, gate, precision)
        skip_path = self.memory.gradient == "skip-path"
        block = self.backbone.blocks[i]
        y = run_block(block, adapted.x, added, gate, skip_path=skip_path, saved_precision=precision)
        return BlockOutput(y, adapted.a, adapted.logit)

    @torch.no_grad()
    def run_to_first_adaptor(self, image: Tensor, note: Callable[..., None] = lambda **_: None) -> Tensor:
        """Image (B, 3, S, S) -> what the first adaptor reads. Nothing on the way is trained, so nothing is saved."""
        x: Tensor = self.backbone.stem(image.to(self.backbone.dtype))
        note(image=image, x0=x)
        for i in range(self.spec.first):
            x = run_block(self.backbone.blocks[i], x)
            note(**{f"x{i + 1}": x})
        return x

    def decide(self, logit: Tensor, draw: Tensor | None) -> Tensor:
        """Gate logits (B,) of a block, and uniform draws (B,) for sampling -> gates (B,) of 0 and 1."""
        if self.gating.mode == "hard" or draw is None:
            hard: Tensor = opens(logit, self.theta).to(logit.dtype)
            return hard
        # Logistic noise makes sigmoid(logit + noise) a relaxed Bernoulli sample (Maddison et al. 2017,
        # arXiv 1611.00712); forward uses its rounding, backward its slope.
        soft = torch.sigmoid(logit + self.gating.noise * torch.logit(draw.clamp(1e-6, 1 - 1e-6)))
        gate: Tensor = _Round.apply(soft, soft > 0.5)  # type: ignore[no-untyped-call]
        return gate

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
        found = {i: statistics(*(sums[i] / n)) for i, n in enumerate(counts) if n}
        for i in range(self.spec.first, len(blocks)):
            self.adaptors[str(i)].set_statistics(*found[i], out_scale=float(found[i + 1][1].median()))
        self.head.set_statistics(*found[len(blocks) + 1])

    def domain_tensors(self) -> dict[str, Tensor]:
        """Every tensor a bundle stores for this domain, by the plan's name (``adaptors.3.down``, ``head.bias``)."""
        tensors = {f"head.{k}": v for k, v in self.head.domain_tensors().items()}
        for i, adaptor in self.adaptors.items():
            tensors |= {f"adaptors.{i}.{k}": v for k, v in adaptor.domain_tensors().items()}
        if self.gated:
            for i, bypass in self.substitutes.items():
                tensors |= {f"substitutes.{i}.{k}": v for k, v in bypass.domain_tensors().items()}
        return tensors

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Become exactly the network that a bundle with these tensors holds."""

        def below(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.head.load_domain_tensors(below("head."))
        for i, adaptor in self.adaptors.items():
            adaptor.load_domain_tensors(below(f"adaptors.{i}."))
        for i, bypass in self.substitutes.items():
            found = below(f"substitutes.{i}.")
            if found:
                bypass.load_domain_tensors(found)
