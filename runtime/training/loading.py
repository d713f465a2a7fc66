"""Photos as batches of pixels, decoded in threads ahead of the training step, the same for the same seed."""

from typing import Callable, Generator, Iterator, NamedTuple, Sequence

import numpy as np

from ..images.decode import decode
from ..images.preprocess import Preprocessing
from ..records import Array
from ..system.ahead import default_workers, done_ahead
from .augmentation import Augmentation, least_side
from .group import ALONE, Group
from .photos import Photo
from .randomness import AUGMENTATION, ORDER, stream

__all__ = ["Batch", "Batches", "Loader", "default_workers"]


class Batch(NamedTuple):
    """This process's part of a batch. pixels: uint8 (B, S, S, 3). labels: int64 (B,). whole: how many all parts
    have; with more processes than that, B may be 0."""

    pixels: Array
    labels: Array
    whole: int


Batches = Generator[Batch, None, None]


class Loader:
    """Photos -> batches of pixels, decoded `workers` threads ahead of the training step.

    A photo's augmentation depends on (seed, epoch, its index) alone, so any step of any epoch can be made again,
    and each process of the group makes its part of every batch.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        preprocessing: Preprocessing,
        batch_size: int,
        workers: int,
        group: Group = ALONE,
    ) -> None:
        self.photos, self.preprocessing, self.batch_size = photos, preprocessing, batch_size
        self.workers, self.group = max(1, workers), group

    def steps(self) -> int:
        """Whole batches in one epoch: what is left over comes in another epoch's order. At least one."""
        return max(1, len(self.photos) // self.batch_size)

    def evaluation(self) -> Batches:
        """Every photo in order, resized and centre-cropped as at inference."""
        return self._batches(np.arange(len(self.photos)), self._plain)

    def training(self, augmentation: Augmentation, seed: int, epoch: int, first_step: int = 0) -> Batches:
        """Epoch `epoch` in its own random order, from step `first_step` on."""
        order = stream(seed, ORDER, epoch).permutation(len(self.photos))

        def make(index: int) -> Array:
            photo = decode(self.photos[index][0], at_least=least_side(self.preprocessing.size))
            return augmentation(photo, self.preprocessing.size, stream(seed, AUGMENTATION, epoch, index))

        whole = self.steps() * self.batch_size
        return self._batches(order[:whole][first_step * self.batch_size :], make)

    def sample(self, count: int, seed: int, purpose: int) -> Array:
        """`count` photos (fewer if there are not so many), as at inference: uint8 (N, S, S, 3). All, not a part."""
        order = self._drawn(count, seed, purpose)
        return np.concatenate(list(self._stacks(order, count)))

    def samples(self, count: int, seed: int, purpose: int, size: int) -> Iterator[Array]:
        """This process's part of the same photos, `size` at a time."""
        order = self._drawn(count, seed, purpose)
        return self._stacks(order[self.group.part(len(order))], size)

    def _drawn(self, count: int, seed: int, purpose: int) -> Array:
        drawn: Array = np.sort(stream(seed, purpose).permutation(len(self.photos))[:count])
        return drawn

    def _stacks(self, order: Array, size: int) -> Iterator[Array]:
        made = self._ahead(order, self._plain, size)
        try:
            for start in range(0, len(order), size):
                yield np.stack([next(made) for _ in order[start : start + size]])
        finally:
            made.close()

    def _plain(self, index: int) -> Array:
        return self.preprocessing.load(self.photos[index][0])

    def _batches(self, order: Array, make: Callable[[int], Array]) -> Batches:
        size, side = self.batch_size, self.preprocessing.size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        parts = [batch[self.group.part(len(batch))] for batch in batches]
        most = max([1] + [len(indices) for indices in parts])
        made = self._ahead(np.concatenate([order[:0]] + parts), make, most)
        try:
            for batch, indices in zip(batches, parts):
                pixels = np.empty((len(indices), side, side, 3), dtype=np.uint8)
                for row in range(len(indices)):
                    pixels[row] = next(made)
                labels = np.array([self.photos[i][1] for i in indices], dtype=np.int64)
                yield Batch(pixels, labels, len(batch))
                del pixels
        finally:
            made.close()

    def _ahead(self, order: Array, make: Callable[[int], Array], size: int) -> Generator[Array, None, None]:
        """The pixels of each photo in order, made ahead of the batch of `size` that is taken."""
        return done_ahead(make, [int(index) for index in order], self.workers, size)
