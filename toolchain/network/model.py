"""The network of one domain: a frozen backbone, its adaptors, exits and bypasses, and a classifier head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from da3.runtime.records import Block
from da3.runtime.schedule import saved_shares
from da3.runtime.training import AdaptorSpec, MemorySettings
from da3.runtime.training.recipe import CARRY, LAST_CARRY
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.autograd.parts import PART_BYTES
from da3.toolchain.backbones.split import Backbone
from da3.toolchain.network.adaptor import Adaptor, AdaptorOutput, grid_side
from da3.toolchain.network.bypass import LowRankBypass
from da3.toolchain.network.exits import Exit, carried
from da3.toolchain.network.head import Head
from da3.toolchain.network.slicing import SLICE_BYTES
from da3.toolchain.network.statistics import Each, Sums, fixed_statistics, sums_of
from da3.toolchain.network.totals import Total, own_total

Batches = Callable[[], Iterable[Tensor]]  # images (B, 3, S, S), the same ones at every call
Note = Callable[..., None]  # told of intermediates by their names in a bundle's plan


@dataclass(frozen=True)
class Output:
    """logits (B, classes) of the last answer, and of each of the ``exits`` before; ``share`` of the block FLOPs that
    the last answer took."""

    logits: Tensor
    exits: tuple[Tensor, ...] = ()
    share: float = 1.0

    @property
    def answers(self) -> Tensor:
        """(B, exits + 1, classes): every exit's logits, then those of the last answer."""
        return torch.stack([*self.exits, self.logits], 1)

    @classmethod
    def joined(cls, outputs: Sequence[Output]) -> Output:
        """One output of the samples of several, in order."""
        exits = tuple(torch.cat(found) for found in zip(*(o.exits for o in outputs), strict=True))
        return cls(torch.cat([o.logits for o in outputs]), exits, outputs[0].share)


class BlockOutput(NamedTuple):
    """What a block makes, y (B, C', H', W'), and what its adaptor did."""

    y: Tensor
    adapted: AdaptorOutput


