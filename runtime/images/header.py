"""How large a picture is, from its header alone: what decoding it would take is known before it is begun."""

import re
import struct
from typing import Callable, Dict, Optional, Tuple

from .jpeg import jpeg_size

Size = Optional[Tuple[int, int]]

# Photos of 61 megapixels are the largest of cameras that fit into a hand. Decoding takes up to 8 bytes a pixel, and
# more for a progressive JPEG.
MOST_PIXELS = 1 << 26


def stored_size(data: bytes) -> Size:
    """The height and width of a JPEG, PNG, GIF, BMP, WebP, TIFF, PPM or PGM, as it is stored; None for any other file,
    and where the header does not say."""
    for start, read in _READERS.items():
        if data.startswith(start):
            try:
                size = read(data)
            except (struct.error, ValueError, LookupError):
                return None
            return size if size is not None and min(size) > 0 else None
    return None


def _png(data: bytes) -> Size:
    """W3C Portable Network Graphics (3rd edition), 11.2.1: IHDR is the first chunk."""
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _gif(data: bytes) -> Size:
    """GIF89a specification, 18: the logical screen."""
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _bmp(data: bytes) -> Size:
    """BITMAPCOREHEADER or BITMAPINFOHEADER; the height of one that is stored from the top is negative."""
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _webp(data: bytes) -> Size:
    """RFC 9649: VP8X has the canvas, VP8L and VP8 the picture itself."""
    kind = data[8:16]
    if kind == b"WEBPVP8X":
        sizes = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (27, 24))
    elif kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        sizes = (n + 1 for n in (bits >> 14 & 0x3FFF, bits & 0x3FFF))
    elif kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        sizes = (n & 0x3FFF for n in (height, width))
    else:
        return None
    height, width = sizes
    return height, width


def _tiff(data: bytes) -> Size:
    """TIFF 6.0, section 2: entries 256 and 257 of the first directory, which are SHORT (3) or LONG (4)."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    found: Dict[int, int] = {}
    for number in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * number)
        if tag in (256, 257) and kind in (3, 4):
            found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 10 + 12 * number)[0]
    return found[257], found[256]


_NETPBM = rb"^P[1-6](?:\s|#[^\n]*\n)+([0-9]{1,9})(?:\s|#[^\n]*\n)+([0-9]{1,9})\s"


def _netpbm(data: bytes) -> Size:
    found = re.match(_NETPBM, data[:4096])
    return None if found is None else (int(found.group(2)), int(found.group(1)))


_READERS: Dict[bytes, Callable[[bytes], Size]] = {
    b"\xff\xd8": jpeg_size,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
}
_READERS.update((b"P%d" % kind, _netpbm) for kind in range(1, 7))
