"""Which blocks a domain can do without: what closing each gate costs, and bypasses fitted before one is closed.

All of it is forward passes of the network as it would be deployed (``Gating.hard()``), without gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from da3.runtime.schedule import opens
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.network.adaptor import OPEN_LOGIT
from da3.toolchain.network.bypass import Fit
from da3.toolchain.network.model import DomainModel


def open_blocks(model: DomainModel) -> list[int]:
    """Gateable blocks whose gate is open by its bias."""
    gates = {i: model.adaptor(i - 1) for i, gateable in enumerate(model.gateable) if gateable}
    biases = {i: a.gate_bias for i, a in gates.items() if a is not None and a.gate_bias is not None}
    return [i for i, bias in biases.items() if opens(bias, model.theta)]


@torch.no_grad()
def close_gate(model: DomainModel, block: int) -> None:
    """Reset the gate of ``block`` to one that is closed for every image."""
    adaptor = model.adaptor(block - 1)
    assert adaptor is not None and adaptor.gate is not None and adaptor.gate_bias is not None
    adaptor.gate.zero_()
    adaptor.gate_bias.fill_(-OPEN_LOGIT)


@torch.no_grad()
def fit_bypasses(model: DomainModel, batches: Iterable[Tensor]) -> None:
    """Fit the bypasses of ``open_blocks`` to what their blocks do now, on images (B, 3, S, S)."""
    wanted = {i: model.bypass(i) for i in open_blocks(model)}
    fits = {i: Fit(bypass) for i, bypass in wanted.items() if bypass is not None}
    for image in batches:
        x, logit = model.run_to_first_adaptor(image), None
        for i in range(model.spec.first, len(model.backbone.blocks)):
            before = x
            x, _, logit = model.run(i, x, _gate(model, logit))
            if i in fits:
                block, side = model.backbone.blocks[i], fits[i].bypass.side
                branch = run_block(block, before) - run_block(block, before, gate=before.new_zeros(len(before)))
                fits[i].add(cell_means(before, side), cell_means(branch, side))
    for fit in fits.values():
        fit.solve()


@torch.no_grad()
def gate_costs(model: DomainModel, batches: Iterable[tuple[Tensor, Tensor]], blocks: list[int]) -> dict[int, float]:
    """How much the mean loss on images (B, 3, S, S) and labels (B,) rises when one of ``blocks`` is closed for all."""
    count, costs = 0, dict.fromkeys(blocks, 0.0)

    def loss_from(first: int, x: Tensor, logit: Tensor | None, labels: Tensor) -> float:
        for i in range(first, len(model.backbone.blocks)):
            x, _, logit = model.run(i, x, _gate(model, logit))
        logits = model.head(model.backbone.tail(x))
        return float(F.cross_entropy(logits, labels, reduction="sum"))

    for image, labels in batches:
        x, logit = model.run_to_first_adaptor(image), None
        without: dict[int, float] = {}
        for i in range(model.spec.first, len(model.backbone.blocks)):
            if i in costs:
                skipped = model.run(i, x, x.new_zeros(len(x)))
                without[i] = loss_from(i + 1, skipped.y, skipped.logit, labels)
            x, _, logit = model.run(i, x, _gate(model, logit))
        loss = loss_from(len(model.backbone.blocks), x, logit, labels)
        for i, value in without.items():
            costs[i] += value - loss
        count += len(labels)
    return {i: cost / count for i, cost in costs.items()}


def _gate(model: DomainModel, logit: Tensor | None) -> Tensor | None:
    return None if logit is None else model.decide(logit, None)