class DomainModel(nn.Module):
    """Image (B, 3, S, S) -> Output. Only adaptors, exits, bypasses and head have parameters; the backbone has buffers.

    ``may_close``: whether blocks may be closed for this domain, which are then never run; their bypasses, where they
    have any, stand in for them.
    """

    adaptors: MutableMapping[str, Adaptor]  # an nn.ModuleDict, by block index; see adaptor()
    exits: MutableMapping[str, Exit]  # an nn.ModuleDict, by the index of the block before, in order; see exit_behind()
    # Bypasses by block index, of closable blocks where adaptors are as wide as their input; an nn.ModuleDict. Its name
    # is the one that checkpoints and bundles store its tensors by.
    substitutes: MutableMapping[str, LowRankBypass]
    closed: Tensor  # bool (blocks,): blocks that are never run

    def __init__(
        self,
        backbone: Backbone,
        spec: AdaptorSpec,
        *,
        size: int,
        classes: int,
        may_close: bool,
        memory: MemorySettings = MemorySettings(),  # noqa: B008 (immutable)
        seed: int = 0,
    ):
        """``seed`` decides what adaptors and exits start from."""
        super().__init__()
        self.backbone, self.spec, self.size, self.memory = backbone, spec, size, memory
        self.may_close = may_close
        heights = backbone.heights(size)
        self.closable = tuple(g and i > spec.first for i, g in enumerate(backbone.gateable))
        self.adaptors = nn.ModuleDict()  # type: ignore[assignment]
        self.exits = nn.ModuleDict()  # type: ignore[assignment]
        self.substitutes = nn.ModuleDict()  # type: ignore[assignment]
        for i, block in list(enumerate(backbone.blocks))[spec.first :]:
            mid = max(8, min(block.in_channels, spec.mid))
            side = grid_side(heights[i + 1], spec.grid)
            adaptor = Adaptor(cin=block.in_channels, cout=block.out_channels, mid=mid, side=side, seed=seed, block=i)
            self.adaptors[str(i)] = adaptor
            # Elsewhere a bypass would be larger than the rest of a domain, or have an activation to see past.
            if self.closable[i] and mid == block.in_channels and block.activation is None:
                self.substitutes[str(i)] = LowRankBypass(adaptor).requires_grad_(may_close)
        for i in spec.exits:
            adaptor = self.adaptors[str(i + 1)]
            self.exits[str(i)] = Exit(adaptor, width=spec.exit_width, classes=classes, seed=seed, block=i)
        self.head = Head(backbone.feature_size, classes)
        self.register_buffer("closed", torch.zeros(len(backbone.blocks), dtype=torch.bool))

    @property
    def closed_blocks(self) -> tuple[int, ...]:
        """Blocks that are never run."""
        return tuple(self.closed.nonzero().flatten().tolist())

    def close(self, block: int) -> None:
        """Never run the block of this index again."""
        self.closed[block] = True

    @property
    def branch_share(self) -> list[float]:
        """By block: the share of the block FLOPs that is saved where it is closed."""
        shares: list[float] = saved_shares(self.block_records).tolist()
        return [share if closable else 0.0 for share, closable in zip(shares, self.closable, strict=True)]

    @property
    def answer_costs(self) -> list[float]:
        """Share of the block FLOPs that each answer takes: of each exit, then of the last one."""
        records, shut = self.block_records, self.closed_blocks
        total = sum(record.flops for record in records)
        run = [r.skip_flops if i in shut and r.skip_flops is not None else r.flops for i, r in enumerate(records)]
        done = list(accumulate(run))
        return [done[i] / total for i in [*self.spec.exits, -1]]

    @property
    def least_share(self) -> float:
        """The share of block FLOPs below which nothing goes: all that can be is closed, and all leave at once."""
        records = self.block_records
        first = [*self.spec.exits, len(records) - 1][0]
        left = sum(r.flops if r.skip_flops is None else r.skip_flops for r in records[: first + 1])
        return left / sum(record.flops for record in records)

    def adaptor(self, block: int) -> Adaptor | None:
        """That of the block of this index; None before the first."""
        return self.adaptors[str(block)] if block >= self.spec.first else None

    def bypass(self, block: int) -> LowRankBypass | None:
        """That of the block of this index; None where it has none."""
        return self.substitutes[str(block)] if str(block) in self.substitutes else None  # noqa: SIM401 (no get)

    def exit_behind(self, block: int) -> Exit | None:
        """The exit behind the block of this index; None where there is none."""
        return self.exits[str(block)] if str(block) in self.exits else None  # noqa: SIM401 (no get)

    def bypass_flops(self, block: int) -> int:
        """Operations that the bypass of this block costs an image where the block is closed."""
        bypass = self.bypass(block)
        return 0 if bypass is None else bypass.flops

    @cached_property
    def block_records(self) -> tuple[Block, ...]:
        """The backbone's blocks as a bundle's manifest has them."""
        flops = self.backbone.block_flops(self.size)
        return tuple(
            Block(b.name, f.branch + f.shortcut, f.shortcut + self.bypass_flops(i) if closable else None)
            for i, (b, f, closable) in enumerate(zip(self.backbone.blocks, flops, self.closable, strict=True))
        )

    @property
    def largest_trained_bytes(self) -> int:
        """Of the largest activation of one image from the first adaptor on."""
        return self._largest_bytes(self.spec.first)

    @cached_property
    def _untrained_slice_size(self) -> int:
        """Images to run at once through what keeps nothing for a backward pass."""
        room = PART_BYTES if self.closed.device.type == "cpu" else SLICE_BYTES["cuda"] // 2
        return max(1, room // self._largest_bytes(0, self.spec.first))

    def _largest_bytes(self, first: int, end: int | None = None) -> int:
        """Of the largest activation of one image in the blocks from ``first`` to before ``end``."""
        return self.backbone.largest_activation(self.size, first, end) * self.backbone.dtype.itemsize

    def forward(self, image: Tensor, values: dict[str, Tensor] | None = None) -> Output:
        """``values``, if given, receives every intermediate by its name in a bundle's plan (x0, a0, logits5, ...)."""

        def note(**found: Tensor) -> None:
            if values is not None:
                values.update(found)

        if values is None:
            slices = torch.split(image, self._untrained_slice_size)
            x = torch.cat([self.run_to_first_adaptor(images) for images in slices])
        else:
            x = self.run_to_first_adaptor(image, note)
        return self.run_from(self.spec.first, x, note=note)

    @property
    def seen_names(self) -> tuple[tuple[str, ...], str]:
        """What the classifier of each exit, and the last one, read, by the names in a bundle's plan."""
        return tuple(f"e{i}" for i in self.exits), "features"

    def seen(self, image: Tensor) -> dict[str, Tensor]:
        """Image (B, 3, S, S) -> the values called ``seen_names``, (B, F) each, and ``logits``; nothing else is kept."""
        early, last = self.seen_names
        kept = {*early, last, "logits"}
        values: dict[str, Tensor] = {}

        def note(**found: Tensor) -> None:
            values.update({name: value for name, value in found.items() if name in kept})

        x = torch.cat([self.run_to_first_adaptor(few) for few in torch.split(image, self._untrained_slice_size)])
        self.run_from(self.spec.first, x, note=note)
        return values

    def run_from(self, first: int, x: Tensor, exits: Sequence[Tensor] = (), note: Note = lambda **_: None) -> Output:
        """The rest of the network on the input x of block ``first``, which has an adaptor; the logits of the ``exits``
        before it are given."""
        answers, shut = list(exits), self.closed.tolist()
        for i in range(first, len(self.backbone.blocks)):
            x, adapted = self.run(i, x, run=not shut[i])
            note(**{f"a{i}": adapted.a, f"x{i + 1}": x})
            exit = self.exit_behind(i - 1)
            if exit is not None:
                seen = exit.features(adapted)
                answers.append(carried(exit.head(seen), answers[-1] if answers else None))
                note(**{f"e{i - 1}": seen, f"logits{i - 1}": answers[-1]})
            del adapted  # its p in full precision, before the next block needs room
        features = self.backbone.tail(x)
        part = CARRY if self.training else LAST_CARRY
        logits = carried(self.head(features), answers[-1] if answers else None, part)
        note(features=features, logits=logits)
        return Output(logits, tuple(answers), self.answer_costs[-1])

    def run(self, i: int, x: Tensor, *, run: bool) -> BlockOutput:
        """Block i with its adaptor on x (B, C, H, H), or what is done in its place."""
        x, adapted = self.adaptors[str(i)](x, self.memory.keep_precision)
        bypass = None if run else self.bypass(i)
        added = adapted.a if bypass is None else bypass(adapted)
        skip_path = self.memory.gradient == "skip-path"
        y = run_block(self.backbone.blocks[i], x, added, run=run, skip_path=skip_path)
        return BlockOutput(y, adapted)

    @torch.no_grad()
    def run_to_first_adaptor(self, image: Tensor, note: Note = lambda **_: None) -> Tensor:
        """Image (B, 3, S, S) -> what the first adaptor reads. Nothing on the way is trained, so nothing is saved."""
        x: Tensor = self.backbone.stem(image.to(self.backbone.dtype))
        note(image=image, x0=x)
        for i in range(self.spec.first):
            x = run_block(self.backbone.blocks[i], x)
            note(**{f"x{i + 1}": x})
        return x

    def fit_normalisation(self, batches: Batches, total: Total = own_total, each: Each = map) -> None:
        """Set the fixed statistics of adaptors, exits and head from the activations of the untrained network.

        ``each``: what computes a function of every image batch and gives the results in order, as ``map`` does.
        """
        self._fit_adaptors(batches, total, each)
        if self.exits:
            self._fit_exits(batches, total, each)

    def _fit_adaptors(self, batches: Batches, total: Total, each: Each) -> None:
        blocks = self.backbone.blocks
        widths = [*(b.in_channels for b in blocks), blocks[-1].out_channels, len(self.head.mean)]

        @torch.no_grad()
        def found_in(image: Tensor) -> Sums:
            found: Sums = {}
            x = self.backbone.stem(image.to(self.backbone.dtype))
            for i in range(len(blocks) + 1):
                adaptor = self.adaptor(min(i, len(blocks) - 1))
                if adaptor is not None:
                    found[i] = sums_of(cell_means(x, adaptor.side).flatten(0, 1))
                if i < len(blocks):
                    x = run_block(blocks[i], x)
            return found | {len(blocks) + 1: sums_of(self.backbone.tail(x))}

        found = fixed_statistics(dict(enumerate(widths)), each(found_in, batches()), total)
        for i in range(self.spec.first, len(blocks)):
            self.adaptors[str(i)].set_statistics(*found[i], out_scale=float(found[i + 1][1].median()))
        self.head.set_statistics(*found[len(blocks) + 1])

    def _fit_exits(self, batches: Batches, total: Total, each: Each) -> None:
        """After the adaptors, by whose statistics exits normalise what they read."""

        @torch.no_grad()
        def found_in(image: Tensor) -> Sums:
            found: Sums = {}
            x = self.run_to_first_adaptor(image)
            for i in range(self.spec.first, len(self.backbone.blocks)):
                exit = self.exit_behind(i - 1)
                if exit is not None:
                    found[i - 1] = sums_of(exit.compute(cell_means(x, exit.adaptor.side)))
                x = run_block(self.backbone.blocks[i], x)
            return found

        widths = dict.fromkeys(self.spec.exits, 2 * self.spec.exit_width)
        for i, features in fixed_statistics(widths, each(found_in, batches()), total).items():
            self.exits[str(i)].head.set_statistics(*features)

    def domain_tensors(self) -> dict[str, Tensor]:
        """Every tensor a bundle stores for this domain, by the plan's name (``adaptors.3.down``, ``head.bias``).

        Of bypasses, those of closed blocks.
        """
        tensors = {f"head.{k}": v for k, v in self.head.domain_tensors().items()}
        for i, adaptor in self.adaptors.items():
            tensors |= {f"adaptors.{i}.{k}": v for k, v in adaptor.domain_tensors().items()}
        for i, exit in self.exits.items():
            tensors |= {f"exits.{i}.{k}": v for k, v in exit.domain_tensors().items()}
        for block in self.closed_blocks:
            bypass = self.bypass(block)
            if bypass is not None:
                tensors |= {f"substitutes.{block}.{k}": v for k, v in bypass.domain_tensors().items()}
        return tensors

    def load_domain_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Become exactly the network that a bundle with these tensors holds. Which blocks are closed stays."""

        def below(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.head.load_domain_tensors(below("head."))
        for i, adaptor in self.adaptors.items():
            adaptor.load_domain_tensors(below(f"adaptors.{i}."))
        for i, exit in self.exits.items():
            exit.load_domain_tensors(below(f"exits.{i}."))
        for i, bypass in self.substitutes.items():
            found = below(f"substitutes.{i}.")
            if found:
                bypass.load_domain_tensors(found)
