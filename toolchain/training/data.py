"""Folders of labelled photos: found, split, checked, decoded in threads and augmented, the same for the same seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from da3.runtime.errors import ImageError
from da3.runtime.images.decode import decode
from da3.runtime.images.paths import list_labelled
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.system.machine import usable_cpus
from da3.toolchain.errors import DataError

Photo = tuple[str, int]  # path, label

# Random crops keep at least this share of the area (torchvision's 0.08 is meant for a million photos, not hundreds).
LEAST_AREA = 0.4
JITTER = 0.2


@dataclass(frozen=True)
class PhotoSet:
    """Labelled photos: ``train`` and ``val`` as (path, label), ``classes`` by label, ``unreadable`` (path, why)."""

    classes: tuple[str, ...]
    train: tuple[Photo, ...]
    val: tuple[Photo, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


def find_photos(folder: str | Path, seed: int, val_share: float = 0.2) -> PhotoSet:
    """List ``folder``: ``train/`` and ``val/`` with a folder per class, or one folder per class, split by ``seed``.

    Raises DataError for a missing or unreadable folder, an empty class, fewer than two classes, or a class in
    ``val/`` that ``train/`` lacks.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"photo folder {root} {what}: pass --data FOLDER with one subfolder per class")
    if (root / "train").is_dir():
        classes, train = _labelled(root / "train")
        if not (root / "val").is_dir():
            raise DataError(f"{root} has train/ but no val/: add it, or pass --data {root / 'train'} to split that")
        _, val = _labelled(root / "val", classes)
        return PhotoSet(tuple(classes), tuple(train), tuple(val))
    classes, photos = _labelled(root)
    return _split(tuple(classes), photos, seed, val_share)


def _labelled(folder: Path, classes: list[str] | None = None) -> tuple[list[str], list[Photo]]:
    try:
        names, photos = list_labelled(str(folder), classes)
    except (ImageError, OSError) as error:
        raise DataError(str(error)) from error
    if len(names) < 2:
        raise DataError(f"{folder} has one class only ({names[0]}): a classifier needs two or more subfolders")
    return names, photos


def _split(classes: tuple[str, ...], photos: list[Photo], seed: int, val_share: float) -> PhotoSet:
    train: list[Photo] = []
    val: list[Photo] = []
    rng = np.random.default_rng([seed, 1])
    for label, name in enumerate(classes):
        mine = [p for p in photos if p[1] == label]
        if len(mine) < 2:
            raise DataError(f"class {name} has one photo only: at least two are needed, one of them to validate on")
        held_out = max(1, round(val_share * len(mine)))
        order = rng.permutation(len(mine))
        val += [mine[i] for i in sorted(order[:held_out])]
        train += [mine[i] for i in sorted(order[held_out:])]
    return PhotoSet(classes, tuple(train), tuple(val))


