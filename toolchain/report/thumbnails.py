"""Photos as small pictures within a page: few, small, and never a reason to fail."""

from __future__ import annotations

import base64
import io
import os

from da3.runtime.errors import ImageError
from da3.runtime.images import decode

SIDE = 160  # pixels: twice what a page shows them with, for dense screens
_QUALITY = 78
_LARGEST = 64 * 2**20  # bytes of a file that is looked at
_FLATTEST = 8  # how many times one side may be the other: a panorama is cut to that


class Thumbnails:
    """Makes data URIs of photos in ``folder``; what cannot be shown is counted in ``missing``, with a first ``reason``.

    A record may name any file: what is no ordinary file, or very large, is not opened.
    """

    def __init__(self, folder: str | None):
        self.folder = folder
        self.missing = 0
        self.reason = ""
        self._made: dict[str, tuple[str, int, int] | None] = {}

    def make(self, name: str) -> tuple[str, int, int] | None:
        """Data URI, width and height in pixels of a photo by its path from ``folder``; None if there is none."""
        if name not in self._made:
            self._made[name] = self._of(name)
        return self._made[name]

    def _of(self, name: str) -> tuple[str, int, int] | None:
        if self.folder is None:
            return None
        try:
            path = os.path.join(self.folder, name)
            if not os.path.isfile(path):
                raise ImageError(f"there is no photo at {path}")
            if os.path.getsize(path) > _LARGEST:
                raise ImageError(f"{path} is larger than {_LARGEST // 2**20} MiB")
            return _small(path)
        except (ImageError, OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            self.missing += 1
            self.reason = self.reason or str(error)
            return None


def _small(path: str) -> tuple[str, int, int]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageError("small pictures need Pillow: pip install 'da3[report]'") from error

    picture = Image.fromarray(decode(path, at_least=SIDE))
    width, height = picture.size
    wide, high = min(width, _FLATTEST * height), min(height, _FLATTEST * width)
    left, top = (width - wide) // 2, (height - high) // 2
    picture = picture.crop((left, top, left + wide, top + high))
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}", *picture.size
