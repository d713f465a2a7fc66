"""Where activations let their inputs through, as little as it takes to remember, and gradients with that applied."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from da3.runtime.records import Array
from da3.toolchain.autograd.kernels import SIX

# Numbers that are looked at in one go on a CPU: what is made of them on the way is then still in a core's cache.
CHUNK = 2**17  # a multiple of 8


class Mask:
    """Where an activation let its input through, at 1 bit an element."""

    def __init__(self, y: Tensor, activation: str):
        """``y`` (B, C, H, W): the activation's output, of any floating type. ``activation``: "relu" or "relu6"."""
        rows = y.permute(0, 2, 3, 1).contiguous()
        self.shape = rows.shape  # (B, H, W, C), as channels-last images lie in memory
        self.bits: Array | Tensor
        if y.device.type == "cpu":
            self.bits = _packed(rows, activation)
        else:
            self.bits = pack(rows > 0 if activation == "relu" else (rows > 0) & (rows < SIX))

    def on_(self, grad: Tensor) -> Tensor:
        """``grad`` (B, C, H, W) with zeros where nothing passed; in place where it is channels-last."""
        rows = grad.permute(0, 2, 3, 1).contiguous()
        if isinstance(self.bits, np.ndarray):
            _apply(self.bits, rows)
        else:
            rows.mul_(unpack(self.bits, self.shape.numel()).view(self.shape))
        return rows.permute(0, 3, 1, 2)


class CellMask:
    """Where an activation let its input through, as the share of each of G x G cells: 8 bits a cell and channel.

    An approximation of ``Mask``, smaller where a cell has more than 8 elements: a gradient becomes its mean over each
    cell times that share.
    """

    def __init__(self, y: Tensor, activation: str, side: int):
        """As ``Mask``, with ``side`` cells a side."""
        self.factor = y.shape[-1] // side
        passed = y > 0 if activation == "relu" else (y > 0) & (y < SIX)
        self.share = F.avg_pool2d(passed.to(y.dtype), self.factor).mul_(255).round_().to(torch.uint8)

    def on_(self, grad: Tensor) -> Tensor:
        """As ``Mask.on_``."""
        means = F.avg_pool2d(grad, self.factor).mul_(self.share.to(grad.dtype)).div_(255)
        cells(grad, self.factor).copy_(cells(means, 1))
        return grad


def _packed(rows: Tensor, activation: str) -> Array:
    """Where the activation whose output ``rows`` is, on a CPU and contiguous, let its input through: uint8, 8 to each,
    the first in the highest bit."""
    kind, six = _INTEGERS[rows.dtype]
    # Positive floats are integers of equal order. Less 1, and read without a sign, a zero is the largest of all.
    numbers = rows.view(kind).numpy().reshape(-1)
    unsigned = numbers.view(f"u{numbers.itemsize}")
    one = unsigned.dtype.type(1)
    bits = np.empty(-(-len(numbers) // 8), np.uint8)
    for i in range(0, len(numbers), CHUNK):
        end = i + CHUNK
        passed = numbers[i:end] > 0 if activation == "relu" else unsigned[i:end] - one < six - 1
        bits[i // 8 : end // 8] = np.packbits(passed)
    return bits


def _apply(bits: Array, rows: Tensor) -> None:
    """Zero ``rows``, on a CPU and contiguous, where ``_packed``'s bits are 0."""
    # A number's bits times 0 or 1; PyTorch would first write the mask out at the number's size.
    numbers = rows.view(_INTEGERS[rows.dtype][0]).numpy().reshape(-1)
    for i in range(0, len(numbers), CHUNK):
        some = numbers[i : i + CHUNK]
        np.multiply(some, np.unpackbits(bits[i // 8 : (i + CHUNK) // 8], count=len(some)), out=some)


def cells(x: Tensor, factor: int) -> Tensor:
    """x (B, C, G*k, G*k), channels-last, as a view (B, G, k, G, k, C) with k = ``factor``."""
    side = x.shape[-1] // factor
    return x.permute(0, 2, 3, 1).view(len(x), side, factor, side, factor, x.shape[1])


def pack(passed: Tensor) -> Tensor:
    """Booleans of any shape -> uint8 of an eighth of their number, the first in the highest bit: numpy's packbits."""
    flat = F.pad(passed.reshape(-1).to(torch.uint8), (0, -passed.numel() % 8)).view(-1, 8)
    return (flat * _powers(passed.device)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, count: int) -> Tensor:
    """The first ``count`` of ``pack``'s booleans, flat."""
    return (bits[:, None] & _powers(bits.device)).ne(0).view(-1)[:count]


_INTEGERS = {  # by floating type: the integer type of its size, and 6.0 seen as one
    torch.float64: (torch.int64, int(np.float64(SIX).view(np.int64))),
    torch.float32: (torch.int32, int(np.float32(SIX).view(np.int32))),
    torch.bfloat16: (torch.int16, int(np.float32(SIX).view(np.int32)) >> 16),
}


@cache
def _powers(device: torch.device) -> Tensor:
    return torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
