"""From a picture to the network's input, the same way in training, calibration and on the device."""

from typing import NamedTuple, Tuple

import numpy as np

from ..errors import ImageError
from ..records import Array, Path
from .decode import decode, decode_bytes
from .resize import resize_bilinear, resize_window

# A picture is resized to so many pixels as a whole; of a longer strip nothing is computed but what is cropped.
_MOST_PIXELS = 1 << 24


class Preprocessing(NamedTuple):
    """How a backbone wants its pictures: see docs/bundle.md. size is in pixels, mean and std are on the 0..1 scale."""

    size: int
    crop: float
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]

    @property
    def side(self) -> int:
        """The shorter side in pixels after resizing, before the crop."""
        return max(self.size, round_half_up(self.size / self.crop))

    def resize_and_crop(self, image: Array) -> Array:
        """uint8 (H, W, 3) -> uint8 (size, size, 3): shorter side to `side`, then the centre."""
        check_rgb(image)
        height, width = image.shape[:2]
        scale = self.side / float(min(height, width))
        if scale != 1.0:
            height, width = (max(self.size, round_half_up(n * scale)) for n in (height, width))
            if height * width > _MOST_PIXELS:
                return resize_window(
                    image, height, width, (height - self.size) // 2, (width - self.size) // 2, self.size
                )
            image = resize_bilinear(image, height, width)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return np.ascontiguousarray(image[top : top + self.size, left : left + self.size])

    def normalise(self, images: Array) -> Array:
        """uint8 (B, size, size, 3) -> float32 (B, 3, size, size), C-contiguous."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (self.size, self.size, 3):
            raise ImageError(
                "expected uint8 images of shape (B, %d, %d, 3), not %s %s"
                % (self.size, self.size, images.dtype, images.shape)
            )
        out = np.empty((images.shape[0], 3, self.size, self.size), dtype=np.float32)
        for channel in range(3):
            plane = out[:, channel]
            np.divide(images[..., channel], np.float32(255), out=plane)
            plane -= np.float32(self.mean[channel])
            plane /= np.float32(self.std[channel])
        return out

    def load(self, path: Path) -> Array:
        """A picture file -> uint8 (size, size, 3), ready for `normalise`."""
        # JPEG's own scaling does the first halvings of a large photo; ours does the last one, which is visible, so it
        # gets twice the side.
        return self.resize_and_crop(decode(path, at_least=2 * self.side))

    def load_bytes(self, data: bytes, name: str) -> Array:
        """What a picture file holds -> what `load` gives of that file. name: what errors call it."""
        return self.resize_and_crop(decode_bytes(data, name, at_least=2 * self.side))


def round_half_up(value: float) -> int:
    """Nearest integer, halves up (Python's round takes them to the even one)."""
    return int(value + 0.5)


def check_rgb(image: Array) -> None:
    """Raise ImageError unless `image` is uint8 (H, W, 3) with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            "expected a uint8 image of shape (H, W, 3), not %s %s; convert it to 8-bit RGB" % (image.dtype, image.shape)
        )
