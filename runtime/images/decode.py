"""From a picture file to its pixels, with Pillow or, where there is none, with OpenCV."""

import io
import os
import sys
import warnings
from typing import Any, Optional

import numpy as np

from ..errors import ImageError
from ..records import Array, Path
from .jpeg import jpeg_size

_OPENCV_LIMIT = "IO_MAX_IMAGE_PIXELS"
_MOST_PIXELS = 89478485  # beyond which Pillow warns; OpenCV's own limit is twelve times as much, 3 GB in memory


def decode(path: Path, at_least: Optional[int] = None) -> Array:
    """A picture file -> uint8 (H, W, 3) RGB, upright.

    at_least: the shorter side in pixels that the caller needs; a large JPEG may then come back smaller than
    it is stored, never below that, several times faster. Transparency is dropped, 16-bit and CMYK become
    8-bit RGB. Raises ImageError naming the file.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError("cannot read %s: %s" % (path, error.strerror or error))
    if not data:
        raise ImageError("%s is empty (0 bytes)" % path)
    try:
        return _decode_pillow(path, data, at_least)
    except ImportError:
        return _decode_cv2(path, data, at_least)


def _decode_pillow(path: str, data: bytes, at_least: Optional[int]) -> Array:
    import PIL.Image
    import PIL.ImageOps

    if not hasattr(PIL.ImageOps, "exif_transpose"):
        raise ImportError("Pillow is older than 6")
    try:
        with warnings.catch_warnings():
            # A picture that large on a small board is an accident or an attack, not an input.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(data)) as image:
                if at_least is not None:
                    image.draft("RGB", (at_least, at_least))
                return np.array(_to_rgb(PIL.ImageOps.exif_transpose(image) or image))
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
        raise _too_many_pixels(path)
    except Exception as error:  # Pillow's plugins raise almost anything on a damaged file
        raise ImageError("%s is not a readable picture: %s" % (path, _first_line(error, path)))


def _to_rgb(image: Any) -> Any:
    import PIL.Image

    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it to white
        grey = np.asarray(image)
        return PIL.Image.fromarray(np.clip(grey // 256, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _decode_cv2(path: str, data: bytes, at_least: Optional[int]) -> Array:
    cv2 = _opencv(path)
    # OpenCV fills the missing part of a truncated JPEG with grey and only prints a warning.
    cut = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9", len(data) // 2) < 0
    # The file is read again: imdecode knows no reduced sizes before OpenCV 4.2. It applies the EXIF orientation.
    try:
        image = None if cut else cv2.imread(path, getattr(cv2, "IMREAD_" + _reduced(data, at_least)))
    except cv2.error as error:
        if _OPENCV_LIMIT in str(error):
            raise _too_many_pixels(path)
        raise ImageError("%s is not a readable picture: %s" % (path, _first_line(error, path)))
    if image is None:
        raise ImageError("%s is not a readable picture%s" % (path, ": it is truncated" if cut else ""))
    return np.ascontiguousarray(image[:, :, ::-1])


def _reduced(data: bytes, at_least: Optional[int]) -> str:
    """OpenCV's name for the size to decode a picture in: that of JPEG's own that Pillow's `draft` takes.

    Other formats are decoded whole: OpenCV would drop pixels of them.
    """
    size = jpeg_size(data)
    if size is not None and at_least is not None:
        for divisor in (8, 4, 2):
            if min(size) // at_least >= divisor:
                return "REDUCED_COLOR_%d" % divisor
    return "COLOR"


def _opencv(path: str) -> Any:
    os.environ.setdefault("OPENCV_" + _OPENCV_LIMIT, str(_MOST_PIXELS))  # which OpenCV reads when it is loaded
    try:
        import cv2
    except ImportError as error:
        if getattr(error, "name", None) == "cv2" or "cv2" in sys.modules:  # None there: it must not be imported
            raise ImageError("cannot decode %s without an image library: pip install 'pillow>=6'" % path)
        reason = _first_line(error, path)
        way_out = "pip install 'pillow>=6'"
        if "static TLS block" in reason:  # see system/openmp.py; this is another library than the one held there
            way_out = "start with LD_PRELOAD=%s python3 ..." % reason.split(":")[0]
        raise ImageError("cannot decode %s: OpenCV does not load (%s): %s" % (path, reason, way_out))
    return cv2


def _too_many_pixels(path: str) -> ImageError:
    return ImageError("%s has too many pixels to be decoded safely; make it smaller first" % path)


def _first_line(error: BaseException, path: str) -> str:
    text = str(error).split("\n")[0] or type(error).__name__
    # Pillow quotes our in-memory buffer, which tells nobody anything.
    return "unknown format" if "cannot identify image file" in text else text
