"""Pictures with their answers written on them, drawn by Pillow or, where there is none, by OpenCV."""

import io
import os
from typing import Any, List, Tuple

import numpy as np

from ..errors import ImageError
from ..images.decode import decode
from ..images.resize import resize_bilinear
from ..records import Array, Prediction
from ..system.atomic import replace_file

SHORTER_SIDE = 720  # pixels: a large JPEG is decoded no larger than this needs, as looking at it does not
_LEAST_WIDTH = 320  # a smaller picture is enlarged, by whole numbers, so that the words fit
_TEXT = 24  # the height of a line is a 24th of the picture's height, and at least _LEAST_LINE pixels
_LEAST_LINE = 16
_GREEN, _AMBER = (46, 204, 113), (255, 176, 0)
_TALL = "|Agy"  # its height is that of every line, so that letters have one size
_QUALITY = 90
_LONGEST_SIDE = 60000  # pixels; a JPEG has 65,535 at most, and the band takes some
SURE = 0.6  # answers below are marked in amber, if nothing else is asked for


def write_annotated(source: str, target: str, prediction: Prediction, sure: float = SURE) -> None:
    """Write the picture at `source`, upright, to `target` (JPEG): above it a band with the label, its probability, and
    what ran. sure: a probability below which the band is marked in amber, as it is for an unknown one, else in green.

    Raises ImageError if the picture cannot be read or no image library is installed, OSError if it cannot be written.
    """
    image = decode(source, at_least=SHORTER_SIDE)
    if max(image.shape) > _LONGEST_SIDE:
        raise ImageError("%s is too long to write on: it has %d x %d pixels" % (source, image.shape[1], image.shape[0]))
    data = _jpeg(annotated(image, prediction, sure))
    replace_file(os.fspath(target), lambda file: file.write(data))


def annotated(image: Array, prediction: Prediction, sure: float = SURE, blue_first: bool = False) -> Array:
    """uint8 (H, W, 3) -> uint8 (larger H, at least 320, 3) with that band. blue_first: in both, as OpenCV's are."""
    colour = _AMBER if prediction.probability < sure or prediction.known is False else _GREEN
    return draw(enlarged(image), words(prediction), colour[::-1] if blue_first else colour)


def words(prediction: Prediction) -> List[str]:
    """The two lines on a picture."""
    total = prediction.blocks_run + prediction.blocks_skipped
    where = "" if prediction.exit is None else ", left at exit %d" % (prediction.exit + 1)
    answer = "%s %.1f %%" % (_plain(prediction.label), 100 * prediction.probability)
    return [
        "unknown (closest: %s)" % answer if prediction.known is False else answer,
        "%d of %d blocks%s" % (prediction.blocks_run, total, where),
    ]


def draw(image: Array, lines: List[str], colour: Tuple[int, int, int]) -> Array:
    """uint8 (H, W, 3) -> uint8 (H + band, W, 3): the lines in a dark band above the picture, of which nothing is
    covered, beside a bar of the colour (red, green, blue)."""
    height, width = image.shape[:2]
    line = max(_LEAST_LINE, min(height, 2 * width) // _TEXT)  # of a very tall picture the width counts
    margin = line // 2
    band = np.full((line * (len(lines) * 3 + 1) // 2, width, 3), 24, np.uint8)
    band[:, : max(4, margin // 2)] = colour
    for number, text in enumerate(lines):
        _write(band, text, margin * 2, margin // 2 + number * line * 3 // 2, line)
    return np.concatenate([band, image])


def enlarged(image: Array) -> Array:
    """uint8 (H, W, 3), repeated to a width that words fit in."""
    times = min(-(-_LEAST_WIDTH // image.shape[1]), _LONGEST_SIDE // max(image.shape))
    return image if times <= 1 else np.repeat(np.repeat(image, times, axis=0), times, axis=1)


def _write(band: Array, text: str, left: int, top: int, height: int) -> None:
    """White letters of `height` pixels onto the band, in place, cut where it ends."""
    try:
        mask = _letters_pillow(text)
    except ImportError:
        mask = _letters_cv2(text)
    width = max(1, int(mask.shape[1] * height / float(mask.shape[0])))
    letters = resize_bilinear(np.repeat(mask[:, :, None], 3, axis=2), height, width)
    part = band[top : top + height, left : left + width]
    part[:] = np.maximum(part, letters[: part.shape[0], : part.shape[1]])


def _letters_pillow(text: str) -> Array:
    """uint8 (H, W): the text, white on black, in the font that Pillow brings."""
    from PIL import Image, ImageDraw, ImageFont

    try:
        font: Any = ImageFont.load_default(64)  # Pillow from 10.1 on: any size
    except TypeError:
        font = ImageFont.load_default()
    pad = ImageDraw.Draw(Image.new("L", (1, 1)))
    canvas = Image.new("L", (_extent(pad, text, font)[0] + 2, _extent(pad, _TALL, font)[1] + 2))
    ImageDraw.Draw(canvas).text((1, 1), text, fill=255, font=font)
    return np.asarray(canvas)


def _extent(canvas: Any, text: str, font: Any) -> Tuple[int, int]:
    """Width and height of the text; how Pillow tells them has changed."""
    if hasattr(canvas, "textbbox"):
        try:
            box = canvas.textbbox((0, 0), text, font=font)
            return int(box[2]) + 1, int(box[3]) + 1
        except ValueError:  # an old Pillow measures only TrueType so
            pass
    width, height = font.getsize(text)
    return int(width), int(height)


def _letters_cv2(text: str) -> Array:
    try:
        import cv2
    except ImportError:
        raise ImageError("cannot draw on pictures without an image library: pip install 'pillow>=6'")
    text = text.encode("ascii", "backslashreplace").decode("ascii")  # the letters that OpenCV's fonts had before 5
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.5, 3)
    (_, height), below = cv2.getTextSize(_TALL, cv2.FONT_HERSHEY_SIMPLEX, 1.5, 3)
    canvas = np.zeros((height + below + 6, width + 6), np.uint8)
    cv2.putText(canvas, text, (3, height + 3), cv2.FONT_HERSHEY_SIMPLEX, 1.5, 255, 3, cv2.LINE_AA)
    return canvas


def _jpeg(image: Array) -> bytes:
    try:
        from PIL import Image

        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "JPEG", quality=_QUALITY)
        return packed.getvalue()
    except ImportError:
        import cv2

        done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not done:
            raise ImageError("OpenCV cannot write a JPEG: pip install 'pillow>=6'")
        return bytes(data.tobytes())


def _plain(text: str) -> str:
    """Latin letters as they are, others as escapes: neither library's font has more, and an old Pillow's raises."""
    return "".join(c if c.isprintable() else "?" for c in text).encode("latin-1", "backslashreplace").decode("latin-1")
