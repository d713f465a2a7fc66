"""The fixed statistics of a domain, measured once, before its first step, on what the untrained network computes."""

import math
from typing import Callable, Dict, Iterable, Iterator, List, Tuple

import numpy as np

from ..records import Array
from .parameters import Parameters

Outputs = Dict[str, Array]  # of `derive_observation`, by name
Observe = Callable[[Array, Dict[str, Array]], Outputs]  # images, domain tensors -> outputs
Exits = Callable[[int, Array, Dict[str, Array]], Array]  # see ExitFeatures
Images = Callable[[], Iterable[Array]]  # float32 (B, 3, S, S), the same ones at every call

MOST_KEPT = 48 << 20  # bytes, less than a training step takes later
_TOGETHER = 16  # images whose exits are computed at once


def fit_normalisation(parameters: Parameters, observe: Observe, exits: Exits, images: Images) -> None:
    """Set what adaptors, exits and head normalise by.

    Exits come after the adaptors, by whose statistics they normalise what they read. What they read of every image is
    kept until then; where that would take more than MOST_KEPT, the images are looked at once more.
    """
    tensors = parameters.fold()
    blocks = sorted(parameters.adaptors)
    names = ["p%d" % i for i in blocks + [blocks[-1] + 1]] + ["features"]
    moments = {name: _Moments() for name in names}
    cells = _Cells([i + 1 for i in parameters.exits])
    for batch in images():
        found = observe(batch, tensors)
        for name, held in moments.items():
            held.add(found[name])
        cells.add(found, len(batch))
    measured = {name: held.normalisers() for name, held in moments.items()}
    for i in blocks:
        (mean, std), (_, out) = measured["p%d" % i], measured["p%d" % (i + 1)]
        scale = np.float32(_lower_median(out))
        parameters.adaptors[i].statistics = {"mean": mean, "std": std, "out_scale": np.array(scale)}
    mean, std = measured["features"]
    parameters.head.statistics = {"mean": mean, "std": std}
    if parameters.exits:
        again = cells.batches() if cells.whole else _seen_again(cells.blocks, observe, images, tensors)
        _fit_exits(parameters, exits, again)


def _fit_exits(parameters: Parameters, exits: Exits, cells: Iterable[Dict[int, Array]]) -> None:
    tensors = parameters.fold()
    moments = {i: _Moments() for i in parameters.exits}
    for few in cells:
        for i, held in moments.items():
            held.add(exits(i, few[i + 1], tensors))
    for i, held in moments.items():
        mean, std = held.normalisers()
        parameters.exit_heads[i].statistics = {"mean": mean, "std": std}


def _seen_again(
    blocks: List[int], observe: Observe, images: Images, tensors: Dict[str, Array]
) -> Iterator[Dict[int, Array]]:
    for batch in images():
        cells = _Cells(blocks)
        cells.add(observe(batch, tensors), len(batch))
        for few in cells.batches():
            yield few


class _Cells:
    """The cells that the adaptors of some blocks read, by block, of every image so far; none once they would be more
    than MOST_KEPT, which `whole` says."""

    def __init__(self, blocks: List[int]) -> None:
        self.blocks = blocks
        self.whole = True
        self._kept: List[Dict[int, Array]] = []  # of _TOGETHER images each
        self._few: List[Dict[int, Array]] = []  # of images that are not that many yet
        self._bytes = 0

    def add(self, found: Outputs, images: int) -> None:
        """found: rows (images G G, C) by "p<block>"."""
        if not self.whole:
            return
        rows = {i: found["p%d" % i] for i in self.blocks}
        self._bytes += sum(array.nbytes for array in rows.values())
        if self._bytes > MOST_KEPT and (self._kept or self._few):
            self._kept, self._few, self.whole = [], [], False
            return
        self._few.append({i: array.reshape(images, -1, array.shape[1]) for i, array in rows.items()})
        if sum(len(one[self.blocks[0]]) for one in self._few) >= _TOGETHER:
            self._put_together()

    def _put_together(self) -> None:
        """Copy what was added last. An engine's outputs lie in its own memory, which it does not hand back to the
        system; a large copy is the system's again when it is freed."""
        if self._few:
            self._kept.append({i: np.concatenate([one[i] for one in self._few]) for i in self.blocks})
            self._few = []

    def batches(self) -> Iterator[Dict[int, Array]]:
        """The cells (B, C, G, G) of a few images at a time."""
        self._put_together()
        for few in self._kept:
            yield {i: _as_images(few[i]) for i in self.blocks}


def _as_images(rows: Array) -> Array:
    """(B, G G, C) -> (B, C, G, G)."""
    count, cells, channels = rows.shape
    side = round(math.sqrt(cells))
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(count, channels, side, side)


class _Moments:
    """Sums of rows (N, C) and of their squares, float64."""

    def __init__(self) -> None:
        self.sum = self.squares = np.float64(0)
        self.count = 0

    def add(self, rows: Array) -> None:
        wide = rows.astype(np.float64)
        self.sum = self.sum + wide.sum(axis=0)
        self.squares = self.squares + np.square(wide).sum(axis=0)
        self.count += len(rows)

    def normalisers(self) -> Tuple[Array, Array]:
        return normalisers(self.sum / self.count, self.squares / self.count)


def normalisers(mean: Array, mean_square: Array) -> Tuple[Array, Array]:
    """Mean and standard deviation, float32 (C,), to normalise by; both given are float64.

    A channel that hardly varies on the training photos would be blown up by whatever moves it later: its deviation
    is taken as no less than 5 % of the typical channel's, and 2 % of the layer's root mean square.
    """
    std = np.sqrt(np.maximum(mean_square - np.square(mean), 0))
    floor = max(0.05 * _lower_median(std), 0.02 * float(np.sqrt(mean_square.mean())), 1e-6)
    return mean.astype(np.float32), np.maximum(std, floor).astype(np.float32)


def _lower_median(values: Array) -> float:
    """The middle one, the lower of two."""
    return float(np.sort(values)[(len(values) - 1) // 2])
