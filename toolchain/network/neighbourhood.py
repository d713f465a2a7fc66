"""The cells of a grid with their neighbourhood's mean beside them, and the way back for gradients.

n = mean of z over 3 x 3 cells, those outside the grid left out
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def with_neighbours(z: Tensor, side: int) -> Tensor:
    """z (B, G*G, C), of ``side`` G -> [z, n] (B, G*G, 2 C)."""
    near = F.avg_pool2d(_image(z, side), 3, 1, 1, count_include_pad=False)
    return torch.cat([z, _rows(near)], 2)


def from_neighbours(d: Tensor, side: int) -> Tensor:
    """The transpose: (B, G*G, 2 C) -> (B, G*G, C)."""
    d_z, d_near = d.chunk(2, 2)
    cells = F.avg_pool2d(d.new_ones(1, 1, side, side), 3, 1, 1)  # in each mean, as a share of 9
    return _rows(F.avg_pool2d(_image(d_near, side) / cells, 3, 1, 1)).add_(d_z)


def _image(rows: Tensor, side: int) -> Tensor:
    return rows.view(len(rows), side, side, rows.shape[2]).permute(0, 3, 1, 2)


def _rows(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).flatten(1, 2)
