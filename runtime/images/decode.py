"""From a picture file to its pixels, with Pillow or, where there is none, with OpenCV."""

import io
import os
import sys
from typing import Any, Optional

import numpy as np

from ..errors import ImageError
from ..records import Array, Path
from ..system.regular import read_regular
from .header import MOST_PIXELS, Size, stored_size

_OPENCV_LIMIT = "IO_MAX_IMAGE_PIXELS"
_MOST_BYTES = 256 << 20  # of a file; what is stored without compression at the most pixels has fewer
_BAND = 1 << 22  # pixels that become an array at a time
# Of the formats that Pillow knows, those that are photos. For others it starts programs (EPS), or reads parts that
# lie in other places of the file.
_FORMATS = frozenset(["AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
_ORIENTATION = 0x0112  # of Exif


def decode(path: Path, at_least: Optional[int] = None) -> Array:
    """A picture file -> uint8 (H, W, 3) RGB, upright.

    at_least: the shorter side in pixels that the caller needs; a large JPEG may then come back smaller than
    it is stored, never below that, several times faster. Transparency is dropped, 16-bit and CMYK become
    8-bit RGB. Raises ImageError naming the file, for one of more than 67 million pixels too, which is not decoded.
    """
    path = os.fspath(path)
    try:
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ImageError("cannot read %s: %s" % (path, error.strerror or error))
    except MemoryError:
        raise _too_little_memory(path)
    return _decoded(path, data, at_least, True)


def decode_bytes(data: bytes, name: str, at_least: Optional[int] = None) -> Array:
    """What a picture file holds -> uint8 (H, W, 3) RGB, as `decode` does it. name: what errors call it."""
    if len(data) > _MOST_BYTES:
        raise ImageError("%s has %d bytes, more than the %d allowed" % (name, len(data), _MOST_BYTES))
    return _decoded(name, data, at_least, False)


def _decoded(path: str, data: bytes, at_least: Optional[int], is_file: bool) -> Array:
    """is_file: whether `path` is where the data was read from, and not merely what to call it."""
    if not data:
        raise ImageError("%s is empty (0 bytes)" % path)
    size = stored_size(data)
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise _too_many_pixels(path)
    try:
        return _decode_pillow(path, data, at_least)
    except ImportError:
        return _decode_cv2(path, data, at_least, size, is_file)
    except MemoryError:
        raise _too_little_memory(path)


def _decode_pillow(path: str, data: bytes, at_least: Optional[int]) -> Array:
    import logging

    import PIL.Image
    import PIL.ImageOps

    log = logging.getLogger("PIL")
    # Without one Python prints what Pillow logs of a damaged file, beside the error.
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    if not hasattr(PIL.ImageOps, "exif_transpose"):
        raise ImportError("Pillow is older than 6")
    try:
        # Filters of warnings are of the whole process, so none is set here: what Pillow only warns of is refused below.
        with PIL.Image.open(io.BytesIO(data)) as image:
            if image.size[0] * image.size[1] > min(MOST_PIXELS, PIL.Image.MAX_IMAGE_PIXELS or MOST_PIXELS):
                raise _too_many_pixels(path)
            if image.format not in _FORMATS:
                raise ImageError("%s is no photo, but a file of the format %s" % (path, image.format))
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            image.load()
            # `exif_transpose` makes a copy in any case.
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            return _pixels(PIL.ImageOps.exif_transpose(image) if turned else image)
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
        raise _too_many_pixels(path)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on a damaged file
        raise ImageError("%s is not a readable picture: %s" % (path, _first_line(error, path)))


def _pixels(image: Any) -> Array:
    """A picture of Pillow's -> uint8 (H, W, 3). Of a large one, which Pillow holds in up to 4 bytes a pixel, no second
    copy is made."""
    width, height = image.size
    rows = max(1, _BAND // width)
    if rows >= height:
        return np.array(_to_rgb(image))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(_to_rgb(image.crop((0, top, width, bottom))))
    return pixels


def _to_rgb(image: Any) -> Any:
    import PIL.Image

    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it to white
        grey = np.asarray(image)
        return PIL.Image.fromarray(np.clip(grey // 256, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _decode_cv2(path: str, data: bytes, at_least: Optional[int], size: Size, is_file: bool) -> Array:
    cv2 = _opencv(path)
    if size is None:  # OpenCV has no limit of its own where somebody loaded it before
        raise ImageError("%s is not a readable picture: unknown format" % path)
    # OpenCV fills the missing part of a truncated JPEG with grey and only prints a warning.
    cut = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9", len(data) // 2) < 0
    # A file is read again: imdecode knows no reduced sizes before OpenCV 4.2. Both apply the EXIF orientation.
    flags = getattr(cv2, "IMREAD_" + _reduced(data, size, at_least))
    try:
        if cut:
            image = None
        elif is_file:
            image = cv2.imread(path, flags)
        else:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if _OPENCV_LIMIT in str(error):
            raise _too_many_pixels(path)
        raise ImageError("%s is not a readable picture: %s" % (path, _first_line(error, path)))
    if image is None:
        raise ImageError("%s is not a readable picture%s" % (path, ": it is truncated" if cut else ""))
    return np.ascontiguousarray(image[:, :, ::-1])


def _reduced(data: bytes, size: Size, at_least: Optional[int]) -> str:
    """OpenCV's name for the size to decode a picture in: that of JPEG's own that Pillow's `draft` takes.

    Other formats are decoded whole: OpenCV would drop pixels of them.
    """
    if data[:2] == b"\xff\xd8" and size is not None and at_least is not None:
        for divisor in (8, 4, 2):
            if min(size) // at_least >= divisor:
                return "REDUCED_COLOR_%d" % divisor
    return "COLOR"


def _opencv(path: str) -> Any:
    os.environ.setdefault("OPENCV_" + _OPENCV_LIMIT, str(MOST_PIXELS))  # which OpenCV reads when it is loaded
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


def _too_little_memory(path: str) -> ImageError:
    return ImageError("there is not enough memory to decode %s: make it smaller first" % path)


def _too_many_pixels(path: str) -> ImageError:
    return ImageError("%s has too many pixels to be decoded safely; make it smaller first" % path)


def _first_line(error: BaseException, path: str) -> str:
    text = str(error).split("\n")[0] or type(error).__name__
    # Pillow quotes our in-memory buffer, which tells nobody anything.
    return "unknown format" if "cannot identify image file" in text else text
