"""Which blocks a domain can do without: what closing each one costs, and bypasses fitted before one is closed.

All of it is forward passes of the network as it would be deployed, without gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.network.bypass import Fit
from da3.toolchain.network.loss import answers_loss
from da3.toolchain.network.model import DomainModel, Output
from da3.toolchain.network.totals import Total, own_total


def open_blocks(model: DomainModel) -> list[int]:
    """Blocks that may be closed and are not."""
    shut = model.closed_blocks
    return [i for i, closable in enumerate(model.closable) if closable and i not in shut]


@torch.no_grad()
def fit_bypasses(model: DomainModel, batches: Iterable[Tensor], total: Total = own_total) -> None:
    """Fit the bypasses of ``open_blocks`` to what their blocks do now, on images (B, 3, S, S), this process's part."""
    wanted = {i: model.bypass(i) for i in open_blocks(model)}
    fits = {i: Fit(bypass) for i, bypass in wanted.items() if bypass is not None}
    shut = model.closed_blocks
    for image in batches:
        x = model.run_to_first_adaptor(image)
        for i, block in list(enumerate(model.backbone.blocks))[model.spec.first :]:
            if i in fits:
                branch = run_block(block, x) - run_block(block, x, run=False)
                side = fits[i].bypass.side
                fits[i].add(cell_means(x, side), cell_means(branch, side))
            x = model.run(i, x, run=i not in shut).y
    for fit in fits.values():
        fit.solve(total)


@torch.no_grad()
def closing_costs(
    model: DomainModel, batches: Iterable[tuple[Tensor, Tensor]], blocks: list[int], total: Total = own_total
) -> dict[int, float]:
    """How much the mean loss on images (B, 3, S, S) and labels (B,), this process's part, rises when one of ``blocks``
    is closed."""
    count, costs, shut = 0, dict.fromkeys(blocks, 0.0), model.closed_blocks

    def loss(output: Output, labels: Tensor) -> float:
        return float(answers_loss(output.logits, output.exits, labels, 0.0))

    for image, labels in batches:
        x, passed = model.run_to_first_adaptor(image), list[Tensor]()
        without: dict[int, float] = {}
        for i in range(model.spec.first, len(model.backbone.blocks)):
            y, adapted = model.run(i, x, run=i not in shut)
            exit = model.exit_behind(i - 1)
            if exit is not None:
                passed.append(exit(adapted, passed[-1] if passed else None))
            if i in costs:
                without[i] = loss(model.run_from(i + 1, model.run(i, x, run=False).y, passed), labels)
            x = y
        now = loss(model.run_from(len(model.backbone.blocks), x, passed), labels)
        for i, value in without.items():
            costs[i] += value - now
        count += len(labels)
    found, number = total([torch.tensor(sums, dtype=torch.float64) for sums in ([costs[i] for i in blocks], count)])
    return dict(zip(blocks, (found / number).tolist(), strict=True))
