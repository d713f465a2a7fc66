"""A bypass fitted to what its block does, by reduced-rank ridge regression; see toolchain/network/bypass.py."""

import numpy as np

from ..records import Array
from .parts import BYPASS_STEP, Bypass

RIDGE = 0.03  # of a normalised channel's variance


class BypassFit:
    """The regression of one bypass: sums over batches, then its maps. Holds (2 C + 1)^2 numbers."""

    def __init__(self, bypass: Bypass) -> None:
        self.bypass = bypass
        wide, cout = bypass.parameters["down"].shape[1] + 1, len(bypass.parameters["up_bias"])
        self._inner, self._outer = np.zeros((wide, wide)), np.zeros((wide, cout))
        self._count = 0

    def add(self, p: Array, y: Array) -> None:
        """p (B G G, C): the cells that the adaptor reads. y (B, C', G, G): the means of the block's output, whose
        shortcut is its input."""
        side = y.shape[2]
        branch = y.transpose(0, 2, 3, 1).reshape(len(p), -1) - p - self._adapted(p)
        z = ((p - self.bypass.adaptor.mean) / self.bypass.adaptor.std).reshape(-1, side, side, p.shape[1])
        u = np.concatenate([z, neighbourhood_means(z), np.ones_like(z[..., :1])], axis=3)
        rows = u.reshape(len(p), -1).astype(np.float64)
        self._inner += rows.T.dot(rows)
        self._outer += rows.T.dot(branch.astype(np.float64))
        self._count += len(rows)

    def _adapted(self, p: Array) -> Array:
        """What the adaptor adds."""
        own = self.bypass.adaptor.fold()
        hidden = np.maximum(p.dot(own["down"].T) + own["down_bias"], 0)
        added: Array = hidden.dot(own["up"].T) + own["up_bias"]
        return added

    def solve(self) -> None:
        """Give the bypass the best maps of its rank for what was added."""
        penalty = np.full(len(self._inner), RIDGE * self._count)
        penalty[-1] = 0  # none on the bias
        full = np.linalg.solve(self._inner + np.diag(penalty), self._outer)  # (2 C + 1, C')
        mean = self._inner[-1].dot(full) / self._count  # of the full solution's predictions; the last feature is 1
        spread = full.T.dot(self._inner).dot(full) / self._count - np.outer(mean, mean)
        own = self.bypass.parameters
        leading = np.linalg.eigh(spread)[1][:, -len(own["down"]) :]  # (C', r), orthonormal
        bias = mean + leading.dot(leading.T.dot(full[-1] - mean))
        # Scaled like this, W_u's entries are about 1 / sqrt(C') in units of s, and W_d's are of like size.
        size = float(self.bypass.adaptor.scale)
        own["down"][...] = leading.T.dot(full[:-1].T) / size / BYPASS_STEP
        own["up"][...] = leading / BYPASS_STEP
        own["up_bias"][...] = bias / (BYPASS_STEP * size)


def neighbourhood_means(z: Array) -> Array:
    """(B, G, G, C) -> the same: the mean over 3 x 3 cells, those outside left out."""
    side = z.shape[1]
    total = np.zeros_like(z)
    count = np.zeros((side, side, 1), z.dtype)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            to, at = (tuple(slice(max(0, s * d), side + min(0, s * d)) for d in (down, right)) for s in (-1, 1))
            total[(slice(None),) + to] += z[(slice(None),) + at]
            count[to] += 1
    means: Array = total / count
    return means
