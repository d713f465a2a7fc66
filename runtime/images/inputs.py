"""From paths or arrays to preprocessed batches: what `Runtime.run` takes and what the command line reads."""

import os
import time
from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import ImageError
from ..records import Array, Path
from .header import MOST_PIXELS
from .npy import NpyFile
from .paths import ARRAY_SUFFIX, expand
from .preprocess import Preprocessing

Images = Union[Path, Array, Sequence[Path], Sequence[Array]]
OnUnreadable = Callable[[str, ImageError], None]


class Input(NamedTuple):
    """One image as the network takes it.

    name: its path, with [index] behind it for an image of a .npy file; pixels: float32 (3, size, size); seconds: what
    reading and preprocessing it took.
    """

    name: str
    pixels: Array
    seconds: float


class Batch(NamedTuple):
    """Some inputs stacked: names and seconds have one entry each; images is float32 (B, 3, size, size)."""

    names: List[str]
    images: Array
    seconds: List[float]


def batches(images: Images, prep: Preprocessing, batch_size: int) -> Iterator[Array]:
    """Paths, uint8 pictures or preprocessed float32 -> float32 (at most batch_size, 3, size, size), in order.

    A .npy file may hold what an array may be. Raises ImageError for the first image that cannot be read.
    """
    if isinstance(images, np.ndarray):
        return _slices(images, prep, batch_size)
    return (batch.images for batch in in_batches(read_inputs(_listed(images), prep), batch_size))


def read_inputs(
    items: Iterable[Union[str, Array]], prep: Preprocessing, on_unreadable: Optional[OnUnreadable] = None
) -> Iterator[Input]:
    """Files and uint8 (H, W, 3) pictures -> inputs, in order; a .npy file gives as many as it holds.

    on_unreadable: called with the name and the error of a file that cannot be read, which is then left out; without it
    that ImageError is raised.
    """
    for item in items:
        found = _named(item, prep)
        while True:
            start = time.perf_counter()
            try:
                name, pixels = next(found)
            except StopIteration:
                break
            except ImageError as error:
                if on_unreadable is None or not isinstance(item, str):
                    raise
                on_unreadable(item, error)
                break
            yield Input(name, pixels, time.perf_counter() - start)


def in_batches(inputs: Iterable[Input], batch_size: int) -> Iterator[Batch]:
    """Inputs -> batches of batch_size of them, in order; the last one may be smaller."""
    _check(batch_size)
    waiting: List[Input] = []
    for item in inputs:
        waiting.append(item)
        if len(waiting) == batch_size:
            yield _stacked(waiting)
            waiting = []
    if waiting:
        yield _stacked(waiting)


def as_batch(images: Array, size: int) -> Array:
    """float32 or float64 (B, 3, size, size) or (3, size, size) -> float32 (B, 3, size, size), C-contiguous."""
    if not isinstance(images, np.ndarray) or images.dtype not in (np.float32, np.float64):
        raise ImageError("expected float32 images of shape (B, 3, %d, %d)" % (size, size))
    if images.ndim == 3:
        images = images[None]
    if images.shape[1:] != (3, size, size) or images.shape[0] == 0:
        raise ImageError("expected float32 images of shape (B, 3, %d, %d), not %s" % (size, size, images.shape))
    return np.ascontiguousarray(images, dtype=np.float32)


def _named(item: Union[str, Array], prep: Preprocessing) -> Iterator[Tuple[str, Array]]:
    """(name, float32 (3, size, size)) of the picture, or of every one in a .npy file."""
    if not isinstance(item, str):
        yield "array", _preprocessed(item[None], prep)[0]
    elif item.endswith(ARRAY_SUFFIX):
        for index, image in enumerate(_stored_images(item, prep)):
            yield "%s[%d]" % (item, index), image
    else:
        try:
            yield item, prep.normalise(prep.load(item)[None])[0]
        except MemoryError:
            raise ImageError("there is not enough memory to decode %s: make it smaller first" % item)


def _stored_images(path: str, prep: Preprocessing) -> Iterator[Array]:
    """float32 (3, size, size) of each image of a .npy file, of which one is in memory at a time."""
    file = NpyFile(path)
    shape = (1,) + file.shape if file.ndim == 3 else file.shape
    if len(shape) != 4 or shape[0] == 0:
        raise ImageError("%s: %s" % (path, _no_images(file.shape)))
    if file.dtype == np.uint8 and shape[1] * shape[2] > MOST_PIXELS:
        raise ImageError("%s: images of %d x %d pixels have too many to be resized safely" % ((path,) + shape[1:3]))
    if file.dtype != np.uint8 and shape[1:] != (3, prep.size, prep.size):
        raise ImageError("%s: %s" % (path, _no_images(file.shape)))
    for index in range(shape[0]):
        image = file.whole()[None] if file.ndim == 3 else file[index : index + 1]
        try:
            yield _preprocessed(image, prep)[0]
        except ImageError as error:
            raise ImageError("%s: %s" % (path, error))


def _no_images(shape: Tuple[int, ...]) -> str:
    return "expected images of shape (B, H, W, 3) or (B, 3, size, size), not %s" % (shape,)


def _slices(images: Array, prep: Preprocessing, batch_size: int) -> Iterator[Array]:
    """The batches of one array: (B, H, W, 3) uint8 or (B, 3, size, size) floating point, or one image of these."""
    _check(batch_size)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[0] == 0:
        raise ImageError(_no_images(images.shape))
    for start in range(0, len(images), batch_size):
        yield _preprocessed(images[start : start + batch_size], prep)


def _preprocessed(images: Array, prep: Preprocessing) -> Array:
    """uint8 pictures or preprocessed floating point -> float32 (B, 3, size, size)."""
    if images.dtype != np.uint8:
        return as_batch(images, prep.size)
    return prep.normalise(np.stack([prep.resize_and_crop(image) for image in images]))


def _stacked(inputs: List[Input]) -> Batch:
    # One picture is not copied: numpy lets go of Python's lock for that, and then waits for the threads that decode.
    pixels = inputs[0].pixels[None] if len(inputs) == 1 else np.stack([i.pixels for i in inputs])
    return Batch([i.name for i in inputs], pixels, [i.seconds for i in inputs])


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise ImageError("batch_size must be at least 1, not %d" % batch_size)


def _listed(images: Union[Path, Sequence[Path], Sequence[Array]]) -> List[Union[str, Array]]:
    """Paths, each one expanded, and pictures as they are."""
    if isinstance(images, (str, os.PathLike)):
        return list(expand([images]))
    items: List[Union[str, Array]] = []
    for item in images:
        if isinstance(item, np.ndarray):
            items.append(item)
        else:
            items.extend(expand([item]))
    if not items:
        raise ImageError("no images: the list is empty")
    return items