def drop_unreadable(
    photos: PhotoSet,
    size: int,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PhotoSet:
    """Decode every photo once; leave out those that cannot be, and say which. Raises DataError if a class empties."""
    every = [*photos.train, *photos.val]

    def problem(photo: Photo) -> str | None:
        try:
            decode(photo[0], at_least=size)
        except ImageError as error:
            return str(error)
        return None

    bad: dict[str, str] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, ((path, _), reason) in enumerate(zip(every, pool.map(problem, every), strict=True), 1):
            if reason is not None:
                bad[path] = reason
            on_progress(done, len(every))
    train = tuple(p for p in photos.train if p[0] not in bad)
    val = tuple(p for p in photos.val if p[0] not in bad)
    left = {label for _, label in train}
    for label, name in enumerate(photos.classes):
        if label not in left:
            raise DataError(f"class {name}: none of its training photos can be read ({next(iter(bad.values()))})")
    if not val:
        raise DataError("none of the validation photos can be read")
    return PhotoSet(photos.classes, train, val, tuple(bad.items()))


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop, horizontal flip (unless ``flip`` is off), brightness, contrast and saturation."""

    flip: bool = True

    def __call__(self, photo: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (size, size, 3)."""
        height, width = photo.shape[:2]
        box = _random_box(width, height, rng)
        image = Image.fromarray(photo).resize((size, size), Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(image, dtype=np.float32)
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3).astype(np.float32)
        pixels = pixels * brightness
        mean = pixels.mean()
        pixels = (pixels - mean) * contrast + mean
        grey = pixels.mean(2, keepdims=True)
        pixels = (pixels - grey) * saturation + grey
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A crop of LEAST_AREA to all of the area, sides 3:4 to 4:3 (Szegedy et al. 2015's sampling)."""
    for _ in range(10):
        area = width * height * rng.uniform(LEAST_AREA, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = float(np.sqrt(area * ratio)), float(np.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return (left, top, left + w, top + h)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


class Loader:
    """Photos -> batches of pixels, decoded ``workers`` threads ahead of the training step.

    Threads, not processes: Pillow decodes outside Python's lock, and a board has no memory for a process per worker.
    A photo's augmentation depends on (seed, epoch, its index) alone, so any step of any epoch can be made again.
    """

    def __init__(self, photos: Sequence[Photo], preprocessing: Preprocessing, batch_size: int, workers: int):
        self.photos, self.preprocessing, self.batch_size = photos, preprocessing, batch_size
        self.workers = max(1, workers)

    def steps(self) -> int:
        """Whole batches in one epoch: what is left over comes in another epoch's order. At least one."""
        return max(1, len(self.photos) // self.batch_size)

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every photo in order, resized and centre-cropped as at inference: uint8 (B, S, S, 3), int64 (B,)."""
        yield from self._batches(np.arange(len(self.photos)), self._plain)

    def training(
        self, augmentation: Augmentation, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch ``epoch`` in its own random order, from step ``first_step`` on."""
        order = np.random.default_rng([seed, 2, epoch]).permutation(len(self.photos))

        def make(index: int) -> np.ndarray:
            photo = decode(self.photos[index][0], at_least=round(self.preprocessing.size / LEAST_AREA**0.5))
            rng = np.random.default_rng([seed, 3, epoch, index])
            return augmentation(photo, self.preprocessing.size, rng)

        whole = self.steps() * self.batch_size
        yield from self._batches(order[:whole][first_step * self.batch_size :], make)

    def sample(self, count: int, seed: int) -> np.ndarray:
        """``count`` photos (fewer if there are not so many), as at inference: uint8 (N, S, S, 3)."""
        return np.concatenate(list(self.samples(count, seed, count)))

    def samples(self, count: int, seed: int, size: int) -> Iterator[np.ndarray]:
        """The same photos, ``size`` at a time."""
        order = np.sort(np.random.default_rng([seed, 4]).permutation(len(self.photos))[:count])
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(order), size):
                yield np.stack(list(pool.map(self._plain, order[start : start + size])))

    def _plain(self, index: int) -> np.ndarray:
        return self.preprocessing.load(self.photos[index][0])

    def _batches(self, order: np.ndarray, make: Callable[[int], np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.batch_size
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        ahead = 1 + -(-2 * self.workers // size)  # batches in flight: enough to keep every worker busy
        pool = ThreadPoolExecutor(self.workers)
        waiting: deque[tuple[np.ndarray, list[Future[np.ndarray]]]] = deque()
        try:
            for k in range(len(batches)):
                while len(waiting) <= ahead and k + len(waiting) < len(batches):
                    later = batches[k + len(waiting)]
                    waiting.append((later, [pool.submit(make, int(i)) for i in later]))
                indices, futures = waiting.popleft()
                pixels = np.stack([f.result() for f in futures])
                labels = torch.tensor([self.photos[i][1] for i in indices])
                yield torch.from_numpy(pixels), labels
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """One decoding thread per core this process may use, four at most."""
    return min(4, usable_cpus())
