"""The fixed statistics that adaptors, exits and head normalise by, from what each batch of photos adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from da3.toolchain.network.totals import Total

# By a name of what was seen: the sums of its channels and of their squares, float64 (2, C), over so many values each.
Sums = dict[int, tuple[Tensor, int]]
# What computes a function of each of several batches, and gives the results in their order: ``map``, or better.
Each = Callable[[Callable[[Tensor], Sums], Iterable[Tensor]], Iterable[Sums]]


def sums_of(values: Tensor) -> tuple[Tensor, int]:
    """Values (N, C) -> their sums and those of their squares, float64 (2, C), and N."""
    values = values.double().cpu()
    return torch.stack([values.sum(0), values.square().sum(0)]), len(values)


def fixed_statistics(widths: dict[int, int], found: Iterable[Sums], total: Total) -> dict[int, tuple[Tensor, Tensor]]:
    """Mean and deviation of ``widths`` channels each, from the sums that were found in each batch, added in order."""
    sums = {i: torch.zeros(2, width, dtype=torch.float64) for i, width in widths.items()}
    counts = dict.fromkeys(widths, 0)
    for batch in found:
        for i, (own, count) in batch.items():
            sums[i] += own
            counts[i] += count
    *sums_of_all, numbers = total([*sums.values(), torch.tensor([*counts.values()], dtype=torch.float64)])
    return {i: statistics(*(own / n)) for i, own, n in zip(widths, sums_of_all, numbers.tolist(), strict=True) if n}


def statistics(mean: Tensor, mean_square: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) to normalise by.

    A channel that hardly varies on the training photos would be blown up by whatever moves it later: its deviation
    is taken as no less than 5 % of the typical channel's, and 2 % of the layer's root mean square.
    """
    std = (mean_square - mean.square()).clamp_min(0).sqrt()
    floor = max(0.05 * float(std.median()), 0.02 * float(mean_square.mean().sqrt()), 1e-6)
    return mean, std.clamp_min(floor)
